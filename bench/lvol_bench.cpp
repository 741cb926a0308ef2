// What a lvol costs: 4 KiB requests to an allocated thin lvol beside the same requests to the bare disk, and the time
// of the first write to a cluster, new and after a snapshot, for each cluster size. On a RAM disk, and on the file that
// is named (made 4 GiB large, then removed).
#include <fmt/core.h>
#include <unistd.h>

#include <algorithm>
#include <memory>
#include <vector>

#include "base/log.h"
#include "disk/ram.h"
#include "disk/uring.h"
#include "lvol/manager.h"
#include "runtime/random.h"

namespace diskengine {
namespace {

constexpr uint32_t kBlockSize = 4096;
constexpr uint64_t kDiskBytes = uint64_t{4} << 30;
constexpr uint64_t kLvolBytes = uint64_t{256} << 20;
constexpr uint64_t kRunNs = 500'000'000;
constexpr unsigned kFirstWrites = 16;

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
        DE_ASSERT(done.status.ok());
        ++done.load->completed;
        --done.load->under_way;
        if (!done.load->stopping) done.load->submit(done);
      };
    }
  }
  void submit(Slot& slot) noexcept {
    slot.lba = random.below(kLvolBytes / kBlockSize);
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

double thousand_a_second(Reactor& reactor, Channel& channel, Op op, unsigned depth) {
  Load load(channel, op, depth);
  reactor.post([&load] {
    for (Slot& slot : load.slots) load.submit(slot);
  });
  const uint64_t start = reactor.clock().now_ns();
  while (reactor.clock().now_ns() - start < kRunNs) reactor.turn();
  const uint64_t took = reactor.clock().now_ns() - start;
  const uint64_t completed = load.completed;
  load.stopping = true;
  while (load.under_way > 0) reactor.turn();
  return static_cast<double>(completed) * 1e6 / static_cast<double>(took);
}

// One 4 KiB write to its end; microseconds.
double write_once(Reactor& reactor, Channel& channel, uint64_t lba) {
  struct Waiting : Request {
    bool ended = false;
  } request;
  DmaBuffer buffer(kBlockSize);
  const iovec piece{buffer.data(), kBlockSize};
  request.op = Op::write;
  request.lba = lba;
  request.blocks = 1;
  request.iov = {&piece, 1};
  request.done = [](Request& done) noexcept { static_cast<Waiting&>(done).ended = true; };
  const uint64_t start = reactor.clock().now_ns();
  reactor.post([&] { channel.submit(request); });
  while (!request.ended) reactor.turn();
  DE_ASSERT(request.status.ok());
  return static_cast<double>(reactor.clock().now_ns() - start) / 1e3;
}

template <typename T>
T run(Reactor& reactor, Task<T> task) {
  std::optional<T> value;
  auto held = std::make_shared<Task<T>>(std::move(task));
  reactor.post([&, held] { spawn<T>(std::move(*held), [&](T result) { value.emplace(std::move(result)); }); });
  while (!value) reactor.turn();
  return std::move(*value);
}

class Bench {
 public:
  Bench(Reactor& reactor, std::shared_ptr<Device> disk) : reactor_(reactor), registry_(reactor), disk_(disk) {
    DE_ASSERT(registry_.add(disk_));
  }

  void steady(const char* name) {
    make_store(4 << 20);
    const auto lvol = make_lvol("a");
    const auto top = lvol->open_channel(reactor_).value();
    for (uint64_t at = 0; at < kLvolBytes; at += 4 << 20) write_once(reactor_, *top, at / kBlockSize);
    const auto bare = disk_->open_channel(reactor_).value();
    for (const Op op : {Op::write, Op::read})
      for (const unsigned depth : {1u, 32u, 128u}) {
        double direct = 0, through = 0;
        for (unsigned round = 0; round < 3; ++round) {  // by turns, the best of each: others use the machine too
          direct = std::max(direct, thousand_a_second(reactor_, *bare, op, depth));
          through = std::max(through, thousand_a_second(reactor_, *top, op, depth));
        }
        fmt::print("{:>6} {:>6} {:>4} {:>10.0f} k {:>10.0f} k {:>6.1f} %\n", name, name_of(op), depth, direct, through,
                   through * 100 / direct);
      }
  }

  void first_writes(const char* name, uint32_t cluster_bytes) {
    make_store(cluster_bytes);
    const auto lvol = make_lvol("a");
    const auto channel = lvol->open_channel(reactor_).value();
    const double fresh = median(*channel, cluster_bytes);
    DE_ASSERT(run(reactor_, manager_.snapshot("lvs/a", "s")));
    const double copied = median(*channel, cluster_bytes);
    fmt::print("{:>6} {:>8} KiB {:>12.0f} us {:>12.0f} us\n", name, cluster_bytes / 1024, fresh, copied);
  }

  void end() {
    bool stopped = false;
    reactor_.post([&] { spawn(manager_.stop(), [&] { stopped = true; }); });
    while (!stopped) reactor_.turn();
  }

 private:
  void make_store(uint32_t cluster_bytes) {
    if (!manager_.stores().empty()) DE_ASSERT(run(reactor_, manager_.delete_store("lvs")));
    lvol::CreateStore options;
    options.base_bdev = disk_->name();
    options.name = "lvs";
    options.cluster_bytes = cluster_bytes;
    options.clear_method = lvol::ClearMethod::none;
    DE_ASSERT(run(reactor_, manager_.create_store(options)));
  }
  std::shared_ptr<Device> make_lvol(const char* name) {
    lvol::CreateLvol options;
    options.store = "lvs";
    options.name = name;
    options.size_bytes = kLvolBytes;
    options.thin = true;
    DE_ASSERT(run(reactor_, manager_.create_lvol(options)));
    return registry_.find(std::string("lvs/") + name).value();
  }
  double median(Channel& channel, uint32_t cluster_bytes) {
    std::vector<double> took;
    for (unsigned i = 0; i < kFirstWrites; ++i)
      took.push_back(write_once(reactor_, channel, (uint64_t{i} * cluster_bytes + 8192) / kBlockSize));
    std::nth_element(took.begin(), took.begin() + kFirstWrites / 2, took.end());
    return took[kFirstWrites / 2];
  }

  Reactor& reactor_;
  DeviceRegistry registry_;
  std::shared_ptr<Device> disk_;
  lvol::LvolManager manager_{registry_, 1};
};

void measure(Reactor& reactor, const char* name, std::shared_ptr<Device> disk) {
  Bench bench(reactor, std::move(disk));
  fmt::print("{:>6} {:>6} {:>4} {:>12} {:>12} {:>8}\n", "disk", "op", "QD", "bare", "thin lvol", "");
  bench.steady(name);
  fmt::print("{:>6} {:>12} {:>15} {:>15}\n", "disk", "cluster", "first write", "after snapshot");
  for (const uint32_t kib : {64u, 256u, 1024u, 4096u, 16384u}) bench.first_writes(name, kib * 1024);
  bench.end();
}

int run_all(const char* path) {
  log_set_level(LogLevel::error);
  Reactor reactor({.name = "bench", .use_ring = path != nullptr});
  Random random(1);
  if (path == nullptr) {
    auto disk = RamDisk::create(
        {.name = "ram", .uuid = random.uuid(), .block_size = kBlockSize, .size_blocks = kDiskBytes / kBlockSize});
    DE_ASSERT(disk);
    measure(reactor, "ram", *disk);
    return 0;
  }
  FILE* file = std::fopen(path, "w");
  DE_ASSERT(file != nullptr && ftruncate(fileno(file), kDiskBytes) == 0);
  std::fclose(file);
  auto disk = UringDisk::create({.name = "file", .path = path, .uuid = random.uuid(), .block_size = kBlockSize});
  DE_ASSERT(disk);
  measure(reactor, "file", *disk);
  unlink(path);
  return 0;
}

}  // namespace
}  // namespace diskengine

int main(int argc, char** argv) { return diskengine::run_all(argc > 1 ? argv[1] : nullptr); }
