// A proxy between a PostgreSQL client and its server that cuts the session at COMMIT, before or after the server gets
// it. Its socket lies in its own directory under the name that libpq expects.
//
// Threads of its own carry the bytes; every public function may be called from the test's thread.
#pragma once

#include <atomic>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "client/unix_socket.h"

namespace diskengine::control {

enum class Cut {
  nothing,
  before_commit,  // the server never sees the next COMMIT
  after_commit,   // the server does it, its answer is lost
};

class CommitCutter {
 public:
  // `directory` exists; `server_socket` is where the server listens.
  CommitCutter(const std::string& directory, std::string server_socket);
  ~CommitCutter();

  // Once; then it carries everything again. With `and_stay_away` new sessions are refused until let_in().
  void cut(Cut what, bool and_stay_away = false);
  void let_in() { is_away_ = false; }
  int cuts() const { return cuts_; }

 private:
  struct Session;
  void serve();
  void carry_to_server(Session& session);
  void carry_to_client(Session& session);

  std::string server_socket_;
  client::UnixListener listener_;
  std::atomic<Cut> next_{Cut::nothing};
  std::atomic<bool> stays_away_{false};
  std::atomic<bool> is_away_{false};
  std::atomic<int> cuts_{0};
  std::atomic<bool> stopping_{false};
  std::thread thread_;
};

}  // namespace diskengine::control
