// The dirty-region log: what is marked, what is copied after a crash or a leg's absence, and what is not believed.
#include "raid/test_mirror.h"

namespace diskengine::raid {
namespace {

constexpr uint64_t kRegionBlocks = 32;  // 16 KiB
constexpr uint64_t kData = TestDisk::kFirstMiB;

class LogTest : public MirrorTest {
 protected:
  explicit LogTest(const std::vector<std::string>& names = {"a", "b", "c"}) : MirrorTest(names) {
    EXPECT_TRUE(manager.set_options({.process_window_size_kb = 64, .log_region_kb = 16}));
  }
  // The bitmap on a leg, as a restarted process would find it; all ones if its page is damaged.
  static bool marked_on(const TestDisk& leg, uint64_t region) {
    const auto page = [&](size_t index) {
      return spec::RaidDirtyLogPageView(
          leg.bytes.data() + spec::kRaidDirtyLogOffsetBytes + index * spec::kRaidDirtyLogPageBytes,
          spec::kRaidDirtyLogPageBytes);
    };
    const auto header = spec::decode_raid_dirty_log_header(page(0));
    if (!header) return true;
    const auto bits = spec::decode_raid_dirty_log_page(page(1), header->log_id, 0);
    return !bits || ((*bits)[region / 8] & 1u << region % 8) != 0;
  }
  unsigned marked_on(const TestDisk& leg) {
    unsigned count = 0;
    for (uint64_t region = 0; region < kData / kRegionBlocks; ++region) count += marked_on(leg, region);
    return count;
  }
  void sweep() {
    for (int i = 0; i < 12; ++i) {
      clock.advance_ns(DirtyLog::kSweepNs / 4);
      for (int j = 0; j < 20; ++j) turn();
    }
  }
  void until_in_sync() {
    const auto well = [&] {
      for (const auto& slot : volume().slots())
        if (slot->role != SlotRole::in_sync || slot->unsynced) return false;
      return true;
    };
    for (int i = 0; i < 1000 && !well(); ++i) turn();
    EXPECT_TRUE(well()) << volume().info_json();
  }
  bool data_alike(unsigned i, unsigned j) {
    return std::equal(disk(i).bytes.begin() + 1024 * 1024, disk(i).bytes.end(), disk(j).bytes.begin() + 1024 * 1024);
  }
  void write(uint64_t lba, uint64_t blocks, uint8_t fill) {
    Io io(Op::write, lba, blocks, fill);
    ASSERT_EQ(submit(io), IoCode::ok);
  }
};

// The machine after a crash: the same disks as they were, everything else anew.
class Restarted final : public LogTest {
 public:
  explicit Restarted(const std::vector<std::pair<std::string, const TestDisk*>>& found) : LogTest({}) {
    for (const auto& [name, disk] : found) add_disk(name, kBlocks, true, &disk->bytes);
    for (int i = 0; i < 20; ++i) turn();
    const auto online = registry.find("r");
    if (online) {
      device = online->get();
      raid = device->open_channel(reactor).value();
    }
  }
  void TestBody() override {}
  using LogTest::data_alike;
  using LogTest::disk;
  using LogTest::marked_on;
  using LogTest::role;
  using LogTest::submit;
  using LogTest::turn;
  using LogTest::until_in_sync;
  using LogTest::volume;
  Device* online() { return device; }
};

TEST_F(LogTest, ARegionIsMarkedOnEveryLegBeforeItIsWrittenTo) {
  create(true);
  for (unsigned i = 0; i < 2; ++i)
    disk(i).before_change = [&](const Request& request) {
      for (unsigned leg = 0; leg < 2; ++leg)
        for (uint64_t lba = request.lba; lba < request.lba + request.blocks; ++lba)
          EXPECT_TRUE(marked_on(disk(leg), (lba - kData) / kRegionBlocks));
    };
  for (unsigned round = 0; round < 3; ++round) {
    std::vector<std::unique_ptr<Io>> writes;
    for (unsigned i = 0; i < 100; ++i) {
      writes.push_back(std::make_unique<Io>(Op::write, random.below(kData - 40), 1 + random.below(40), 1));
      raid->submit(*writes.back());
      if (i % 7 == 0) turn();
    }
    drain();
    for (const auto& io : writes) EXPECT_TRUE(io->completed && io->status.ok());
    sweep();
  }
}

TEST_F(LogTest, QuestionsThatComeTogetherCostOneWriteOfTheLog) {
  create(true);
  disk(0).completes_at_once = disk(1).completes_at_once = false;
  std::vector<std::unique_ptr<Io>> writes;
  for (unsigned i = 0; i < 50; ++i) {
    writes.push_back(std::make_unique<Io>(Op::write, i * kRegionBlocks, 1, 1));
    raid->submit(*writes.back());
  }
  const uint64_t before = disk(0).writes;
  drain();
  EXPECT_LE(disk(0).writes - before, 50u + 2);
}

TEST_F(LogTest, WhatIsNoLongerWrittenToIsClearedAfterAFlushAndNotWhileALegIsOut) {
  create(true);
  write(0, 1, 1);
  write(1000, 1, 1);
  EXPECT_EQ(marked_on(disk(0)), 2u);
  const uint64_t flushes = disk(1).flushes;
  sweep();
  EXPECT_EQ(marked_on(disk(0)), 0u);
  EXPECT_EQ(marked_on(disk(1)), 0u);
  EXPECT_GT(disk(1).flushes, flushes);
  write(0, 1, 2);
  ASSERT_TRUE(run(manager.remove_base("b")));
  sweep();
  EXPECT_EQ(marked_on(disk(0)), 1u);
}

TEST_F(LogTest, ALegThatReturnsGetsOnlyWhatItMissed) {
  create(true);
  write(0, kData, 0x11);
  sweep();
  ASSERT_TRUE(run(manager.remove_base("b")));
  write(5, 1, 0x22);
  write(1000, 2, 0x33);
  disk(1).data_blocks = 0;
  ASSERT_TRUE(run(manager.add_base("r", "b")));
  until_in_sync();
  EXPECT_TRUE(data_alike(0, 1));
  EXPECT_LE(disk(1).data_blocks, 2 * kRegionBlocks);
  ASSERT_TRUE(run(manager.remove_base("b")));
  ASSERT_TRUE(run(manager.add_base("r", "c")));  // a new one gets everything
  until_in_sync();
  EXPECT_TRUE(data_alike(0, 2));
}

TEST_F(LogTest, ADeltaSurvivesARestart) {
  create(true);
  write(0, kData, 0x11);
  sweep();
  ASSERT_TRUE(run(manager.remove_base("b")));
  write(700, 1, 0x22);
  Restarted after({{"a", &disk(0)}, {"b", &disk(1)}});
  after.until_in_sync();
  EXPECT_TRUE(after.data_alike(0, 1));
  EXPECT_LE(after.disk(1).data_blocks, kRegionBlocks);
}

TEST_F(LogTest, ALegThatHadNoPlaceIsLookedAtAgainOnceTheVolumeIsOnline) {
  create(true, {"a", "b", "c"});
  write(0, kData, 0x11);
  ASSERT_TRUE(run(manager.remove_base("c")));
  write(700, 1, 0x22);
  for (const auto& order : {std::array{0u, 2u, 1u}, std::array{2u, 0u, 1u}, std::array{2u, 1u, 0u}}) {
    std::vector<std::pair<std::string, const TestDisk*>> found;
    for (const unsigned i : order) found.emplace_back(disk(i).name(), &disk(i));
    Restarted after(found);
    ASSERT_NE(after.online(), nullptr);
    after.until_in_sync();
    EXPECT_TRUE(after.data_alike(0, 1) && after.data_alike(1, 2));
  }
}

TEST_F(LogTest, AfterACrashOnlyMarkedRegionsAreCopiedAndReadsComeFromOneLeg) {
  create(true);
  write(0, kData, 0x11);
  sweep();
  write(64, 1, 0x22);
  // The crash: a write that reached one leg only.
  std::fill_n(disk(1).bytes.begin() + static_cast<std::ptrdiff_t>((kData + 65) * 512), 512, uint8_t{0x99});
  Restarted after({{"a", &disk(0)}, {"b", &disk(1)}});
  ASSERT_NE(after.online(), nullptr);
  for (int i = 0; i < 4; ++i) {
    Io read(Op::read, 65, 1);
    ASSERT_EQ(after.submit(read), IoCode::ok);
    EXPECT_EQ(read.buffer[0], 0x11);
  }
  after.until_in_sync();
  EXPECT_TRUE(after.data_alike(0, 1));
  EXPECT_LE(after.disk(1).data_blocks, kRegionBlocks);
}

TEST_F(LogTest, AStopInOrderLeavesNothingToCopy) {
  create(true);
  write(0, kData, 0x11);
  raid.reset();
  ASSERT_TRUE(run(manager.remove("r", false)));
  EXPECT_EQ(marked_on(disk(0)), 0u);
  Restarted after({{"a", &disk(0)}, {"b", &disk(1)}});
  after.until_in_sync();
  EXPECT_EQ(after.disk(1).data_blocks, 0u);
}

TEST_F(LogTest, ALogThatIsTornOrMissedAVisitIsNotBelieved) {
  create(true);
  write(0, kData, 0x11);
  sweep();
  const std::vector<uint8_t> a = disk(0).bytes, b = disk(1).bytes;
  const size_t page = spec::kRaidDirtyLogOffsetBytes + spec::kRaidDirtyLogPageBytes + 100;
  disk(0).bytes[page] ^= 1;
  {
    Restarted one({{"a", &disk(0)}, {"b", &disk(1)}});
    one.until_in_sync();
    EXPECT_EQ(one.disk(1).data_blocks, 0u) << "the other leg's page is good";
  }
  disk(1).bytes[page] ^= 1;
  {
    Restarted both({{"a", &disk(0)}, {"b", &disk(1)}});
    both.until_in_sync();
    EXPECT_EQ(both.disk(1).data_blocks, kData) << "no page is good: all of it";
  }
  disk(0).bytes = a;
  disk(1).bytes = b;
  auto superblock = spec::decode_raid_superblock(a).value();
  ++superblock.seq_number;  // as somebody does who knows nothing of the log
  const std::vector<uint8_t> bytes = spec::encode(superblock);
  for (unsigned i = 0; i < 2; ++i) std::copy(bytes.begin(), bytes.end(), disk(i).bytes.begin());
  Restarted visited({{"a", &disk(0)}, {"b", &disk(1)}});
  visited.until_in_sync();
  EXPECT_EQ(visited.disk(1).data_blocks, kData);
}

TEST_F(LogTest, AFullRebuildGoesOnAfterARestartWhereItWas) {
  create(true);
  write(0, kData, 0x11);
  sweep();
  ASSERT_TRUE(run(manager.remove_base("b")));
  ASSERT_TRUE(
      manager.set_options({.process_window_size_kb = 64, .process_max_bandwidth_mb_sec = 1, .log_region_kb = 16}));
  ASSERT_TRUE(run(manager.add_base("r", "c")));
  for (int i = 0; i < 500; ++i) turn();  // half a second of one
  clock.advance_ns(DirtyLog::kSweepNs);
  for (int i = 0; i < 8; ++i) turn();
  ASSERT_EQ(role(1), SlotRole::rebuilding);
  EXPECT_LT(marked_on(disk(0)), kData / kRegionBlocks) << "what was copied and flushed is off the list";
  Restarted after({{"a", &disk(0)}, {"c", &disk(2)}});
  after.until_in_sync();
  EXPECT_TRUE(after.data_alike(0, 1));
  EXPECT_LT(after.disk(1).data_blocks, kData * 3 / 4);
}

TEST_F(LogTest, WhenTheLegThatIsReadDiesTheOtherHasEverythingAcknowledged) {
  create(true);
  write(0, kData, 0x11);
  Restarted after({{"a", &disk(0)}, {"b", &disk(1)}});
  after.disk(1).completes_at_once = false;  // the copy gets nowhere
  Io io(Op::write, 9, 1, 0x44);
  after.submit(io);
  after.disk(1).completes_at_once = true;
  after.disk(0).dead = true;
  Io second(Op::write, 900, 1, 0x55);
  EXPECT_EQ(after.submit(second), IoCode::ok);
  EXPECT_EQ(after.role(0), SlotRole::empty);
  Io read(Op::read, 9, 1);
  ASSERT_EQ(after.submit(read), IoCode::ok);
  EXPECT_EQ(read.buffer, io.buffer);
}

TEST_F(LogTest, ZeroesAreNotCopiedAsData) {
  create(true);
  write(0, 64, 0x11);
  ASSERT_TRUE(run(manager.remove_base("b")));
  disk(2).zero_writes = 0;
  const uint64_t writes = disk(2).writes;
  ASSERT_TRUE(run(manager.add_base("r", "c")));
  until_in_sync();
  EXPECT_TRUE(data_alike(0, 2));
  EXPECT_GT(disk(2).zero_writes, 10u);
  EXPECT_LT(disk(2).writes - writes, 20u);
}

}  // namespace
}  // namespace diskengine::raid
