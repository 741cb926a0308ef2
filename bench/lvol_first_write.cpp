// How long the first write to a cluster of a thin lvol takes, new and after a snapshot, for each cluster size.
//
//   lvol_first_write [FILE]     on FILE, made 4 GiB large and then removed; on a RAM disk without one
//
// Prints one JSON array, in microseconds.
#include <fmt/core.h>
#include <unistd.h>

#include <algorithm>
#include <memory>
#include <optional>
#include <string>
#include <utility>
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
constexpr unsigned kFirstWrites = 16;

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

  // One JSON object.
  std::string first_writes(uint32_t cluster_bytes) {
    make_store(cluster_bytes);
    const auto lvol = make_lvol("a");
    const auto channel = lvol->open_channel(reactor_).value();
    const double fresh = median(*channel, cluster_bytes);
    DE_ASSERT(run(reactor_, manager_.snapshot("lvs/a", "s")));
    const double copied = median(*channel, cluster_bytes);
    return fmt::format(R"({{"cluster_bytes":{},"fresh_us":{:.1f},"after_snapshot_us":{:.1f}}})", cluster_bytes, fresh,
                       copied);
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

int measure(Reactor& reactor, std::shared_ptr<Device> disk) {
  Bench bench(reactor, std::move(disk));
  const char* separator = "[";
  for (const uint32_t kib : {64u, 256u, 1024u, 4096u, 16384u})
    fmt::print("{}{}", std::exchange(separator, ","), bench.first_writes(kib * 1024));
  fmt::print("]\n");
  bench.end();
  return 0;
}

int run_all(const char* path) {
  log_set_level(LogLevel::error);
  Reactor reactor({.name = "bench", .use_ring = path != nullptr});
  Random random(1);
  if (path == nullptr) {
    auto disk = RamDisk::create(
        {.name = "ram", .uuid = random.uuid(), .block_size = kBlockSize, .size_blocks = kDiskBytes / kBlockSize});
    DE_ASSERT(disk);
    return measure(reactor, *disk);
  }
  FILE* file = std::fopen(path, "w");
  DE_ASSERT(file != nullptr && ftruncate(fileno(file), kDiskBytes) == 0);
  std::fclose(file);
  auto disk = UringDisk::create({.name = "file", .path = path, .uuid = random.uuid(), .block_size = kBlockSize});
  DE_ASSERT(disk);
  const int exit_code = measure(reactor, *disk);
  unlink(path);
  return exit_code;
}

}  // namespace
}  // namespace diskengine

int main(int argc, char** argv) { return diskengine::run_all(argc > 1 ? argv[1] : nullptr); }
