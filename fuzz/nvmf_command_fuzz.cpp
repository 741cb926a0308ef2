// A target with one namespace on arbitrary commands over a simulated transport, connected or not: each is answered at
// most once, and the target can always be stopped.
#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <vector>

#include "base/assert.h"
#include "base/log.h"
#include "disk/ram.h"
#include "fabric/sim_target.h"
#include "nvmf/target.h"

namespace {

using namespace diskengine;

constexpr char kNqn[] = "nqn.2024-01.io.diskengine:fuzz";
constexpr size_t kCommandsMax = 64;

void turn(Reactor& reactor) {
  for (int i = 0; i < 16; ++i) reactor.turn();
}

std::vector<uint8_t> connect_data(uint16_t controller) {
  spec::FabricsConnectData data;
  data.controller_id = controller;
  std::memcpy(data.subsystem_nqn, kNqn, sizeof kNqn);
  std::memcpy(data.host_nqn, kNqn, sizeof kNqn);
  std::vector<uint8_t> bytes(sizeof data);
  std::memcpy(bytes.data(), &data, sizeof data);
  return bytes;
}

void connect(fabric::SimTargetQueue& queue, uint16_t qid, Reactor& reactor) {
  spec::FabricsConnect command;
  command.queue_id = qid;
  command.queue_size = 31;
  spec::Sqe sqe;
  std::memcpy(static_cast<void*>(&sqe), &command, sizeof sqe);
  queue.submit(sqe, connect_data(qid == 0 ? spec::kControllerIdAny : 1));
  turn(reactor);
  if (qid != 0) return;
  spec::FabricsProperty enable;
  enable.cid = 1;
  enable.type = spec::FabricsType::property_set;
  enable.offset = spec::Property::cc;
  enable.value = spec::kCcEnable | spec::kCcEntrySizes;
  std::memcpy(static_cast<void*>(&sqe), &enable, sizeof sqe);
  queue.submit(sqe);
  turn(reactor);
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  log_set_level(LogLevel::error);
  if (size < 1) return 0;
  ManualClock clock;
  Reactor reactor({.clock = &clock, .use_ring = false});
  DeviceRegistry devices(reactor);
  auto disk = RamDisk::create({.name = "disk", .uuid = Uuid::from_random(1, 1), .block_size = 512, .size_blocks = 256});
  DE_ASSERT(disk && devices.add(*disk));
  bool stopped = false;
  {
    nvmf::Target target({&reactor}, devices, Uuid::from_random(1, 2));
    nvmf::SubsystemOptions options;
    options.nqn = kNqn;
    options.allow_any_host = true;
    auto subsystem = target.create_subsystem(options);
    DE_ASSERT(subsystem);
    const fabric::Address address{"TCP", "IPv4", "127.0.0.1", "4420"};
    (*subsystem)->add_listener(address);
    DE_ASSERT((*subsystem)->add_namespace({.device = "disk", .ids = {}}));
    fabric::SimTargetQueue admin(reactor, target, address);
    fabric::SimTargetQueue io(reactor, target, address);
    if ((data[0] & 1) != 0) connect(admin, 0, reactor);
    if ((data[0] & 2) != 0) connect(io, 1, reactor);
    size_t at = 1;
    // Each command: which queue, how much data (in 16 bytes), the entry, and what there is of its data.
    for (size_t i = 0; i < kCommandsMax && size - at >= 2 + sizeof(spec::Sqe); ++i) {
      fabric::SimTargetQueue& queue = (data[at] & 1) != 0 ? io : admin;
      std::vector<uint8_t> bytes(size_t{data[at + 1]} * 16);
      spec::Sqe sqe;
      std::memcpy(static_cast<void*>(&sqe), data + at + 2, sizeof sqe);
      at += 2 + sizeof sqe;
      const size_t given = std::min(bytes.size(), size - at);
      if (given > 0) std::memcpy(bytes.data(), data + at, given);
      at += given;
      queue.submit(sqe, std::move(bytes));
      turn(reactor);
    }
    admin.disconnect("the input ends");
    io.disconnect("the input ends");
    turn(reactor);
    const auto left = (*subsystem)->listeners();
    DE_ASSERT(!left.empty() && (*subsystem)->remove_listener(address));
    reactor.post([&] { spawn(target.stop(), [&] { stopped = true; }); });
    for (int i = 0; i < 20 && !stopped; ++i) turn(reactor);
    DE_ASSERT(stopped && admin.released() && io.released());
    turn(reactor);
  }
  bool removed = false;
  disk->reset();
  reactor.post([&] { spawn<Result<void>>(devices.remove("disk"), [&](Result<void> r) { removed = r.has_value(); }); });
  for (int i = 0; i < 20 && !removed; ++i) {
    turn(reactor);
    clock.advance_ns(100'000'000);
  }
  DE_ASSERT(removed);
  return 0;
}
