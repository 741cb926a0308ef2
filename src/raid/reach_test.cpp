// While no leg in sync can be reached I/O waits, for a bounded time, and goes on by itself; nothing is acknowledged
// meanwhile, and the last leg in sync stays in sync.
#include "raid/test_mirror.h"

namespace diskengine::raid {
namespace {

constexpr uint64_t kSecondNs = 1'000'000'000;

class ReachTest : public MirrorTest {
 protected:
  ReachTest() { limit(30); }
  void limit(uint32_t seconds) {
    EXPECT_TRUE(manager.set_options({.log_region_kb = 16, .no_leg_timeout_sec = seconds}));
  }
  void cut(unsigned i) {
    disk(i).failure = IoCode::disconnected;
    disk(i).dead = true;
  }
  void mend(unsigned i) { disk(i).dead = false; }
  void pass(uint64_t ns) {
    for (uint64_t step = 0; step < 100; ++step) {
      clock.advance_ns(ns / 100);
      for (int i = 0; i < 5; ++i) reactor.turn();
    }
  }
  bool waits() { return volume().info_json().find(R"("waiting":{)") != std::string::npos; }
  bool told_of(EventType type) {
    const RaidEvents::Batch batch = events_after(0);
    return std::any_of(batch.events.begin(), batch.events.end(), [&](const Event& e) { return e.type == type; });
  }
  unsigned count(EventType type) {
    const RaidEvents::Batch batch = events_after(0);
    return static_cast<unsigned>(
        std::count_if(batch.events.begin(), batch.events.end(), [&](const Event& e) { return e.type == type; }));
  }
  unsigned in_sync() {
    unsigned number = 0;
    for (const auto& slot : volume().slots()) number += slot->role == SlotRole::in_sync && !slot->excluding ? 1 : 0;
    return number;
  }
  IoCode write(uint64_t lba, uint8_t fill) {
    Io io(Op::write, lba, 1, fill);
    return submit(io);
  }
};

TEST_F(ReachTest, ReadsWritesAndFlushesWaitForALegAndGoOnByThemselves) {
  for (const bool superblock : {false, true}) {
    SCOPED_TRACE(superblock);
    create(superblock);
    ASSERT_EQ(write(8, 0x11), IoCode::ok);
    cut(0);
    cut(1);
    Io read(Op::read, 8, 1), over(Op::write, 8, 1, 0x22), fresh(Op::write, 2000, 1, 0x33), flush(Op::flush, 0, 0);
    for (Io* io : {&read, &over, &fresh, &flush}) raid->submit(*io);
    pass(10 * kSecondNs);
    EXPECT_TRUE(waits()) << volume().info_json();
    EXPECT_TRUE(told_of(EventType::waiting));
    EXPECT_EQ(in_sync(), 1u);
    Io late(Op::read, 9, 1);
    raid->submit(late);
    pass(kSecondNs);
    for (Io* io : {&read, &over, &fresh, &flush, &late}) EXPECT_FALSE(io->completed);
    mend(0);
    mend(1);
    pass(3 * kSecondNs);
    for (Io* io : {&read, &over, &fresh, &flush, &late}) {
      EXPECT_TRUE(io->completed);
      EXPECT_EQ(io->status.code, IoCode::ok);
    }
    EXPECT_FALSE(waits());
    EXPECT_TRUE(told_of(EventType::reached));
    Io again(Op::read, 2000, 1);
    EXPECT_EQ(submit(again), IoCode::ok);
    EXPECT_EQ(again.buffer[0], 0x33);
    raid.reset();
    ASSERT_TRUE(run(manager.remove("r", true)));
  }
}

TEST_F(ReachTest, WhatIsHeldForAnExclusionIsAcknowledgedOnlyByTheLegThatStayed) {
  create(true);
  ASSERT_TRUE(run(volume().set_epoch(1, true)));
  ASSERT_EQ(write(8, 0x11), IoCode::ok);
  cut(0);
  Io held(Op::write, 8, 1, 0x22);
  raid->submit(held);
  pass(kSecondNs);  // leg 0 is to leave, and nobody has confirmed that
  EXPECT_FALSE(held.completed);
  cut(1);
  Io later(Op::write, 9, 1, 0x33);
  raid->submit(later);
  pass(5 * kSecondNs);
  EXPECT_EQ(in_sync(), 1u);
  // What comes back first is the leg that is on its way out: it is not in sync, and nothing goes on by it.
  mend(0);
  pass(2 * kSecondNs);
  EXPECT_TRUE(waits());
  EXPECT_FALSE(held.completed);
  EXPECT_FALSE(later.completed);
  // Nor does the last one leave, whoever says so.
  EXPECT_EQ(run(volume().confirm_exclusion(1, "b")).error().code(), Errc::busy);
  mend(1);
  pass(2 * kSecondNs);
  EXPECT_FALSE(waits());
  EXPECT_FALSE(held.completed);  // still not confirmed
  ASSERT_TRUE(run(volume().confirm_exclusion(1, "a")));
  pass(2 * kSecondNs);
  EXPECT_TRUE(held.completed && later.completed);
  EXPECT_EQ(held.status.code, IoCode::ok);
  EXPECT_EQ(later.status.code, IoCode::ok);
  EXPECT_EQ(disk(1).bytes[TestDisk::kFirstMiB * 512 + 8 * 512], 0x22);
  EXPECT_EQ(disk(1).bytes[TestDisk::kFirstMiB * 512 + 9 * 512], 0x33);
}

TEST_F(ReachTest, AfterTheLimitIOFailsUntilALegIsBack) {
  create(true);
  ASSERT_EQ(write(8, 0x11), IoCode::ok);
  cut(0);
  cut(1);
  Io read(Op::read, 8, 1), over(Op::write, 8, 1, 0x22), fresh(Op::write, 2000, 1, 0x33), flush(Op::flush, 0, 0);
  for (Io* io : {&read, &over, &fresh, &flush}) raid->submit(*io);
  pass(29 * kSecondNs);
  for (Io* io : {&read, &over, &fresh, &flush}) EXPECT_FALSE(io->completed);
  pass(3 * kSecondNs);
  for (Io* io : {&read, &over, &fresh, &flush}) {
    EXPECT_TRUE(io->completed);
    EXPECT_EQ(io->status.code, IoCode::disconnected);
  }
  EXPECT_EQ(count(EventType::gave_up), 1u);
  EXPECT_NE(volume().info_json().find(R"("gave_up":true)"), std::string::npos);
  EXPECT_EQ(write(8, 0x44), IoCode::disconnected);
  EXPECT_EQ(write(1000, 0x44), IoCode::disconnected);
  EXPECT_EQ(in_sync(), 1u);
  mend(0);
  mend(1);
  pass(3 * kSecondNs);
  EXPECT_EQ(write(8, 0x55), IoCode::ok);
  EXPECT_FALSE(waits());
}

TEST_F(ReachTest, WithoutALimitNothingWaits) {
  limit(0);
  create();
  cut(0);
  cut(1);
  EXPECT_EQ(write(8, 0x22), IoCode::disconnected);
  Io read(Op::read, 8, 1);
  EXPECT_EQ(submit(read), IoCode::disconnected);
  EXPECT_FALSE(waits());
  EXPECT_FALSE(told_of(EventType::waiting));
}

TEST_F(ReachTest, AnErrorOfALegThatAnswersIsNotWaitedFor) {
  create();
  disk(0).dead = true;  // with I/O errors
  disk(1).dead = true;
  EXPECT_EQ(write(8, 0x22), IoCode::io_error);
  Io read(Op::read, 8, 1);
  EXPECT_EQ(submit(read), IoCode::io_error);
  EXPECT_FALSE(waits());
}

TEST_F(ReachTest, ALegThatIsReachedAndLosesEveryRequestIsNotWaitedForEndlessly) {
  create();
  ASSERT_EQ(write(8, 0x11), IoCode::ok);
  cut(1);
  ASSERT_EQ(write(8, 0x12), IoCode::ok);
  disk(0).failure = IoCode::disconnected;
  disk(0).fails = [](const Request& request) { return request.op == Op::write; };
  Io lost(Op::write, 9, 1, 0x22);
  raid->submit(lost);
  pass(20 * kSecondNs);
  EXPECT_FALSE(lost.completed);
  pass(15 * kSecondNs);
  EXPECT_TRUE(lost.completed);
  EXPECT_EQ(lost.status.code, IoCode::disconnected);
  disk(0).fails = nullptr;
  pass(10 * kSecondNs);
  EXPECT_EQ(write(9, 0x33), IoCode::ok);
}

TEST_F(ReachTest, WritesThatOverlapKeepTheirOrderWhileTheyWait) {
  create();
  cut(1);
  ASSERT_EQ(write(8, 0x11), IoCode::ok);
  cut(0);
  std::vector<std::unique_ptr<Io>> writes;
  for (uint8_t i = 1; i <= 20; ++i) {
    writes.push_back(std::make_unique<Io>(Op::write, 8 + i % 3, 2, i));
    raid->submit(*writes.back());
    pass(kSecondNs / 10);
  }
  mend(0);
  pass(2 * kSecondNs);
  for (const auto& io : writes) EXPECT_TRUE(io->completed && io->status.ok());
  EXPECT_EQ(disk(0).bytes[8 * 512], 18);
  EXPECT_EQ(disk(0).bytes[9 * 512], 19);
  EXPECT_EQ(disk(0).bytes[10 * 512], 20);
  EXPECT_EQ(disk(0).bytes[11 * 512], 20);
}

TEST_F(ReachTest, WhatWaitsFailsWhenTheVolumeIsFencedDeletedOrTheProcessEnds) {
  for (const int how : {0, 1, 2}) {
    SCOPED_TRACE(how);
    create(true);
    ASSERT_EQ(write(8, 0x11), IoCode::ok);
    cut(0);
    cut(1);
    Io read(Op::read, 8, 1), over(Op::write, 8, 1, 0x22);
    raid->submit(read);
    raid->submit(over);
    pass(2 * kSecondNs);
    EXPECT_FALSE(read.completed || over.completed);
    bool deleted = false;
    if (how == 0) {
      ASSERT_TRUE(run(volume().fence(7)));
    } else if (how == 1) {
      spawn<Result<void>>(manager.remove("r", false), [&](const Result<void>&) { deleted = true; });
    } else {
      manager.end_waits();
    }
    pass(kSecondNs);
    EXPECT_TRUE(read.completed && over.completed);
    EXPECT_EQ(read.status.code, IoCode::fenced);
    EXPECT_EQ(over.status.code, IoCode::fenced);
    raid.reset();
    if (how != 1) spawn<Result<void>>(manager.remove("r", false), [&](const Result<void>&) { deleted = true; });
    pass(10 * kSecondNs);
    EXPECT_TRUE(deleted);
    for (unsigned i : {0u, 1u}) {
      mend(i);
      std::fill(disk(i).bytes.begin(), disk(i).bytes.end(), uint8_t{0});
    }
  }
}

}  // namespace
}  // namespace diskengine::raid
