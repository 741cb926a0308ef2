// The listening end of a unix stream socket whose path belongs to one living process: beside it stands `<path>.lock`,
// held by flock as SPDK holds it, so a socket file that a dead process left is replaced and a living one is not. Owned
// by the server; any thread, one at a time.
#pragma once

#include <string>

#include "base/result.h"

namespace diskengine::rpc {

class Listener {
 public:
  static constexpr int kBacklog = 64;

  // Errc::busy if another process serves `path`; Errc::already_exists if something that is no socket stands there.
  static Result<Listener> open(const std::string& path);
  Listener(Listener&& other) noexcept;
  Listener& operator=(Listener&&) = delete;
  // Removes the socket and the lock.
  ~Listener();

  int fd() const noexcept { return fd_; }
  const std::string& path() const noexcept { return path_; }

 private:
  Listener() = default;
  Result<void> lock();
  Result<void> bind_socket();

  std::string path_;
  int fd_ = -1;
  int lock_fd_ = -1;
};

}  // namespace diskengine::rpc
