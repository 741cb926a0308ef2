#include "client/vhost_frontend_socket.h"

#include <fmt/format.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <sys/un.h>

#include <cerrno>
#include <cstring>

namespace diskengine::client {

using spec::VhostUserRequest;

Result<VhostSocket> VhostSocket::connect(const std::string& path, int timeout_ms) {
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  if (path.size() >= sizeof address.sun_path)
    return Error(Errc::invalid_argument, fmt::format("the socket path '{}' is too long", path));
  std::memcpy(address.sun_path, path.c_str(), path.size() + 1);
  UniqueFd fd(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
  if (!fd) return Error::from_errno(errno, "create a unix socket");
  const timeval limit{timeout_ms / 1000, timeout_ms % 1000 * 1000};
  ::setsockopt(fd.get(), SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof limit);
  ::setsockopt(fd.get(), SOL_SOCKET, SO_SNDTIMEO, &limit, sizeof limit);
  if (::connect(fd.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address) != 0)
    return Error::from_errno(errno, fmt::format("connect to '{}'", path));
  return VhostSocket(std::move(fd));
}

Result<void> VhostSocket::send_raw(const void* bytes, size_t count, const std::vector<int>& fds) {
  iovec piece{const_cast<void*>(bytes), count};
  std::vector<char> control(CMSG_SPACE(fds.size() * sizeof(int)));
  msghdr message{};
  message.msg_iov = &piece;
  message.msg_iovlen = 1;
  if (!fds.empty()) {
    message.msg_control = control.data();
    message.msg_controllen = control.size();
    cmsghdr* rights = CMSG_FIRSTHDR(&message);
    rights->cmsg_level = SOL_SOCKET;
    rights->cmsg_type = SCM_RIGHTS;
    rights->cmsg_len = CMSG_LEN(fds.size() * sizeof(int));
    std::memcpy(CMSG_DATA(rights), fds.data(), fds.size() * sizeof(int));
  }
  const ssize_t sent = ::sendmsg(fd_.get(), &message, MSG_NOSIGNAL);
  if (sent < 0) return Error::from_errno(errno, "send to the vhost back end");
  if (static_cast<size_t>(sent) != count) return Error(Errc::timed_out, "the vhost back end takes no more messages");
  return {};
}

Result<void> VhostSocket::send(VhostUserRequest request, const void* payload, size_t bytes, const std::vector<int>& fds,
                               uint32_t flags) {
  const spec::VhostUserHeader header{static_cast<uint32_t>(request), spec::kVhostUserVersion | flags,
                                     static_cast<uint32_t>(bytes)};
  std::vector<char> whole(sizeof header + bytes);
  std::memcpy(whole.data(), &header, sizeof header);
  if (bytes > 0) std::memcpy(whole.data() + sizeof header, payload, bytes);
  return send_raw(whole.data(), whole.size(), fds);
}

Result<void> VhostSocket::send_acknowledged(VhostUserRequest request, const void* payload, size_t bytes,
                                            const std::vector<int>& fds) {
  TRY(send(request, payload, bytes, fds, spec::kVhostUserNeedReply));
  TRY_ASSIGN(const Reply reply, receive());
  if (reply.header.request != static_cast<uint32_t>(request) || reply.header.size != sizeof(uint64_t))
    return Error(Errc::protocol, fmt::format("{}: the answer is no acknowledgement", spec::name_of(request)));
  if (reply.payload.u64 != 0)
    return Error(Errc::invalid_argument, fmt::format("the back end refused {}", spec::name_of(request)));
  return {};
}

Result<VhostSocket::Reply> VhostSocket::receive() {
  Reply reply;
  size_t got = 0;
  for (;;) {
    const bool in_header = got < sizeof reply.header;
    if (!in_header && got == sizeof reply.header + reply.header.size) return reply;
    uint8_t* to = in_header ? reinterpret_cast<uint8_t*>(&reply.header) + got
                            : reinterpret_cast<uint8_t*>(&reply.payload) + (got - sizeof reply.header);
    iovec piece{to, in_header ? sizeof reply.header - got : sizeof reply.header + reply.header.size - got};
    alignas(cmsghdr) char control[CMSG_SPACE(sizeof(int))];
    msghdr message{};
    message.msg_iov = &piece;
    message.msg_iovlen = 1;
    message.msg_control = control;
    message.msg_controllen = sizeof control;
    const ssize_t count = ::recvmsg(fd_.get(), &message, MSG_CMSG_CLOEXEC);
    if (count < 0 && errno == EINTR) continue;
    if (count < 0 && errno == EAGAIN) return Error(Errc::timed_out, "the vhost back end does not answer");
    if (count < 0) return Error::from_errno(errno, "receive from the vhost back end");
    if (count == 0) return Error(Errc::unreachable, "the vhost back end closed the connection");
    for (cmsghdr* at = CMSG_FIRSTHDR(&message); at != nullptr; at = CMSG_NXTHDR(&message, at)) {
      int fd = -1;
      std::memcpy(&fd, CMSG_DATA(at), sizeof fd);
      reply.fd = UniqueFd(fd);
    }
    got += static_cast<size_t>(count);
    if (got == sizeof reply.header && reply.header.size > sizeof reply.payload)
      return Error(Errc::protocol, fmt::format("an answer of {} bytes", reply.header.size));
  }
}

Result<VhostSocket::Reply> VhostSocket::ask(VhostUserRequest request, const void* payload, size_t bytes) {
  TRY(send(request, payload, bytes));
  TRY_ASSIGN(Reply reply, receive());
  if (reply.header.request != static_cast<uint32_t>(request) || (reply.header.flags & spec::kVhostUserReply) == 0)
    return Error(Errc::protocol, fmt::format("{}: an answer to something else", spec::name_of(request)));
  return reply;
}

Result<uint64_t> VhostSocket::ask_u64(VhostUserRequest request) {
  TRY_ASSIGN(const Reply reply, ask(request));
  if (reply.header.size != sizeof(uint64_t))
    return Error(Errc::protocol, fmt::format("{}: an answer of {} bytes", spec::name_of(request), reply.header.size));
  return reply.payload.u64;
}

}  // namespace diskengine::client
