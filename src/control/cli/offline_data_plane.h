// A diskengine-io that lives as long as one command, for work on a disk that no running data plane has: the formats
// stay where they belong, and what is checked is checked by the code that serves. It examines no device on its own, so
// nothing is written that the command does not ask for.
//
// Blocking; one thread; owns the process, its socket and their directory, which end with it.
#pragma once

#include <sys/types.h>

#include <memory>
#include <string>

#include "base/result.h"
#include "client/jsonrpc.h"
#include "control/environment.h"

namespace diskengine::control::cli {

class OfflineDataPlane {
 public:
  // Starts the diskengine-io that lies beside this program, or else the one in PATH, and waits until it answers, at
  // most 10 s. Errc::not_found: there is none; unreachable: it ended or does not answer, with what it said.
  static Result<std::unique_ptr<OfflineDataPlane>> start(Environment& environment);
  ~OfflineDataPlane();

  // For calls of any length.
  client::JsonRpcClient& rpc() noexcept { return *rpc_; }

 private:
  explicit OfflineDataPlane(Environment& environment) : environment_(environment) {}
  Result<void> spawn_process();
  Result<void> wait_until_it_answers();
  bool has_ended();
  std::string last_words() const;
  std::string path(const char* name) const { return directory_ + "/" + name; }

  Environment& environment_;
  std::string directory_;
  pid_t process_ = -1;
  std::unique_ptr<client::JsonRpcClient> rpc_;
};

}  // namespace diskengine::control::cli
