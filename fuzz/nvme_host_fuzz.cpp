// A hostile NVMe/TCP controller: arbitrary bytes after (or instead of) the connection's setup, with commands of every
// kind in flight. Each command completes exactly once, nothing outside of its buffer is written, and no input hangs.
#include <sys/socket.h>
#include <unistd.h>

#include <array>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <memory>
#include <vector>

#include "base/assert.h"
#include "fabric/tcp/host.h"

namespace {

using namespace diskengine;
using fabric::HostCommand;

constexpr size_t kGuardBytes = 64;
constexpr uint8_t kGuard = 0xa5;
constexpr size_t kChunkMax = 4096;

struct Events final : fabric::HostQueueEvents {
  void on_connected() noexcept override { connected = true; }
  void on_disconnected(const Error&) noexcept override { ended = true; }
  bool connected = false;
  bool ended = false;
};

// A command whose buffer has a guard on each side.
struct Io {
  Io(spec::DataDirection direction, uint32_t bytes) : memory(bytes + 2 * kGuardBytes, kGuard) {
    command.reset(direction == spec::DataDirection::from_controller ? spec::IoOp::read : spec::IoOp::write);
    command.direction = direction;
    command.data_bytes = bytes;
    piece = {memory.data() + kGuardBytes, bytes};
    if (bytes > 0) command.iov = {&piece, 1};
    command.owner = this;
    command.done = [](HostCommand& done) noexcept { ++static_cast<Io*>(done.owner)->completions; };
  }
  void check() const {
    DE_ASSERT(completions == 1);
    for (size_t i = 0; i < kGuardBytes; ++i) DE_ASSERT(memory[i] == kGuard && memory[memory.size() - 1 - i] == kGuard);
  }
  HostCommand command;
  std::vector<uint8_t> memory;
  iovec piece{};
  int completions = 0;
};

void drain(int fd) {
  std::array<uint8_t, 65536> sink;
  while (recv(fd, sink.data(), sink.size(), MSG_DONTWAIT) > 0) {
  }
}

std::vector<uint8_t> setup_answer(uint8_t digests) {
  spec::TcpIcResp response{};
  response.common.type = spec::TcpPdu::ic_resp;
  response.common.header_bytes = sizeof response;
  response.common.total_bytes = sizeof response;
  response.digests = digests;
  response.max_h2c_data = 8192;
  const auto* bytes = reinterpret_cast<const uint8_t*>(&response);
  return {bytes, bytes + sizeof response};
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  if (size < 1) return 0;
  const uint8_t choice = data[0];
  ++data;
  --size;
  static Reactor reactor{Reactor::Options{.use_ring = false}};
  static auto staging = std::make_shared<fabric::tcp::Staging>();
  int ends[2];
  DE_ASSERT(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0, ends) == 0);
  Events events;
  fabric::HostQueueOptions options;
  options.depth = 8;
  options.header_digest = (choice & 1) != 0;
  options.data_digest = (choice & 2) != 0;
  auto queue = std::make_unique<fabric::tcp::TcpHostQueue>(reactor, staging, fabric::tcp::UniqueFd(ends[0]), "peer",
                                                           options, static_cast<fabric::HostQueueEvents&>(events));
  std::vector<std::unique_ptr<Io>> ios;
  if ((choice & 4) == 0) {
    const std::vector<uint8_t> answer = setup_answer(choice & 3);
    reactor.turn();
    DE_ASSERT(send(ends[1], answer.data(), answer.size(), MSG_NOSIGNAL) == static_cast<ssize_t>(answer.size()));
    for (int i = 0; i < 4 && !events.connected; ++i) reactor.turn();
    DE_ASSERT(events.connected);
    using spec::DataDirection;
    for (const auto& [direction, bytes] : {std::pair{DataDirection::none, 0u},
                                           {DataDirection::from_controller, 512u},
                                           {DataDirection::from_controller, 65536u},
                                           {DataDirection::to_controller, 512u},
                                           {DataDirection::to_controller, 20000u}}) {
      ios.push_back(std::make_unique<Io>(direction, bytes));
      queue->submit(ios.back()->command);
    }
  }
  // In pieces, so that headers and data are cut at many places.
  while (size > 0 && !events.ended) {
    const size_t chunk = std::min({size, kChunkMax, size_t{1} << (choice >> 4)});
    const ssize_t sent = send(ends[1], data, chunk, MSG_NOSIGNAL | MSG_DONTWAIT);
    if (sent <= 0) break;
    data += sent;
    size -= static_cast<size_t>(sent);
    drain(ends[1]);
    reactor.turn();
  }
  close(ends[1]);
  queue->disconnect();
  for (int i = 0; i < 8 && !events.ended; ++i) reactor.turn();
  DE_ASSERT(events.ended);
  for (const auto& io : ios) io->check();
  queue.reset();
  return 0;
}
