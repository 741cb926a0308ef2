// A hostile NVMe controller on the PCI bus: arbitrary completions, phases, registers and events with commands of every
// kind in flight. Each command completes exactly once, nothing outside of its buffer is written, no memory is named
// that the controller may not reach, and no input hangs.
#include <array>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <functional>
#include <memory>
#include <thread>
#include <vector>

#include "base/assert.h"
#include "base/endian.h"
#include "base/log.h"
#include "fabric/pcie/host.h"
#include "fabric/pcie/sim_controller.h"

namespace {

using namespace diskengine;
using fabric::HostCommand;
using fabric::HostQueue;
using fabric::pcie::SimController;

constexpr size_t kGuardBytes = 64;
constexpr uint8_t kGuard = 0xa5;

struct Events final : fabric::HostQueueEvents {
  void on_connected() noexcept override { connected = true; }
  void on_disconnected(const Error&) noexcept override { ended = true; }
  bool connected = false;
  bool ended = false;
};

// A command whose buffer has a guard on each side.
struct Io {
  Io(uint8_t opcode, spec::DataDirection direction, uint32_t bytes) : memory(bytes + 2 * kGuardBytes, kGuard) {
    command.reset(opcode);
    command.sqe.nsid = 1;
    command.sqe.cdw12 = bytes == 0 ? 0 : bytes / 512 - 1;
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

struct World {
  World() {
    sim.verdict = [this](const spec::Sqe&) {
      return swallow ? SimController::Verdict::swallow : SimController::Verdict::serve;
    };
  }

  static Reactor::Options options(const Clock& clock) {
    Reactor::Options options;
    options.clock = &clock;
    options.use_ring = false;
    return options;
  }
  void until(const std::function<bool()>& done) {
    for (int turns = 0; !done(); ++turns) {
      DE_ASSERT(turns < 200'000);  // two minutes and more of the clock
      reactor.turn();
      clock.advance_ns(1'000'000);
      if (!done()) std::this_thread::yield();
    }
  }
  std::unique_ptr<HostQueue> connect(uint16_t id, Events& events) {
    fabric::HostQueueOptions queue;
    queue.queue_id = id;
    queue.depth = 16;
    queue.shadow_doorbells = true;
    std::unique_ptr<HostQueue> made;
    bool tried = false;
    reactor.post([&] {
      Result<std::unique_ptr<HostQueue>> result =
          transport.connect(reactor, {"PCIe", "00:04.0", "", "", ""}, queue, events);
      if (result) made = std::move(*result);
      tried = true;
    });
    until([&] { return tried; });
    DE_ASSERT(made != nullptr);
    for (int turns = 0; turns < 50'000 && !events.connected && !events.ended; ++turns) {
      reactor.turn();
      clock.advance_ns(1'000'000);
      std::this_thread::yield();
    }
    return made;
  }
  void submit(HostQueue& queue, Io& io) {
    bool done = false;
    reactor.post([&] {
      queue.submit(io.command);
      done = true;
    });
    until([&] { return done; });
  }
  void enable(HostQueue& admin) {
    spec::FabricsProperty property;
    property.type = spec::FabricsType::property_set;
    property.offset = spec::Property::cc;
    property.value = spec::kCcEnable | spec::kCcEntrySizes;
    Io io(spec::AdminOp::fabrics, spec::DataDirection::none, 0);
    io.command.sqe = load_le<spec::Sqe>(&property);
    submit(admin, io);
    for (int i = 0; i < 100 && io.completions == 0; ++i) reactor.turn();
    DE_ASSERT(io.completions == 1);
  }
  // One step of the controller's, which the input chooses.
  void misbehave(const uint8_t*& data, size_t& size) {
    const uint8_t what = *data;
    const uint16_t queue = what >> 7;
    ++data;
    --size;
    std::array<uint8_t, sizeof(spec::Cqe)> bytes{};
    const size_t taken = std::min(size, bytes.size());
    switch (what & 7) {
      case 0:
      case 1:
        std::memcpy(bytes.data(), data, taken);
        data += taken;
        size -= taken;
        sim.post(queue, load_le<spec::Cqe>(bytes.data()));
        break;
      case 2:
        sim.step();
        break;
      case 3:
        swallow = !swallow;
        break;
      case 4:
        sim.fatal = !sim.fatal;
        break;
      case 5:
        sim.gone = true;
        break;
      case 6:
        sim.announce(what);
        break;
      default:
        sim.delete_works = !sim.delete_works;
        break;
    }
    reactor.turn();
    clock.advance_ns(1'000'000);
  }

  ManualClock clock;
  Reactor reactor{options(clock)};
  SimController sim;
  bool swallow = true;
  DmaRegions regions;
  fabric::pcie::HostTransport transport{sim, regions};
};

void end(World& world, std::unique_ptr<HostQueue>& queue, Events& events) {
  if (!events.ended) {
    bool asked = false;
    world.reactor.post([&] {
      queue->disconnect();
      asked = true;
    });
    world.until([&] { return asked; });
    world.until([&] { return events.ended; });
  }
  queue.reset();
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  log_set_level(LogLevel::error);
  World world;
  Events admin_events;
  Events io_events;
  std::unique_ptr<HostQueue> admin = world.connect(0, admin_events);
  DE_ASSERT(admin_events.connected);
  world.enable(*admin);
  std::unique_ptr<HostQueue> io = world.connect(1, io_events);
  DE_ASSERT(io_events.connected);
  std::array ios{Io(spec::IoOp::read, spec::DataDirection::from_controller, 512),
                 Io(spec::IoOp::read, spec::DataDirection::from_controller, 65536),
                 Io(spec::IoOp::write, spec::DataDirection::to_controller, 4096),
                 Io(spec::IoOp::flush, spec::DataDirection::none, 0)};
  Io identify(spec::AdminOp::identify, spec::DataDirection::from_controller, spec::kIdentifyBytes);
  Io event(spec::AdminOp::async_event, spec::DataDirection::none, 0);
  for (Io& one : ios) world.submit(*io, one);
  world.submit(*admin, identify);
  world.submit(*admin, event);
  while (size > 0) world.misbehave(data, size);
  end(world, io, io_events);
  end(world, admin, admin_events);
  for (const Io& one : ios) one.check();
  identify.check();
  event.check();
  for (int i = 0; i < 10; ++i) world.reactor.turn();
  DE_ASSERT(world.sim.dma_faults == 0);
  return 0;
}
