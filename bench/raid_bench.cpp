// What the mirror itself costs: 4 KiB requests to RAID1 over two RAM disks on one reactor, without and with superblocks
// and dirty-region log, beside the same requests to one RAM disk. Prints thousand I/Os a second of processor time at
// queue depth 1, 32 and 128.
#include <fmt/core.h>

#include <ctime>
#include <memory>
#include <vector>

#include "base/log.h"
#include "disk/ram.h"
#include "raid/manager.h"
#include "runtime/random.h"

namespace diskengine {
namespace {

constexpr uint32_t kBlockSize = 4096;
constexpr uint64_t kBlocks = 16384;                 // 64 MiB
constexpr uint64_t kVolumeBlocks = kBlocks - 1024;  // what is left behind superblock and log
constexpr uint64_t kRunNs = 400'000'000;

struct Load;
struct Slot : Request {
  Load* load = nullptr;
  iovec piece{};
};

struct Load {
  Load(Channel& c, Op op, unsigned depth) : channel(c), buffers(depth * kBlockSize), slots(depth) {
    for (unsigned i = 0; i < depth; ++i) {
      Slot& slot = slots[i];
      slot.load = this;
      slot.piece = {buffers.data() + i * kBlockSize, kBlockSize};
      slot.op = op;
      slot.blocks = 1;
      slot.iov = {&slot.piece, 1};
      slot.done = [](Request& request) noexcept {
        auto& done = static_cast<Slot&>(request);
        ++done.load->completed;
        --done.load->under_way;
        if (!done.load->stopping) done.load->submit(done);
      };
    }
  }
  void submit(Slot& slot) noexcept {
    slot.lba = random.below(kVolumeBlocks);
    ++under_way;
    channel.submit(slot);
  }

  Channel& channel;
  Random random{7};
  DmaBuffer buffers;
  std::vector<Slot> slots;
  uint64_t completed = 0;
  unsigned under_way = 0;
  bool stopping = false;
};

// Time that this process had a core, so that others on the machine disturb little.
uint64_t cpu_ns() { return static_cast<uint64_t>(std::clock()) * (1'000'000'000 / CLOCKS_PER_SEC); }

double thousand_a_second(Reactor& reactor, Channel& channel, Op op, unsigned depth) {
  Load load(channel, op, depth);
  reactor.post([&load] {
    for (Slot& slot : load.slots) load.submit(slot);
  });
  const uint64_t start = cpu_ns();
  while (cpu_ns() - start < kRunNs)
    for (unsigned i = 0; i < 100; ++i) reactor.turn();
  const uint64_t took = cpu_ns() - start;
  const uint64_t completed = load.completed;
  load.stopping = true;
  while (load.under_way > 0) reactor.turn();
  return static_cast<double>(completed) * 1e6 / static_cast<double>(took);
}

std::shared_ptr<Device> ram(DeviceRegistry& registry, Random& random, const char* name) {
  auto disk = RamDisk::create({.name = name, .uuid = random.uuid(), .block_size = kBlockSize, .size_blocks = kBlocks});
  DE_ASSERT(disk && registry.add(*disk));
  return *disk;
}

void make_mirror(Reactor& reactor, raid::RaidManager& manager, const char* name, std::vector<std::string> legs,
                 bool superblock) {
  bool made = false;
  raid::RaidManager::CreateOptions options;
  options.name = name;
  options.base_bdevs = std::move(legs);
  options.superblock = superblock;
  reactor.post(
      [&] { spawn<Result<void>>(manager.create(std::move(options)), [&](Result<void> r) { made = r.has_value(); }); });
  DE_ASSERT(reactor.run_until([&] { return made; }));
}

int run() {
  log_set_level(LogLevel::error);
  Reactor reactor({.name = "bench", .use_ring = false});
  DeviceRegistry registry(reactor);
  Random random(1);
  raid::RaidManager manager(registry, 2);  // another seed than the disks: no UUID comes twice
  const auto single = ram(registry, random, "single");
  for (const char* name : {"a", "b", "c", "d"}) ram(registry, random, name);
  make_mirror(reactor, manager, "mirror", {"a", "b"}, false);
  make_mirror(reactor, manager, "logged", {"c", "d"}, true);
  {
    std::unique_ptr<Channel> one = single->open_channel(reactor).value();
    std::unique_ptr<Channel> mirror = registry.find("mirror").value()->open_channel(reactor).value();
    std::unique_ptr<Channel> logged = registry.find("logged").value()->open_channel(reactor).value();
    fmt::print("{:>6} {:>4} {:>12} {:>12} {:>12}\n", "op", "QD", "RAM disk", "RAID1", "with log");
    for (const Op op : {Op::write, Op::read})
      for (const unsigned depth : {1u, 32u, 128u}) {
        const double direct = thousand_a_second(reactor, *one, op, depth);
        const double mirrored = thousand_a_second(reactor, *mirror, op, depth);
        const double with_log = thousand_a_second(reactor, *logged, op, depth);
        fmt::print("{:>6} {:>4} {:>10.0f} k {:>10.0f} k {:>10.0f} k\n", name_of(op), depth, direct, mirrored, with_log);
      }
  }
  bool stopped = false;
  reactor.post([&] { spawn(manager.stop(), [&] { stopped = true; }); });
  DE_ASSERT(reactor.run_until([&] { return stopped; }));
  return 0;
}

}  // namespace
}  // namespace diskengine

int main() { return diskengine::run(); }
