// Legs that lose what they had not flushed while the volume is in use: they are not read before they have it back, and
// where no leg has it the volume says so and waits.
#include "raid/test_mirror.h"

namespace diskengine::raid {
namespace {

constexpr uint64_t kData = TestDisk::kFirstMiB;

class CacheTest : public MirrorTest {
 protected:
  explicit CacheTest(const std::vector<std::string>& names = {"a", "b", "c"}) : MirrorTest(names) {
    EXPECT_TRUE(manager.set_options({.process_window_size_kb = 64, .log_region_kb = 16}));
    for (auto& one : disks) one->begin_to_cache();
  }
  void write(uint64_t lba, uint64_t blocks, uint8_t fill) {
    Io io(Op::write, lba, blocks, fill);
    ASSERT_EQ(submit(io), IoCode::ok);
  }
  void read_on_all(uint64_t lba, uint8_t expected) {
    for (int i = 0; i < 4; ++i) {
      Io io(Op::read, lba, 1);
      ASSERT_EQ(submit(io), IoCode::ok);
      EXPECT_EQ(io.buffer[0], expected);
    }
  }
  // Everything is written, flushed and off the log; then one block that is not flushed.
  void prepare(bool superblock = true) {
    create(superblock);
    write(0, kData, 0x11);
    for (int i = 0; i < 12; ++i) {
      clock.advance_ns(DirtyLog::kSweepNs / 4);
      for (int j = 0; j < 20; ++j) turn();
    }
    Io flush(Op::flush, 0, 0);
    ASSERT_EQ(submit(flush), IoCode::ok);
    write(64, 1, 0x22);
    for (auto& one : disks) one->data_blocks = 0;
  }
  void lose(unsigned i) { disk(i).lose_cache(); }
  void until_in_sync() {
    const auto well = [&] { return role(0) == SlotRole::in_sync && role(1) == SlotRole::in_sync; };
    for (int i = 0; i < 3000 && !well(); ++i) turn();
    EXPECT_TRUE(well()) << volume().info_json();
  }
  bool data_alike(unsigned i, unsigned j) {
    return std::equal(disk(i).bytes.begin() + 1024 * 1024, disk(i).bytes.end(), disk(j).bytes.begin() + 1024 * 1024);
  }
  bool told_of(EventType type) {
    const RaidEvents::Batch batch = events_after(0);
    return std::any_of(batch.events.begin(), batch.events.end(), [&](const Event& e) { return e.type == type; });
  }
};

TEST_F(CacheTest, ALegThatLostItsCacheIsNotReadBeforeItHasBackWhatWasNotFlushed) {
  prepare();
  lose(0);
  ASSERT_EQ(disk(0).bytes[(kData + 64) * 512], 0x11);
  read_on_all(64, 0x22);
  until_in_sync();
  EXPECT_EQ(disk(0).holds, 0u);
  EXPECT_TRUE(data_alike(0, 1));
  EXPECT_LE(disk(0).data_blocks, 32u) << "only the region that was marked";
  EXPECT_TRUE(told_of(EventType::cache_lost));
  disk(1).dead = true;
  Io io(Op::read, 64, 1);
  ASSERT_EQ(submit(io), IoCode::ok);
  EXPECT_EQ(io.buffer[0], 0x22);
}

TEST_F(CacheTest, AReadThatWaitedForTheLegIsServedByAnother) {
  prepare();
  for (unsigned i = 0; i < 2; ++i) disk(i).completes_at_once = false;
  Io one(Op::read, 64, 1), two(Op::read, 64, 1), three(Op::read, 64, 1);
  for (Io* io : {&one, &two, &three}) raid->submit(*io);
  for (int i = 0; i < 3; ++i) turn();
  lose(0);
  EXPECT_EQ(disk(0).holds, 1u);
  for (int i = 0; i < 20; ++i) turn();
  EXPECT_EQ(disk(0).holds, 0u) << "it waits for no I/O";
  for (unsigned i = 0; i < 2; ++i) disk(i).completes_at_once = true;
  drain();
  for (const Io* io : {&one, &two, &three}) {
    EXPECT_TRUE(io->completed && io->status.ok());
    EXPECT_EQ(io->buffer[0], 0x22);
  }
}

TEST_F(CacheTest, WhereNothingWasUnflushedNothingIsDone) {
  prepare();
  for (int i = 0; i < 12; ++i) {
    clock.advance_ns(DirtyLog::kSweepNs / 4);
    for (int j = 0; j < 20; ++j) turn();
  }
  const uint64_t sequence = volume().sequence();
  lose(0);
  for (int i = 0; i < 50; ++i) turn();
  EXPECT_EQ(disk(0).holds, 0u);
  EXPECT_EQ(volume().sequence(), sequence);
  EXPECT_EQ(disk(0).data_blocks, 0u);
  read_on_all(64, 0x22);
}

TEST_F(CacheTest, AFlushThatWasUnderWayClearsNothing) {
  prepare();
  disk(0).completes_at_once = false;
  clock.advance_ns(2 * DirtyLog::kSweepNs);  // two sweeps: the second flushes
  for (int i = 0; i < 20; ++i) turn();
  clock.advance_ns(2 * DirtyLog::kSweepNs);
  for (int i = 0; i < 20; ++i) turn();
  lose(0);
  disk(0).completes_at_once = true;
  drain();
  until_in_sync();
  EXPECT_TRUE(data_alike(0, 1));
  EXPECT_EQ(disk(0).bytes[(kData + 64) * 512], 0x22);
}

TEST_F(CacheTest, WithoutALogAllOfItIsCopied) {
  prepare(false);
  lose(0);
  read_on_all(64, 0x22);
  until_in_sync();
  EXPECT_TRUE(disk(0).bytes == disk(1).bytes);
}

TEST_F(CacheTest, WhenEveryLegLostItsCacheTheVolumeStopsUntilItIsToldToGoOn) {
  prepare();
  disk(0).completes_at_once = false;
  lose(0);
  for (int i = 0; i < 5; ++i) turn();
  Io flush(Op::flush, 0, 0);
  disk(1).completes_at_once = false;
  raid->submit(flush);
  lose(1);
  for (int i = 0; i < 30; ++i) turn();
  for (unsigned i = 0; i < 2; ++i) disk(i).completes_at_once = true;
  Io read(Op::read, 64, 1), write_later(Op::write, 70, 1, 0x33);
  raid->submit(read);
  raid->submit(write_later);
  drain();
  EXPECT_FALSE(read.completed || write_later.completed || flush.completed);
  EXPECT_TRUE(volume().stopped());
  EXPECT_NE(volume().info_json().find(R"("stopped":true,"reason":"every leg may have lost)"), std::string::npos);
  EXPECT_TRUE(told_of(EventType::stopped));
  ASSERT_TRUE(run(volume().resume()));
  drain();
  EXPECT_TRUE(read.completed && write_later.completed && flush.completed);
  EXPECT_EQ(read.buffer[0], 0x11) << "what its legs hold";
  EXPECT_EQ(run(volume().resume()).error().code(), Errc::not_found);
}

TEST_F(CacheTest, AVolumeThatIsStoppedAndCannotReachALegGivesOneReason) {
  prepare();
  ASSERT_TRUE(run(manager.remove_base("b")));
  lose(0);
  drain();
  ASSERT_TRUE(volume().stopped());
  disk(0).dead = true;
  disk(0).failure = IoCode::disconnected;
  volume().leg_failed_write(*volume().slots()[0], IoStatus::error(IoCode::disconnected));
  for (int i = 0; i < 400; ++i) turn();
  const std::string json = volume().info_json();
  EXPECT_NE(json.find(R"("waiting":{)"), std::string::npos) << json;
  const std::string reason = R"(,"reason":"every leg may have lost)";
  EXPECT_NE(json.find(reason), std::string::npos);
  EXPECT_EQ(json.find(R"("reason":"no leg)"), std::string::npos) << json;
  disk(0).dead = false;
  for (int i = 0; i < 400; ++i) turn();
}

TEST_F(CacheTest, DeletingAStoppedVolumeFailsWhatWaits) {
  prepare();
  ASSERT_TRUE(run(manager.remove_base("b")));
  lose(0);
  Io read(Op::read, 64, 1);
  raid->submit(read);
  drain();
  ASSERT_FALSE(read.completed);
  bool deleted = false;
  spawn<Result<void>>(manager.remove("r", false), [&](Result<void> r) { deleted = r.has_value(); });
  drain();
  EXPECT_TRUE(read.completed && read.status.code == IoCode::fenced);
  raid.reset();
  drain();
  EXPECT_TRUE(deleted);
}

TEST_F(CacheTest, ALegThatLosesItsCacheWhileItIsCopiedToIsCopiedToAgain) {
  prepare(false);
  ASSERT_TRUE(run(manager.remove_base("b")));
  ASSERT_TRUE(manager.set_options({.process_window_size_kb = 64, .process_max_bandwidth_mb_sec = 1}));
  ASSERT_TRUE(run(manager.add_base("r", "b")));
  for (int i = 0; i < 1200; ++i) turn();
  ASSERT_EQ(role(1), SlotRole::rebuilding);
  lose(1);
  for (int i = 0; i < 8000 && role(1) != SlotRole::in_sync; ++i) turn();
  EXPECT_EQ(role(1), SlotRole::in_sync);
  EXPECT_TRUE(disk(0).bytes == disk(1).bytes);
}

}  // namespace
}  // namespace diskengine::raid
