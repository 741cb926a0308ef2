// The front end's end of a vhost-user connection: blocking, each call with the same time-out. Sends whatever it is told
// to, so that tests can send nonsense. One thread.
#pragma once

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "base/result.h"
#include "base/unique_fd.h"
#include "format/vhost_user.h"

namespace diskengine::client {

class VhostSocket {
 public:
  static Result<VhostSocket> connect(const std::string& path, int timeout_ms);

  // Takes part of a message: `bytes` may be more or less than its header says.
  Result<void> send_raw(const void* bytes, size_t count, const std::vector<int>& fds = {});
  Result<void> send(spec::VhostUserRequest request, const void* payload = nullptr, size_t bytes = 0,
                    const std::vector<int>& fds = {}, uint32_t flags = 0);
  Result<void> send_u64(spec::VhostUserRequest request, uint64_t value, const std::vector<int>& fds = {}) {
    return send(request, &value, sizeof value, fds);
  }
  // Sends and waits for the acknowledgement (which has to be negotiated); Errc::invalid_argument if it is a refusal.
  Result<void> send_acknowledged(spec::VhostUserRequest request, const void* payload, size_t bytes,
                                 const std::vector<int>& fds = {});

  struct Reply {
    spec::VhostUserHeader header{};
    spec::VhostUserPayload payload{};
    UniqueFd fd;
  };
  // The next message. Errc::unreachable if the back end closed, Errc::timed_out.
  Result<Reply> receive();
  // Sends a request without payload, or with one, and returns the answer to it.
  Result<Reply> ask(spec::VhostUserRequest request, const void* payload = nullptr, size_t bytes = 0);
  Result<uint64_t> ask_u64(spec::VhostUserRequest request);

  void close() noexcept { fd_.reset(); }
  int fd() const noexcept { return fd_.get(); }

 private:
  explicit VhostSocket(UniqueFd fd) : fd_(std::move(fd)) {}
  UniqueFd fd_;
};

}  // namespace diskengine::client
