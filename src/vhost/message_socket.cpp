#include "vhost/message_socket.h"

#include <fmt/format.h>
#include <sys/socket.h>

#include <cerrno>
#include <cstring>

namespace diskengine::vhost {

int MessageSocket::poll() noexcept {
  char byte = 0;
  const ssize_t got = ::recv(fd_.get(), &byte, 1, MSG_PEEK | MSG_DONTWAIT);
  if (got < 0 && (errno == EAGAIN || errno == EINTR)) return 0;
  home_.remove(*this);
  readable_->set(true);
  return 1;
}

// Reads what there is of the message's header and payload; true once it is whole. `got` counts its bytes so far.
Result<bool> MessageSocket::read_some(Message& message, size_t* got) {
  for (;;) {
    const bool in_header = *got < sizeof message.header;
    const size_t end = in_header ? sizeof message.header : sizeof message.header + message.header.size;
    if (!in_header && *got == end) return true;
    uint8_t* to = in_header ? reinterpret_cast<uint8_t*>(&message.header) + *got
                            : reinterpret_cast<uint8_t*>(&message.payload) + (*got - sizeof message.header);
    iovec piece{to, end - *got};
    alignas(cmsghdr) char control[CMSG_SPACE(spec::kVhostUserFdsMax * sizeof(int))];
    msghdr header{};
    header.msg_iov = &piece;
    header.msg_iovlen = 1;
    header.msg_control = control;
    header.msg_controllen = sizeof control;
    const ssize_t count = ::recvmsg(fd_.get(), &header, MSG_CMSG_CLOEXEC | MSG_DONTWAIT);
    if (count < 0) {
      if (errno == EINTR) continue;
      if (errno == EAGAIN) return false;
      return Error::from_errno(errno, "receive a vhost-user message");
    }
    for (cmsghdr* at = CMSG_FIRSTHDR(&header); at != nullptr; at = CMSG_NXTHDR(&header, at)) {
      if (at->cmsg_level != SOL_SOCKET || at->cmsg_type != SCM_RIGHTS) continue;
      for (size_t offset = 0; offset + sizeof(int) <= at->cmsg_len - CMSG_LEN(0); offset += sizeof(int)) {
        int fd = -1;
        std::memcpy(&fd, CMSG_DATA(at) + offset, sizeof fd);
        message.fds.emplace_back(fd);
      }
    }
    if ((header.msg_flags & MSG_CTRUNC) != 0 || message.fds.size() > spec::kVhostUserFdsMax)
      return Error(Errc::protocol, "a vhost-user message with more than 8 descriptors");
    if (count == 0) {
      if (*got == 0) return Error(Errc::unreachable, "the front end closed the connection");
      return Error(Errc::protocol, "the front end closed the connection within a message");
    }
    *got += static_cast<size_t>(count);
    if (*got == sizeof message.header) TRY(spec::check_header(message.header));
  }
}

Task<Result<Message>> MessageSocket::receive() {
  Message message;
  size_t got = 0;
  for (;;) {
    Result<bool> whole = read_some(message, &got);
    CO_TRY(whole);
    if (*whole) break;
    readable_.emplace(home_);
    home_.add(*this);
    OneShot<bool>& readable = *readable_;
    co_await readable;
    readable_.reset();
  }
  CO_TRY(spec::check_message(message.header, message.payload, message.fds.size()));
  co_return message;
}

Result<void> MessageSocket::reply(const Message& request, const void* payload, size_t bytes, int fd) {
  const spec::VhostUserHeader header{request.header.request, spec::kVhostUserVersion | spec::kVhostUserReply,
                                     static_cast<uint32_t>(bytes)};
  return send(header, payload, fd);
}

Result<void> MessageSocket::notify(uint32_t request) {
  return send({request, spec::kVhostUserVersion, 0}, nullptr, -1);
}

// The socket's buffer holds many answers: a front end that lets it fill up has stopped reading them.
Result<void> MessageSocket::send(const spec::VhostUserHeader& header, const void* payload, int fd) {
  iovec pieces[2] = {{const_cast<spec::VhostUserHeader*>(&header), sizeof header},
                     {const_cast<void*>(payload), header.size}};
  alignas(cmsghdr) char control[CMSG_SPACE(sizeof(int))] = {};
  msghdr message{};
  message.msg_iov = pieces;
  message.msg_iovlen = header.size > 0 ? 2 : 1;
  if (fd >= 0) {
    message.msg_control = control;
    message.msg_controllen = sizeof control;
    cmsghdr* rights = CMSG_FIRSTHDR(&message);
    rights->cmsg_level = SOL_SOCKET;
    rights->cmsg_type = SCM_RIGHTS;
    rights->cmsg_len = CMSG_LEN(sizeof fd);
    std::memcpy(CMSG_DATA(rights), &fd, sizeof fd);
  }
  const size_t bytes = sizeof header + header.size;
  const ssize_t sent = ::sendmsg(fd_.get(), &message, MSG_NOSIGNAL | MSG_DONTWAIT);
  if (sent < 0) return Error::from_errno(errno, "send a vhost-user message");
  if (static_cast<size_t>(sent) != bytes)
    return Error(Errc::would_block, "the front end does not read what it is sent");
  return {};
}

void MessageSocket::shut_down() noexcept { ::shutdown(fd_.get(), SHUT_RDWR); }

bool MessageSocket::peer_closed() const noexcept {
  char byte = 0;
  return ::recv(fd_.get(), &byte, 1, MSG_PEEK | MSG_DONTWAIT) == 0;
}

}  // namespace diskengine::vhost
