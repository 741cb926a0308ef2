// A blocking stream over a unix socket in which every wait has a deadline. One thread at a time; the object owns the
// descriptor. The peer is not trusted: what it sends is only bytes here.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

#include "base/result.h"

namespace diskengine::client {

// A point in monotonic time by which something must have happened.
class Deadline {
 public:
  static Deadline after_ms(int64_t ms);
  // Milliseconds left, never negative.
  int remaining_ms() const;

 private:
  explicit Deadline(int64_t at_ms) : at_ms_(at_ms) {}
  int64_t at_ms_;
};

class UnixStream {
 public:
  // Fails with `unreachable` when nobody listens there, `invalid_argument` when the path is too long for a socket.
  static Result<UnixStream> connect(const std::string& path, Deadline deadline);
  // Takes over a connected descriptor, which it closes.
  static UnixStream adopt(int fd);

  UnixStream(UnixStream&& other) noexcept;
  UnixStream& operator=(UnixStream&& other) noexcept;
  ~UnixStream();

  Result<void> write_all(std::string_view bytes, Deadline deadline);
  // At least one byte, or 0 at the peer's orderly end. `timed_out` at the deadline.
  Result<size_t> read_some(char* buffer, size_t capacity, Deadline deadline);
  // True when the peer has hung up, as far as this end can tell without waiting.
  bool peer_closed() const noexcept;
  void close() noexcept;
  bool is_open() const noexcept { return fd_ >= 0; }

 private:
  explicit UnixStream(int fd) : fd_(fd) {}
  int fd_ = -1;
};

// A listening unix socket with mode 0600. A socket file that nobody answers on is replaced; a living one is an error.
class UnixListener {
 public:
  static Result<UnixListener> listen(const std::string& path);

  UnixListener(UnixListener&& other) noexcept;
  UnixListener& operator=(UnixListener&&) = delete;
  // Closes the socket and removes its file.
  ~UnixListener();

  // Waits at most `timeout_ms` for a connection; `timed_out` when none came.
  Result<UnixStream> accept(int timeout_ms);

 private:
  UnixListener(int fd, std::string path) : fd_(fd), path_(std::move(path)) {}
  int fd_ = -1;
  std::string path_;
};

}  // namespace diskengine::client
