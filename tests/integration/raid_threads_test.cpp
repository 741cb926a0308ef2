// A mirror used from two reactors on two threads while legs leave, return and are rebuilt. Under the thread sanitizer
// this holds that a rebuild never touches blocks at the same time as a write, and that channels learn of changes
// properly.
#include <gtest/gtest.h>

#include <atomic>
#include <cstring>
#include <thread>

#include "base/log.h"
#include "disk/ram.h"
#include "raid/manager.h"
#include "runtime/random.h"

namespace diskengine {
namespace {

constexpr uint64_t kBlocks = 8192;  // 4 MiB
constexpr unsigned kDepth = 8;
constexpr uint64_t kBlockSize = 512;

// Writes and reads back one half of the volume from one reactor.
class Writer {
 public:
  Writer(Reactor& reactor, std::shared_ptr<Device> device, uint64_t first, uint64_t count, uint64_t seed)
      : reactor_(reactor), device_(std::move(device)), first_(first), count_(count), random_(seed) {}

  void start() {
    reactor_.post([this] {
      channel_ = device_->open_channel(reactor_).value();
      device_.reset();
      for (Slot& slot : slots_) {
        slot.writer = this;
        slot.piece = {slot.buffer, kBlockSize};
        slot.iov = {&slot.piece, 1};
        slot.blocks = 1;
        slot.done = [](Request& request) noexcept {
          auto& done = static_cast<Slot&>(request);
          done.writer->next(done);
        };
        submit(slot, Op::write);
      }
    });
  }
  void stop() { stopping_ = true; }
  bool stopped() const { return stopped_; }
  uint64_t completed() const { return completed_; }
  uint64_t wrong() const { return wrong_; }

 private:
  struct Slot : Request {
    Writer* writer = nullptr;
    alignas(64) uint8_t buffer[kBlockSize] = {};
    iovec piece{};
    uint64_t stamp = 0;
  };

  void submit(Slot& slot, Op op) {
    slot.op = op;
    if (op == Op::write) {
      // Each slot has blocks of its own, so a read has one right answer.
      const auto lane = static_cast<uint64_t>(&slot - slots_);
      slot.lba = first_ + random_.below(count_ / kDepth) * kDepth + lane;
      slot.stamp = ++next_stamp_;
      for (size_t at = 0; at < kBlockSize; at += 8) std::memcpy(slot.buffer + at, &slot.stamp, 8);
    } else {
      std::memset(slot.buffer, 0, kBlockSize);
    }
    channel_->submit(slot);
  }
  void next(Slot& slot) {
    ++completed_;
    if (!slot.status.ok()) ++wrong_;
    if (slot.op == Op::read && std::memcmp(slot.buffer, &slot.stamp, 8) != 0) ++wrong_;
    if (slot.op == Op::write) {
      submit(slot, Op::read);
    } else if (!stopping_) {
      submit(slot, Op::write);
    } else if (++idle_ == kDepth) {
      reactor_.post([this] {
        channel_.reset();
        stopped_ = true;
      });
    }
  }

  Reactor& reactor_;
  std::shared_ptr<Device> device_;
  uint64_t first_;
  uint64_t count_;
  Random random_;
  std::unique_ptr<Channel> channel_;
  Slot slots_[kDepth];
  uint64_t next_stamp_ = 0;
  unsigned idle_ = 0;
  std::atomic<bool> stopping_{false};
  std::atomic<bool> stopped_{false};
  std::atomic<uint64_t> completed_{0};
  std::atomic<uint64_t> wrong_{0};
};

Task<Result<void>> replace_legs(Reactor& main, raid::RaidManager& manager, unsigned rounds) {
  const char* names[] = {"a", "b", "c"};
  for (unsigned i = 0; i < rounds; ++i) {
    Task<Result<void>> removing = manager.remove_base(names[i % 3]);
    const Result<void> removed = co_await removing;
    CO_TRY(removed);
    Task<Result<void>> adding = manager.add_base("r", names[(i + 2) % 3]);
    const Result<void> added = co_await adding;
    CO_TRY(added);
    const std::shared_ptr<raid::Volume> volume = manager.find("r");
    while (volume->info_json().find("\"num_base_bdevs_in_sync\":2") == std::string::npos)
      co_await sleep_for(main, 1'000'000);
  }
  co_return Result<void>{};
}

TEST(RaidThreads, LegsAreReplacedUnderLoadFromTwoReactors) {
  log_set_level(LogLevel::error);
  Reactor main({.name = "main", .id = 0});
  Reactor other({.name = "other", .id = 1});
  std::thread thread([&] { other.run(); });
  DeviceRegistry registry(main);
  Random random(3);
  std::vector<std::shared_ptr<RamDisk>> disks;
  {
    raid::RaidManager manager(registry, 1);
    for (const char* name : {"a", "b", "c"}) {
      disks.push_back(
          RamDisk::create({.name = name, .uuid = random.uuid(), .block_size = kBlockSize, .size_blocks = kBlocks})
              .value());
      ASSERT_TRUE(registry.add(disks.back()));
    }
    std::atomic<bool> made{false};
    main.post([&] {
      EXPECT_TRUE(manager.set_options({.process_window_size_kb = 64, .process_max_bandwidth_mb_sec = 0}));
      spawn<Result<void>>(manager.create({.name = "r", .uuid = {}, .base_bdevs = {"a", "b"}}),
                          [&](Result<void> r) { made = r.has_value(); });
    });
    ASSERT_TRUE(main.run_until([&] { return made.load(); }));
    Writer mine(main, registry.find("r").value(), 0, kBlocks / 2, 1);
    Writer theirs(other, registry.find("r").value(), kBlocks / 2, kBlocks / 2, 2);
    mine.start();
    theirs.start();
    std::optional<Result<void>> replaced;
    main.post(
        [&] { spawn<Result<void>>(replace_legs(main, manager, 9), [&](Result<void> r) { replaced = std::move(r); }); });
    EXPECT_TRUE(main.run_until([&] { return replaced.has_value(); }, 60'000'000'000));
    EXPECT_TRUE(replaced && replaced->has_value()) << (replaced ? replaced->error().message() : "");
    mine.stop();
    theirs.stop();
    ASSERT_TRUE(main.run_until([&] { return mine.stopped() && theirs.stopped(); }));
    EXPECT_GT(mine.completed(), 100u);
    EXPECT_GT(theirs.completed(), 100u);
    EXPECT_EQ(mine.wrong() + theirs.wrong(), 0u);
    std::vector<RamDisk*> legs;
    for (const auto& disk : disks)
      if (disk->claimed_by() == "r") legs.push_back(disk.get());
    ASSERT_EQ(legs.size(), 2u);
    EXPECT_EQ(std::memcmp(legs[0]->bytes(), legs[1]->bytes(), kBlocks * kBlockSize), 0);
    bool stopped = false;
    main.post([&] { spawn(manager.stop(), [&] { stopped = true; }); });
    ASSERT_TRUE(main.run_until([&] { return stopped; }));
  }
  other.stop();
  thread.join();
}

}  // namespace
}  // namespace diskengine
