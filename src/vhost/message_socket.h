// A front end's connection: whole vhost-user messages with their file descriptors, received and sent without blocking.
// What arrives is checked for its shape here (spec::check_message); every descriptor that came along is owned by the
// Message, so whatever goes wrong closes it.
//
// One reactor's thread. Input object: bytes. Output object: Message. Completion: receive() returns.
#pragma once

#include <optional>
#include <vector>

#include "base/unique_fd.h"
#include "format/vhost_user.h"
#include "runtime/reactor.h"
#include "runtime/task.h"

namespace diskengine::vhost {

struct Message {
  spec::VhostUserHeader header{};
  spec::VhostUserPayload payload{};  // zeroes after header.size bytes
  std::vector<UniqueFd> fds;

  spec::VhostUserRequest request() const noexcept { return static_cast<spec::VhostUserRequest>(header.request); }
  bool needs_reply() const noexcept { return (header.flags & spec::kVhostUserNeedReply) != 0; }
};

class MessageSocket final : private Source {
 public:
  // `fd` is a connected unix socket, nonblocking.
  MessageSocket(Reactor& reactor, UniqueFd fd) : Source("vhost_session"), home_(reactor), fd_(std::move(fd)) {
    set_fd(fd_.get());
  }
  // With no receive() under way.
  ~MessageSocket() = default;

  // The next message. Errc::unreachable when the front end closed, Errc::protocol for what is not a message.
  Task<Result<Message>> receive();
  // The answer to `request`. Errc::would_block if the front end does not read its answers.
  Result<void> reply(const Message& request, const void* payload, size_t bytes, int fd = -1);
  // A request of ours, that wants no answer.
  Result<void> notify(uint32_t request);

  // Makes the receive() under way, and every later one, end as if the front end had closed.
  void shut_down() noexcept;
  // The front end closed its end, and all it had sent was read.
  bool peer_closed() const noexcept;

 private:
  int poll() noexcept override;
  Result<bool> read_some(Message& message, size_t* got);
  Result<void> send(const spec::VhostUserHeader& header, const void* payload, int fd);

  Reactor& home_;
  UniqueFd fd_;
  std::optional<OneShot<bool>> readable_;
};

}  // namespace diskengine::vhost
