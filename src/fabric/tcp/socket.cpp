#include "fabric/tcp/socket.h"

#include <arpa/inet.h>
#include <fcntl.h>
#include <fmt/format.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <unistd.h>

#include <cerrno>
#include <charconv>
#include <cstring>

namespace diskengine::fabric::tcp {
namespace {

Result<uint16_t> parse_port(const std::string& text) {
  unsigned port = 0;
  const auto [end, failure] = std::from_chars(text.data(), text.data() + text.size(), port);
  if (failure != std::errc() || end != text.data() + text.size() || port > 65535)
    return Error(Errc::invalid_argument, fmt::format("'{}' is not a TCP port (0 to 65535)", text));
  return static_cast<uint16_t>(port);
}

int granted(int fd, int option) noexcept {
  int value = 0;
  socklen_t length = sizeof value;
  return getsockopt(fd, SOL_SOCKET, option, &value, &length) == 0 ? value / 2 : 0;  // the kernel reports twice the size
}

// The largest size an unprivileged process may ask for, read through a socket that is thrown away.
int allowed(int option) noexcept {
  UniqueFd probe(socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
  const int wanted = kSocketBufferBytes;
  if (!probe || setsockopt(probe.get(), SOL_SOCKET, option, &wanted, sizeof wanted) != 0) return 0;
  return granted(probe.get(), option);
}

void set_buffer(int fd, int option, int force_option) noexcept {
  const int wanted = kSocketBufferBytes;
  if (setsockopt(fd, SOL_SOCKET, force_option, &wanted, sizeof wanted) == 0) return;
  // 1 MiB is the least that was seen to beat autotuning.
  if (allowed(option) >= 1024 * 1024) setsockopt(fd, SOL_SOCKET, option, &wanted, sizeof wanted);
}

Result<void> tune(int fd) {
  const int on = 1;
  if (setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on) != 0)
    return Error::from_errno(errno, "cannot set TCP_NODELAY");
  return {};
}

Result<UniqueFd> open_socket(const SocketAddress& address) {
  UniqueFd fd(socket(address.storage.ss_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0));
  if (!fd) return Error::from_errno(errno, "cannot open a TCP socket");
  TRY(tune(fd.get()));
  set_buffer(fd.get(), SO_SNDBUF, SO_SNDBUFFORCE);
  set_buffer(fd.get(), SO_RCVBUF, SO_RCVBUFFORCE);
  return fd;
}

}  // namespace

void UniqueFd::reset() noexcept {
  if (fd_ >= 0) close(fd_);
  fd_ = -1;
}

Result<SocketAddress> SocketAddress::parse(const std::string& host, const std::string& port) {
  TRY_ASSIGN(const uint16_t number, parse_port(port));
  SocketAddress address;
  auto* v4 = reinterpret_cast<sockaddr_in*>(&address.storage);
  auto* v6 = reinterpret_cast<sockaddr_in6*>(&address.storage);
  if (inet_pton(AF_INET, host.c_str(), &v4->sin_addr) == 1) {
    v4->sin_family = AF_INET;
    v4->sin_port = htons(number);
    address.length = sizeof *v4;
  } else if (inet_pton(AF_INET6, host.c_str(), &v6->sin6_addr) == 1) {
    v6->sin6_family = AF_INET6;
    v6->sin6_port = htons(number);
    address.length = sizeof *v6;
  } else {
    return Error(Errc::invalid_argument, fmt::format("'{}' is not a numeric IPv4 or IPv6 address", host));
  }
  return address;
}

std::string SocketAddress::host() const {
  char text[INET6_ADDRSTRLEN] = "";
  const void* bytes = is_ipv6() ? static_cast<const void*>(&reinterpret_cast<const sockaddr_in6*>(&storage)->sin6_addr)
                                : static_cast<const void*>(&reinterpret_cast<const sockaddr_in*>(&storage)->sin_addr);
  inet_ntop(storage.ss_family, bytes, text, sizeof text);
  return text;
}

uint16_t SocketAddress::port() const noexcept {
  return ntohs(is_ipv6() ? reinterpret_cast<const sockaddr_in6*>(&storage)->sin6_port
                         : reinterpret_cast<const sockaddr_in*>(&storage)->sin_port);
}

std::string SocketAddress::to_string() const {
  return is_ipv6() ? fmt::format("[{}]:{}", host(), port()) : fmt::format("{}:{}", host(), port());
}

Result<UniqueFd> listen_on(const SocketAddress& address, int backlog) {
  TRY_ASSIGN(UniqueFd fd, open_socket(address));
  const int on = 1;
  setsockopt(fd.get(), SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
  if (address.is_ipv6()) setsockopt(fd.get(), IPPROTO_IPV6, IPV6_V6ONLY, &on, sizeof on);
  if (bind(fd.get(), reinterpret_cast<const sockaddr*>(&address.storage), address.length) != 0 ||
      listen(fd.get(), backlog) != 0)
    return Error::from_errno(errno, "cannot listen on " + address.to_string());
  return fd;
}

Result<UniqueFd> begin_connect(const SocketAddress& to, const SocketAddress* from) {
  TRY_ASSIGN(UniqueFd fd, open_socket(to));
  if (from != nullptr && bind(fd.get(), reinterpret_cast<const sockaddr*>(&from->storage), from->length) != 0)
    return Error::from_errno(errno, "cannot use the local address " + from->to_string());
  if (connect(fd.get(), reinterpret_cast<const sockaddr*>(&to.storage), to.length) != 0 && errno != EINPROGRESS)
    return Error::from_errno(errno, "cannot connect to " + to.to_string());
  return fd;
}

Result<void> tune_accepted(int fd) { return tune(fd); }

int socket_error(int fd) noexcept {
  int error = 0;
  socklen_t length = sizeof error;
  if (getsockopt(fd, SOL_SOCKET, SO_ERROR, &error, &length) != 0) return errno;
  return error;
}

Result<SocketAddress> local_address(int fd) {
  SocketAddress address;
  address.length = sizeof address.storage;
  if (getsockname(fd, reinterpret_cast<sockaddr*>(&address.storage), &address.length) != 0)
    return Error::from_errno(errno, "cannot read a socket's own address");
  return address;
}

Result<SocketAddress> peer_address(int fd) {
  SocketAddress address;
  address.length = sizeof address.storage;
  if (getpeername(fd, reinterpret_cast<sockaddr*>(&address.storage), &address.length) != 0)
    return Error::from_errno(errno, "cannot read a socket's peer address");
  return address;
}

SocketBuffers socket_buffers(int fd) noexcept {
  SocketBuffers buffers;
  buffers.send_bytes = granted(fd, SO_SNDBUF);
  buffers.receive_bytes = granted(fd, SO_RCVBUF);
  buffers.fixed = buffers.send_bytes >= kSocketBufferBytes && buffers.receive_bytes >= kSocketBufferBytes;
  return buffers;
}

}  // namespace diskengine::fabric::tcp
