#include "fabric/tcp/connections.h"

#include <arpa/inet.h>
#include <dirent.h>
#include <fmt/format.h>
#include <linux/tcp.h>
#include <netinet/in.h>
#include <sys/socket.h>

#include <algorithm>
#include <cstdlib>
#include <memory>
#include <optional>
#include <set>

#if defined(__SANITIZE_THREAD__)
extern "C" {
void AnnotateIgnoreReadsBegin(const char* file, int line);
void AnnotateIgnoreReadsEnd(const char* file, int line);
}
#endif

namespace diskengine::fabric::tcp {
namespace {

// While it lives this thread looks at files that another may close, or open anew under their number, at any moment. The
// kernel keeps that apart, and what is found then is another connection or none: only a thread sanitizer minds.
class LookAtOthersFiles {
 public:
#if defined(__SANITIZE_THREAD__)
  LookAtOthersFiles() { AnnotateIgnoreReadsBegin(__FILE__, __LINE__); }
  ~LookAtOthersFiles() { AnnotateIgnoreReadsEnd(__FILE__, __LINE__); }
#else
  LookAtOthersFiles() = default;
  ~LookAtOthersFiles() = default;
#endif
  LookAtOthersFiles(const LookAtOthersFiles&) = delete;
  LookAtOthersFiles& operator=(const LookAtOthersFiles&) = delete;
};

struct Address {
  std::string text;
  uint16_t port = 0;
};

std::optional<Address> address_of(const sockaddr_storage& storage) {
  char text[INET6_ADDRSTRLEN] = {};
  if (storage.ss_family == AF_INET) {
    const auto& v4 = reinterpret_cast<const sockaddr_in&>(storage);
    if (inet_ntop(AF_INET, &v4.sin_addr, text, sizeof text) == nullptr) return std::nullopt;
    const uint16_t port = ntohs(v4.sin_port);
    return Address{fmt::format("{}:{}", text, port), port};
  }
  if (storage.ss_family != AF_INET6) return std::nullopt;
  const auto& v6 = reinterpret_cast<const sockaddr_in6&>(storage);
  if (inet_ntop(AF_INET6, &v6.sin6_addr, text, sizeof text) == nullptr) return std::nullopt;
  const uint16_t port = ntohs(v6.sin6_port);
  return Address{fmt::format("[{}]:{}", text, port), port};
}

std::optional<int> option(int fd, int name) {
  int value = 0;
  socklen_t bytes = sizeof value;
  if (getsockopt(fd, SOL_SOCKET, name, &value, &bytes) != 0) return std::nullopt;
  return value;
}

bool is_tcp(int fd) { return option(fd, SO_PROTOCOL) == IPPROTO_TCP; }

std::optional<Connection> connection_of(int fd, uint16_t* local_port) {
  sockaddr_storage local = {}, peer = {};
  socklen_t local_bytes = sizeof local, peer_bytes = sizeof peer;
  if (getsockname(fd, reinterpret_cast<sockaddr*>(&local), &local_bytes) != 0) return std::nullopt;
  if (getpeername(fd, reinterpret_cast<sockaddr*>(&peer), &peer_bytes) != 0) return std::nullopt;
  tcp_info info = {};
  socklen_t bytes = sizeof info;
  if (getsockopt(fd, IPPROTO_TCP, TCP_INFO, &info, &bytes) != 0) return std::nullopt;
  const std::optional<Address> from = address_of(local), to = address_of(peer);
  if (!from || !to) return std::nullopt;
  *local_port = from->port;
  return Connection{.local = from->text,
                    .peer = to->text,
                    .accepted = false,
                    .sent = info.tcpi_data_segs_out,
                    .again = info.tcpi_total_retrans,
                    .rtt_us = info.tcpi_rtt};
}

}  // namespace

std::vector<Connection> connections() {
  std::vector<Connection> found;
  const std::unique_ptr<DIR, int (*)(DIR*)> files(opendir("/proc/self/fd"), closedir);
  if (files == nullptr) return found;
  std::vector<uint16_t> ports;
  std::set<uint16_t> listening;
  [[maybe_unused]] const LookAtOthersFiles looking;
  while (const dirent* entry = readdir(files.get())) {
    char* end = nullptr;
    const long fd = std::strtol(entry->d_name, &end, 10);
    if (end == entry->d_name || !is_tcp(static_cast<int>(fd))) continue;
    uint16_t port = 0;
    if (option(static_cast<int>(fd), SO_ACCEPTCONN).value_or(0) != 0) {
      sockaddr_storage local = {};
      socklen_t bytes = sizeof local;
      if (getsockname(static_cast<int>(fd), reinterpret_cast<sockaddr*>(&local), &bytes) != 0) continue;
      if (const std::optional<Address> at = address_of(local)) listening.insert(at->port);
    } else if (found.size() < kConnectionsMax) {
      std::optional<Connection> one = connection_of(static_cast<int>(fd), &port);
      if (!one) continue;
      found.push_back(std::move(*one));
      ports.push_back(port);
    }
  }
  for (size_t i = 0; i < found.size(); ++i) found[i].accepted = listening.contains(ports[i]);
  return found;
}

}  // namespace diskengine::fabric::tcp
