// A lvol used from two reactors on two threads while snapshots of it are taken, deleted and cut loose. Under the thread
// sanitizer this holds that maps, parents and clusters change hands properly; everywhere, that no read finds anything
// but what was written last.
#include <gtest/gtest.h>

#include <atomic>
#include <cstring>
#include <thread>

#include "base/log.h"
#include "disk/ram.h"
#include "lvol/manager.h"
#include "runtime/random.h"

namespace diskengine {
namespace {

constexpr uint64_t kBlocks = 4096;  // 2 MiB: 32 clusters
constexpr uint64_t kPerCluster = 128;
constexpr unsigned kDepth = 8;
constexpr uint64_t kBlockSize = 512;

// Writes and reads back one half of the lvol from one reactor, and gives up clusters of it.
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
    slot.blocks = 1;
    slot.iov = {&slot.piece, 1};
    if (op == Op::write) {
      // Each slot has clusters of its own, so a read has one right answer.
      const auto lane = static_cast<uint64_t>(&slot - slots_);
      const uint64_t clusters = count_ / kPerCluster / kDepth;
      slot.lba = first_ + (random_.below(clusters) * kDepth + lane) * kPerCluster + random_.below(kPerCluster);
      slot.stamp = ++next_stamp_;
      for (size_t at = 0; at < kBlockSize; at += 8) std::memcpy(slot.buffer + at, &slot.stamp, 8);
    } else if (op == Op::unmap) {
      slot.lba = slot.lba / kPerCluster * kPerCluster;
      slot.blocks = kPerCluster;
      slot.iov = {};
      slot.stamp = 0;
    } else {
      std::memset(slot.buffer, 0xee, kBlockSize);
    }
    channel_->submit(slot);
  }
  void next(Slot& slot) {
    ++completed_;
    if (!slot.status.ok()) ++wrong_;
    if (slot.op == Op::read && std::memcmp(slot.buffer, &slot.stamp, 8) != 0) ++wrong_;
    if (slot.op == Op::write && random_.chance(1, 6)) {
      submit(slot, Op::unmap);
    } else if (slot.op != Op::read) {
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

Task<Result<void>> take_and_drop_snapshots(Reactor& main, lvol::LvolManager& manager, unsigned rounds) {
  for (unsigned i = 0; i < rounds; ++i) {
    for (const char* name : {"s1", "s2"}) {
      Task<Result<lvol::LvolInfo>> taking = manager.snapshot("lvs/a", name);
      const Result<lvol::LvolInfo> taken = co_await taking;
      CO_TRY(taken);
      co_await sleep_for(main, 3'000'000);
    }
    Task<Result<void>> cutting = manager.decouple_parent("lvs/a");
    const Result<void> cut = co_await cutting;
    CO_TRY(cut);
    for (const char* name : {"lvs/s2", "lvs/s1"}) {
      Task<Result<void>> deleting = manager.delete_lvol(name);
      const Result<void> deleted = co_await deleting;
      CO_TRY(deleted);
    }
  }
  co_return Result<void>{};
}

TEST(LvolThreads, SnapshotsComeAndGoUnderLoadFromTwoReactors) {
  log_set_level(LogLevel::error);
  Reactor main({.name = "main", .id = 0});
  Reactor other({.name = "other", .id = 1});
  DeviceRegistry registry(main);
  Random random(1);
  auto disk = RamDisk::create({.name = "ram",
                               .uuid = random.uuid(),
                               .block_size = kBlockSize,
                               .size_blocks = (uint64_t{16} << 20) / kBlockSize});
  ASSERT_TRUE(disk && registry.add(*disk));
  lvol::LvolManager manager(registry, 1);
  const auto run = [&](auto task) {
    bool ended = false, ok = false;
    auto held = std::make_shared<decltype(task)>(std::move(task));
    main.post([&, held] {
      using Outcome = decltype(held->await_resume());
      spawn<Outcome>(std::move(*held), [&](Outcome result) {
        ended = true;
        ok = result.has_value();
        EXPECT_TRUE(ok) << (ok ? "" : result.error().message());
      });
    });
    EXPECT_TRUE(main.run_until([&] { return ended; }, 120'000'000'000));
    return ok;
  };
  lvol::CreateStore store;
  store.base_bdev = "ram";
  store.name = "lvs";
  store.cluster_bytes = static_cast<uint32_t>(kPerCluster * kBlockSize);
  ASSERT_TRUE(run(manager.create_store(store)));
  lvol::CreateLvol wanted;
  wanted.store = "lvs";
  wanted.name = "a";
  wanted.size_bytes = kBlocks * kBlockSize;
  wanted.thin = true;
  ASSERT_TRUE(run(manager.create_lvol(wanted)));

  std::thread thread([&other] { other.run(); });
  std::shared_ptr<Device> device = registry.find("lvs/a").value();
  Writer here(main, device, 0, kBlocks / 2, 1), there(other, device, kBlocks / 2, kBlocks / 2, 2);
  here.start();
  there.start();
  EXPECT_TRUE(run(take_and_drop_snapshots(main, manager, 8)));
  here.stop();
  there.stop();
  EXPECT_TRUE(main.run_until([&] { return here.stopped() && there.stopped(); }, 60'000'000'000));
  EXPECT_GT(here.completed(), 100u);
  EXPECT_GT(there.completed(), 100u);
  EXPECT_EQ(here.wrong() + there.wrong(), 0u);
  EXPECT_TRUE(run(manager.check("lvs", false)));
  device.reset();
  bool stopped = false;
  main.post([&] { spawn(manager.stop(), [&] { stopped = true; }); });
  EXPECT_TRUE(main.run_until([&] { return stopped; }, 60'000'000'000));
  other.stop();
  thread.join();
}

}  // namespace
}  // namespace diskengine
