#include "client/unix_socket.h"

#include <fcntl.h>
#include <poll.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cstring>

namespace diskengine::client {
namespace {

constexpr int kListenBacklog = 64;
constexpr int kProbeTimeoutMs = 500;

int64_t monotonic_ms() {
  using std::chrono::duration_cast;
  using std::chrono::milliseconds;
  return duration_cast<milliseconds>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

Result<sockaddr_un> address_of(const std::string& path) {
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  if (path.empty() || path.size() >= sizeof(address.sun_path))
    return Error(Errc::invalid_argument, "socket path '" + path + "' must be 1 to " +
                                             std::to_string(sizeof(address.sun_path) - 1) +
                                             " bytes long; use a shorter one");
  std::memcpy(address.sun_path, path.data(), path.size());
  return address;
}

// Waits until `fd` has one of `events`.
Result<void> wait_for(int fd, short events, Deadline deadline) {
  for (;;) {
    pollfd entry{fd, events, 0};
    const int ready = ::poll(&entry, 1, deadline.remaining_ms());
    if (ready > 0) return {};
    if (ready == 0) return Error(Errc::timed_out, "no answer in time");
    if (errno != EINTR) return Error::from_errno(errno, "poll");
  }
}

}  // namespace

Deadline Deadline::after_ms(int64_t ms) { return Deadline(monotonic_ms() + ms); }

int Deadline::remaining_ms() const {
  const int64_t left = at_ms_ - monotonic_ms();
  return static_cast<int>(std::clamp<int64_t>(left, 0, 1'000'000'000));
}

Result<UnixStream> UnixStream::connect(const std::string& path, Deadline deadline) {
  TRY_ASSIGN(const sockaddr_un address, address_of(path));
  const int fd = ::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
  if (fd < 0) return Error::from_errno(errno, "socket for " + path);
  UnixStream stream(fd);
  // A unix socket connects at once, or says EAGAIN while the listener's backlog is full.
  while (::connect(fd, reinterpret_cast<const sockaddr*>(&address), sizeof(address)) != 0) {
    if (errno == EINTR) continue;
    if (errno == EAGAIN && deadline.remaining_ms() > 0) {
      ::poll(nullptr, 0, std::min(10, deadline.remaining_ms()));
      continue;
    }
    const int error = errno;
    const bool nobody = error == ENOENT || error == ECONNREFUSED || error == EAGAIN;
    const Error described = Error::from_errno(error, "connecting to " + path);
    return nobody ? Error(Errc::unreachable, described.message()) : described;
  }
  return stream;
}

UnixStream UnixStream::adopt(int fd) { return UnixStream(fd); }

UnixStream::UnixStream(UnixStream&& other) noexcept : fd_(std::exchange(other.fd_, -1)) {}

UnixStream& UnixStream::operator=(UnixStream&& other) noexcept {
  if (this != &other) {
    close();
    fd_ = std::exchange(other.fd_, -1);
  }
  return *this;
}

UnixStream::~UnixStream() { close(); }

void UnixStream::close() noexcept {
  if (fd_ >= 0) ::close(fd_);
  fd_ = -1;
}

bool UnixStream::peer_closed() const noexcept {
  char byte = 0;
  const ssize_t seen = ::recv(fd_, &byte, 1, MSG_PEEK | MSG_DONTWAIT);
  return seen == 0 || (seen < 0 && errno != EAGAIN && errno != EINTR);
}

Result<void> UnixStream::write_all(std::string_view bytes, Deadline deadline) {
  while (!bytes.empty()) {
    const ssize_t sent = ::send(fd_, bytes.data(), bytes.size(), MSG_NOSIGNAL);
    if (sent >= 0) {
      bytes.remove_prefix(static_cast<size_t>(sent));
    } else if (errno == EAGAIN) {
      TRY(wait_for(fd_, POLLOUT, deadline));
    } else if (errno != EINTR) {
      return Error::from_errno(errno, "sending");
    }
  }
  return {};
}

Result<size_t> UnixStream::read_some(char* buffer, size_t capacity, Deadline deadline) {
  for (;;) {
    const ssize_t received = ::recv(fd_, buffer, capacity, 0);
    if (received >= 0) return static_cast<size_t>(received);
    if (errno == EAGAIN) {
      TRY(wait_for(fd_, POLLIN, deadline));
    } else if (errno != EINTR) {
      return Error::from_errno(errno, "receiving");
    }
  }
}

Result<UnixListener> UnixListener::listen(const std::string& path) {
  TRY_ASSIGN(const sockaddr_un address, address_of(path));
  struct stat found {};
  if (::lstat(path.c_str(), &found) == 0) {
    if (!S_ISSOCK(found.st_mode))
      return Error(Errc::already_exists, path + " exists and is not a socket; remove it or choose another path");
    if (UnixStream::connect(path, Deadline::after_ms(kProbeTimeoutMs)))
      return Error(Errc::busy, path + " is in use by a running process; stop it or choose another path");
    ::unlink(path.c_str());
  }
  const int fd = ::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
  if (fd < 0) return Error::from_errno(errno, "socket for " + path);
  ::fchmod(fd, 0600);
  if (::bind(fd, reinterpret_cast<const sockaddr*>(&address), sizeof(address)) != 0) {
    const int error = errno;
    ::close(fd);
    return Error::from_errno(error, "binding " + path);
  }
  UnixListener listener(fd, path);
  ::chmod(path.c_str(), 0600);
  if (::listen(fd, kListenBacklog) != 0) return Error::from_errno(errno, "listening on " + path);
  return listener;
}

UnixListener::UnixListener(UnixListener&& other) noexcept
    : fd_(std::exchange(other.fd_, -1)), path_(std::move(other.path_)) {}

UnixListener::~UnixListener() {
  if (fd_ < 0) return;
  ::close(fd_);
  ::unlink(path_.c_str());
}

Result<UnixStream> UnixListener::accept(int timeout_ms) {
  TRY(wait_for(fd_, POLLIN, Deadline::after_ms(timeout_ms)));
  const int fd = ::accept4(fd_, nullptr, nullptr, SOCK_CLOEXEC | SOCK_NONBLOCK);
  if (fd < 0) return Error::from_errno(errno, "accepting on " + path_);
  return UnixStream::adopt(fd);
}

}  // namespace diskengine::client
