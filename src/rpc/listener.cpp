#include "rpc/listener.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/file.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <utility>

namespace diskengine::rpc {
namespace {

constexpr int kLockAttemptsMax = 10;
constexpr size_t kPidDigitsMax = 20;

std::string lock_path(const std::string& path) { return path + ".lock"; }

// The process that wrote itself into the lock, for a message; " (pid 123)" or nothing.
std::string holder(int lock_fd) {
  char text[kPidDigitsMax + 1] = {};
  const ssize_t length = pread(lock_fd, text, kPidDigitsMax, 0);
  const std::string digits(text, length > 0 ? strspn(text, "0123456789") : 0);
  return digits.empty() ? "" : " (pid " + digits + ")";
}

// The file at `path` is the one that is open as `fd`: nobody has replaced it.
bool is_same_file(int fd, const std::string& path) {
  struct stat open_file {};
  struct stat named_file {};
  return fstat(fd, &open_file) == 0 && stat(path.c_str(), &named_file) == 0 && open_file.st_ino == named_file.st_ino &&
         open_file.st_dev == named_file.st_dev;
}

}  // namespace

Result<Listener> Listener::open(const std::string& path) {
  if (path.empty() || path.size() >= sizeof(sockaddr_un::sun_path))
    return Error(Errc::invalid_argument, fmt::format("RPC socket path '{}' has {} bytes; 1 to {} are possible", path,
                                                     path.size(), sizeof(sockaddr_un::sun_path) - 1));
  Listener listener;
  listener.path_ = path;
  TRY(listener.lock());
  TRY(listener.bind_socket());
  return listener;
}

Result<void> Listener::lock() {
  const std::string path = lock_path(path_);
  for (int attempt = 0; attempt < kLockAttemptsMax; ++attempt) {
    const int fd = ::open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    if (fd < 0) return Error::from_errno(errno, "opening the RPC lock " + path);
    if (flock(fd, LOCK_EX | LOCK_NB) != 0) {
      const std::string by = holder(fd);
      close(fd);
      return Error(Errc::busy, fmt::format("RPC socket {} is served by another process{}: stop it or give another path "
                                           "with -r",
                                           path_, by));
    }
    if (is_same_file(fd, path)) {
      lock_fd_ = fd;
      const std::string pid = std::to_string(getpid());
      if (ftruncate(fd, 0) != 0 || pwrite(fd, pid.data(), pid.size(), 0) < 0)
        return Error::from_errno(errno, "writing the RPC lock " + path);
      return {};
    }
    close(fd);  // its former holder removed it just now
  }
  return Error(Errc::busy, "RPC lock " + path + " changes hands all the time");
}

Result<void> Listener::bind_socket() {
  struct stat present {};
  if (lstat(path_.c_str(), &present) == 0) {
    if (!S_ISSOCK(present.st_mode))
      return Error(Errc::already_exists, "RPC socket path " + path_ + " is taken by a file that is no socket");
    unlink(path_.c_str());  // left by a process that is gone: we hold the lock
  }
  const int fd = ::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
  if (fd < 0) return Error::from_errno(errno, "making the RPC socket " + path_);
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  std::memcpy(address.sun_path, path_.data(), path_.size());
  fchmod(fd, 0600);  // the mode that bind gives the file
  if (::bind(fd, reinterpret_cast<const sockaddr*>(&address), sizeof address) != 0 || ::listen(fd, kBacklog) != 0) {
    const int error = errno;
    close(fd);
    return Error::from_errno(error, "listening on the RPC socket " + path_);
  }
  fd_ = fd;
  return {};
}

Listener::Listener(Listener&& other) noexcept
    : path_(std::move(other.path_)), fd_(std::exchange(other.fd_, -1)), lock_fd_(std::exchange(other.lock_fd_, -1)) {}

Listener::~Listener() {
  if (fd_ >= 0) {
    unlink(path_.c_str());
    close(fd_);
  }
  if (lock_fd_ >= 0) {
    unlink(lock_path(path_).c_str());  // while it is held: who opened it meanwhile sees that it is gone
    close(lock_fd_);
  }
}

}  // namespace diskengine::rpc
