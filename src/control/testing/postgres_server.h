// A private PostgreSQL server for tests: its own data directory below /tmp, only a unix socket, no password. Started as
// the user `postgres` where the test runs as root, since the server refuses to be root. Ended with the object, and with
// the test program if that dies.
//
// One thread.
#pragma once

#include <sys/types.h>

#include <string>

namespace diskengine::control {

class PostgresServer {
 public:
  // Makes the data directory (initdb, about two seconds) and starts the server. Aborts the program where that fails.
  PostgresServer();
  ~PostgresServer();

  // The one that all tests of a program share.
  static PostgresServer& shared();

  void start();
  // SIGKILL to the server and all its children, as when the machine loses power.
  void kill();
  // Ends it at once, but itself: its children are gone when this returns.
  void stop();
  // Every table is gone.
  void clear();

  std::string conninfo() const { return conninfo_at(directory_); }
  // Through a socket in another directory: a proxy's.
  static std::string conninfo_at(const std::string& socket_directory);
  static std::string socket_in(const std::string& socket_directory);
  const std::string& socket_directory() const { return directory_; }

 private:
  pid_t spawn(const std::string& program, const std::string& arguments);

  std::string directory_;
  std::string programs_;
  pid_t pid_ = 0;
};

}  // namespace diskengine::control
