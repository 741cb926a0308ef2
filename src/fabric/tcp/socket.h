// Sockets as the NVMe/TCP transport wants them: numeric addresses, nonblocking, no delay, large fixed buffers. Any
// thread.
#pragma once

#include <sys/socket.h>

#include <cstdint>
#include <string>
#include <utility>

#include "base/result.h"

namespace diskengine::fabric::tcp {

// Closes its descriptor.
class UniqueFd {
 public:
  UniqueFd() = default;
  explicit UniqueFd(int fd) noexcept : fd_(fd) {}
  UniqueFd(UniqueFd&& other) noexcept : fd_(std::exchange(other.fd_, -1)) {}
  UniqueFd& operator=(UniqueFd&& other) noexcept {
    std::swap(fd_, other.fd_);
    return *this;
  }
  ~UniqueFd() { reset(); }

  int get() const noexcept { return fd_; }
  int release() noexcept { return std::exchange(fd_, -1); }
  void reset() noexcept;
  explicit operator bool() const noexcept { return fd_ >= 0; }

 private:
  int fd_ = -1;
};

struct SocketAddress {
  sockaddr_storage storage{};
  socklen_t length = 0;

  bool is_ipv6() const noexcept { return storage.ss_family == AF_INET6; }
  std::string host() const;  // numeric
  uint16_t port() const noexcept;
  std::string to_string() const;  // "127.0.0.1:4420", "[::1]:4420"
  // A numeric IPv4 or IPv6 address and a port number in text.
  static Result<SocketAddress> parse(const std::string& host, const std::string& port);
};

// What the kernel granted, which may be less than was asked for.
struct SocketBuffers {
  int send_bytes = 0;
  int receive_bytes = 0;
  bool fixed = false;  // false: left to the kernel's autotuning, because a large fixed size was refused
};

// Bytes of socket buffer in each direction. Fixed large buffers keep throughput at depth steady; a stock kernel caps
// SO_RCVBUF at 208 KiB and stops autotuning then, so a capped size is not set at all.
inline constexpr int kSocketBufferBytes = 2 * 1024 * 1024;

// A listening socket, nonblocking. Buffers are set before listen(), so accepted sockets inherit them.
Result<UniqueFd> listen_on(const SocketAddress& address, int backlog);
// A nonblocking socket with connect() begun: writable once connected or failed (then socket_error() says why).
Result<UniqueFd> begin_connect(const SocketAddress& to, const SocketAddress* from = nullptr);
// Settings of an accepted socket that are not inherited.
Result<void> tune_accepted(int fd);
// The pending error of a socket (SO_ERROR), 0 if none.
int socket_error(int fd) noexcept;
Result<SocketAddress> local_address(int fd);
Result<SocketAddress> peer_address(int fd);
SocketBuffers socket_buffers(int fd) noexcept;

}  // namespace diskengine::fabric::tcp
