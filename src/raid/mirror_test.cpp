#include <gtest/gtest.h>

#include "raid/test_mirror.h"
#include "runtime/alloc_trap.h"

namespace diskengine::raid {
namespace {

TEST_F(MirrorTest, AWriteIsOnEveryLegWhenItCompletes) {
  create();
  disk(0).completes_at_once = disk(1).completes_at_once = false;
  Io write(Op::write, 7, 3, 0x5a);
  raid->submit(write);
  turn();
  EXPECT_FALSE(write.completed);
  disk(0).complete_some(reactor, random, 1);
  turn();
  EXPECT_FALSE(write.completed) << "one leg is not enough";
  disk(1).complete_some(reactor, random, 1);
  turn();
  EXPECT_TRUE(write.completed);
  EXPECT_EQ(disk(0).bytes, disk(1).bytes);
  EXPECT_EQ(disk(0).bytes[7 * 512], 0x5a);
}

TEST_F(MirrorTest, ReadsAreSpreadOverTheLegs) {
  create();
  disk(0).completes_at_once = disk(1).completes_at_once = false;
  std::vector<std::unique_ptr<Io>> reads;
  for (uint64_t i = 0; i < 8; ++i) {
    reads.push_back(std::make_unique<Io>(Op::read, 100 * i + 5, 1));
    raid->submit(*reads.back());
  }
  EXPECT_EQ(disk(0).complete_some(reactor, random, 100), 4u);
  EXPECT_EQ(disk(1).complete_some(reactor, random, 100), 4u);
  turn();
}

TEST_F(MirrorTest, AReadThatFailsIsServedByTheOtherLeg) {
  create();
  Io write(Op::write, 0, 1, 7);
  ASSERT_EQ(submit(write), IoCode::ok);
  disk(0).fails = [](const Request& request) { return request.op == Op::read; };
  for (int i = 0; i < 4; ++i) {
    Io read(Op::read, 0, 1);
    ASSERT_EQ(submit(read), IoCode::ok);
    EXPECT_EQ(read.buffer, write.buffer);
  }
  EXPECT_GT(volume().slots()[0]->leg->read_errors.load(), 0u);
  EXPECT_EQ(role(0), SlotRole::in_sync) << "a read error alone does not exclude";
}

TEST_F(MirrorTest, AFailedWriteIsAcknowledgedOnlyAfterTheLegIsOut) {
  create(true);
  Io first(Op::write, 0, 1, 8);  // marks the region
  ASSERT_EQ(submit(first), IoCode::ok);
  disk(1).dead = true;
  disk(0).completes_at_once = disk(1).completes_at_once = false;
  Io write(Op::write, 0, 1, 9);
  raid->submit(write);
  disk(0).complete_some(reactor, random, 1);
  for (int i = 0; i < 150; ++i) {
    disk(1).complete_some(reactor, random, 1);
    turn();
  }
  EXPECT_FALSE(write.completed) << "the exclusion is not in the superblock yet";
  for (int i = 0; i < 5; ++i) {
    disk(0).complete_some(reactor, random, 1);  // the superblock and the header of the log
    turn();
  }
  EXPECT_TRUE(write.completed);
  EXPECT_TRUE(write.status.ok());
  EXPECT_EQ(role(1), SlotRole::empty);
  const auto stored = spec::decode_raid_superblock(disk(0).bytes);
  ASSERT_TRUE(stored);
  EXPECT_EQ(stored->base_bdevs[1].state, spec::RaidBaseState::failed);
  disk(0).completes_at_once = true;
  Io read(Op::read, 0, 1);
  EXPECT_EQ(submit(read), IoCode::ok);
  EXPECT_EQ(read.buffer, write.buffer);
}

TEST_F(MirrorTest, AnErrorThatPassesCostsNoLeg) {
  create();
  disk(1).failing_next = MirrorChannel::kRetriesMax;
  Io write(Op::write, 0, 1, 9);
  EXPECT_EQ(submit(write), IoCode::ok);
  EXPECT_EQ(role(1), SlotRole::in_sync);
  EXPECT_EQ(disk(1).bytes[0], 9);
  disk(0).failing_next = disk(1).failing_next = 2;
  Io read(Op::read, 0, 1);
  EXPECT_EQ(submit(read), IoCode::ok) << "the last leg that could serve it is asked again";
  EXPECT_EQ(read.buffer, write.buffer);
}

TEST_F(MirrorTest, AnErrorThatStaysIsRetriedWithinABoundAndOneThatCannotPassNotAtAll) {
  create(false, {"a", "b", "c"});
  disk(1).dead = true;
  const uint64_t start = clock.now_ns();
  Io write(Op::write, 0, 1, 9);
  raid->submit(write);
  while (!write.completed) turn();
  EXPECT_TRUE(write.status.ok());
  EXPECT_GE(clock.now_ns() - start, 105'000'000u);
  EXPECT_LT(clock.now_ns() - start, 200'000'000u);
  EXPECT_EQ(role(1), SlotRole::empty);
  disk(2).dead = true;
  disk(2).failure = IoCode::no_space;
  Io other(Op::write, 0, 1, 8);
  raid->submit(other);
  for (int i = 0; i < 10; ++i) turn();
  EXPECT_TRUE(other.completed && other.status.ok());
  EXPECT_EQ(role(2), SlotRole::empty);
}

TEST_F(MirrorTest, TheLastLegDoesNotLeaveItsErrorsGoUp) {
  create();
  disk(0).dead = disk(1).dead = true;
  Io write(Op::write, 0, 1, 9);
  EXPECT_EQ(submit(write), IoCode::io_error);
  EXPECT_EQ((role(0) == SlotRole::in_sync) + (role(1) == SlotRole::in_sync), 1);
  disk(0).dead = disk(1).dead = false;
  Io again(Op::write, 0, 1, 9);
  EXPECT_EQ(submit(again), IoCode::ok);
}

TEST_F(MirrorTest, ARequestThatEveryLegRefusesCostsNoLeg) {
  create();
  disk(0).dead = disk(1).dead = true;
  disk(0).failure = disk(1).failure = IoCode::invalid;
  Io write(Op::write, 0, 1, 9);
  EXPECT_EQ(submit(write), IoCode::invalid);
  EXPECT_EQ(role(0), SlotRole::in_sync);
  EXPECT_EQ(role(1), SlotRole::in_sync);
}

TEST_F(MirrorTest, FlushReachesEveryLeg) {
  create();
  Io flush(Op::flush, 0, 0);
  const uint64_t before = disk(0).flushes;
  EXPECT_EQ(submit(flush), IoCode::ok);
  EXPECT_EQ(disk(0).flushes, before + 1);
  EXPECT_EQ(disk(1).flushes, before + 1);
}

TEST_F(MirrorTest, LegsWithoutWriteZeroesGetZeroesWritten) {
  add_disk("plain", kBlocks, false);
  create(false, {"a", "plain"});
  Io write(Op::write, 0, kBlocks, 0xff);
  ASSERT_EQ(submit(write), IoCode::ok);
  Io zero(Op::write_zeroes, 1, kBlocks - 2);
  ASSERT_EQ(submit(zero), IoCode::ok);
  EXPECT_EQ(disk(0).bytes, disk(3).bytes);
  EXPECT_EQ(disk(3).bytes[0], 0xff);
  EXPECT_EQ(disk(3).bytes[512], 0);
  EXPECT_FALSE(device->info().can_unmap);
  EXPECT_TRUE(device->info().can_write_zeroes);
}

TEST_F(MirrorTest, CompareAnswersLikeADisk) {
  create();
  Io write(Op::write, 4, 1, 3);
  ASSERT_EQ(submit(write), IoCode::ok);
  Io same(Op::compare, 4, 1, 3), other(Op::compare, 4, 1, 4);
  EXPECT_EQ(submit(same), IoCode::ok);
  EXPECT_EQ(submit(other), IoCode::miscompare);
}

TEST_F(MirrorTest, OverlappingWritesReachBothLegsInOneOrder) {
  create();
  disk(0).completes_at_once = disk(1).completes_at_once = false;
  std::vector<std::unique_ptr<Io>> writes;
  for (uint8_t i = 1; i <= 40; ++i) {
    writes.push_back(std::make_unique<Io>(Op::write, random.below(6), 1 + random.below(5), i));
    raid->submit(*writes.back());
  }
  drain();
  for (const auto& write : writes) EXPECT_TRUE(write->completed);
  EXPECT_EQ(disk(0).bytes, disk(1).bytes);
}

TEST_F(MirrorTest, AGuestThatRewritesItsBufferLeavesTheLegsAlike) {
  create();
  disk(0).completes_at_once = disk(1).completes_at_once = false;
  std::vector<std::unique_ptr<Io>> writes;
  for (const uint64_t blocks : {1u, 8u, 9u, 200u, 2000u, 4000u}) {
    writes.push_back(std::make_unique<Io>(Op::write, 0, blocks, static_cast<uint8_t>(blocks)));
    Io& write = *writes.back();
    const std::vector<uint8_t> meant = write.buffer;
    raid->submit(write);
    std::fill(write.buffer.begin(), write.buffer.end(), uint8_t{0xee});
    disk(0).complete_some(reactor, random, 1);
    std::fill(write.buffer.begin(), write.buffer.end(), uint8_t{0xdd});
    disk(1).complete_some(reactor, random, 1);
    turn();
    ASSERT_TRUE(write.completed && write.status.ok());
    EXPECT_EQ(disk(0).bytes, disk(1).bytes);
    EXPECT_TRUE(std::equal(meant.begin(), meant.end(), disk(0).bytes.begin()));
  }
}

TEST_F(MirrorTest, PayloadsWithoutABufferWaitAndAllComplete) {
  create();
  disk(0).completes_at_once = disk(1).completes_at_once = false;
  std::vector<std::unique_ptr<Io>> writes;
  for (unsigned i = 0; i < 3 * PayloadPool::kLongMax; ++i) {
    writes.push_back(std::make_unique<Io>(Op::write, 0, kBlocks, static_cast<uint8_t>(i)));
    raid->submit(*writes.back());
  }
  for (unsigned i = 0; i < 100; ++i) {
    writes.push_back(std::make_unique<Io>(Op::write, 40 * i, 40, static_cast<uint8_t>(i)));
    raid->submit(*writes.back());
  }
  for (int i = 0; i < 10; ++i) drain();
  for (const auto& write : writes) EXPECT_TRUE(write->completed && write->status.ok());
  EXPECT_EQ(disk(0).bytes, disk(1).bytes);
}

TEST_F(MirrorTest, TheIoPathDoesNotAllocate) {
  create();
  std::vector<std::unique_ptr<Io>> all;
  for (uint64_t i = 0; i < 64; ++i) {
    all.push_back(std::make_unique<Io>(Op::write, 3 * i, 4, 1));  // neighbours overlap
    all.push_back(std::make_unique<Io>(Op::read, 3 * i, 4));
    all.push_back(std::make_unique<Io>(Op::write_zeroes, 5 * i, 1));
    all.push_back(std::make_unique<Io>(Op::flush, 0, 0));
  }
  {
    const AllocTrap trap;
    for (auto& io : all) raid->submit(*io);
    for (int i = 0; i < 100; ++i) turn();
    EXPECT_EQ(trap.allocations(), 0u);
  }
  for (const auto& io : all) EXPECT_TRUE(io->completed && io->status.ok());
}

TEST_F(MirrorTest, MoreRequestsThanChildrenWaitAndAllComplete) {
  create();
  disk(0).completes_at_once = disk(1).completes_at_once = false;
  std::vector<std::unique_ptr<Io>> writes;
  for (unsigned i = 0; i < MirrorChannel::kChildrenMax; ++i) {
    writes.push_back(std::make_unique<Io>(Op::write, i, 1, static_cast<uint8_t>(i)));
    raid->submit(*writes.back());
  }
  EXPECT_LT(static_cast<MirrorChannel&>(*raid).free_children(), kLegsMax);
  drain();
  for (const auto& write : writes) EXPECT_TRUE(write->completed && write->status.ok());
  EXPECT_EQ(static_cast<MirrorChannel&>(*raid).free_children(), MirrorChannel::kChildrenMax);
  EXPECT_EQ(disk(0).bytes, disk(1).bytes);
}

TEST_F(MirrorTest, TheWaitingListHasAMaximumAndRefusesPastIt) {
  create();
  disk(0).completes_at_once = disk(1).completes_at_once = false;
  std::vector<std::unique_ptr<Io>> reads;
  for (unsigned i = 0; i < MirrorChannel::kChildrenMax + MirrorChannel::kWaitingMax + 1; ++i) {
    reads.push_back(std::make_unique<Io>(Op::read, i % kBlocks, 1));
    raid->submit(*reads.back());
  }
  turn();
  EXPECT_TRUE(reads.back()->completed);
  EXPECT_EQ(reads.back()->status.os_errno, EAGAIN);
  drain();
  for (const auto& read : reads) EXPECT_TRUE(read->completed);
}

TEST_F(MirrorTest, ALegWhoseDeviceIsRemovedLeavesAndIsLetGo) {
  create();
  bool removed = false;
  spawn<Result<void>>(registry.remove("b"), [&](Result<void> r) { removed = r.has_value(); });
  for (int i = 0; i < 20; ++i) turn();
  EXPECT_TRUE(disk(1).open.empty());
  EXPECT_TRUE(disk(1).claimed_by().empty());
  EXPECT_EQ(role(1), SlotRole::empty);
  disks.erase(disks.begin() + 1);  // the test's own reference
  for (int i = 0; i < 20; ++i) turn();
  EXPECT_TRUE(removed);
  Io write(Op::write, 0, 1, 9);
  EXPECT_EQ(submit(write), IoCode::ok);
}

TEST_F(MirrorTest, ANewLegIsRebuiltAndThenHoldsTheSame) {
  create();
  Io write(Op::write, 0, kBlocks, 0xa5);
  ASSERT_EQ(submit(write), IoCode::ok);
  ASSERT_TRUE(run(manager.remove_base("b")));
  ASSERT_TRUE(run(manager.add_base("r", "c")));
  EXPECT_EQ(manager.find("r")->info_json().find("\"process\"") != std::string::npos, role(1) == SlotRole::rebuilding);
  for (int i = 0; i < 100 && role(1) != SlotRole::in_sync; ++i) turn();
  EXPECT_EQ(role(1), SlotRole::in_sync);
  EXPECT_EQ(disk(0).bytes, disk(2).bytes);
  EXPECT_GT(disk(2).flushes, 0u);
}

TEST_F(MirrorTest, ARebuildKeepsToItsBandwidthLimitAndReportsProgress) {
  ASSERT_TRUE(manager.set_options({.process_window_size_kb = 64, .process_max_bandwidth_mb_sec = 1}));
  create();
  ASSERT_TRUE(run(manager.remove_base("b")));
  const uint64_t start = clock.now_ns();
  ASSERT_TRUE(run(manager.add_base("r", "c")));
  bool halfway = false;
  for (int i = 0; i < 100000 && role(1) != SlotRole::in_sync; ++i) {
    turn();
    const std::string json = volume().info_json();
    halfway = halfway ||
              (json.find("\"percent\":50") != std::string::npos && json.find("\"eta_seconds\":1") != std::string::npos);
  }
  const double seconds = static_cast<double>(clock.now_ns() - start) / 1e9;
  EXPECT_GE(seconds, 1.9);  // 2 MiB at 1 MiB/s
  EXPECT_LT(seconds, 3.0);
  EXPECT_TRUE(halfway);
}

TEST_F(MirrorTest, ARebuildEndsWhenItsTargetFailsAndTheVolumeGoesOn) {
  create();
  ASSERT_TRUE(run(manager.remove_base("b")));
  disk(2).dead_for_writes = true;
  ASSERT_TRUE(run(manager.add_base("r", "c")));
  for (int i = 0; i < 100; ++i) turn();
  EXPECT_EQ(role(1), SlotRole::empty);
  EXPECT_NE(volume().info_json().find("rebuild failed"), std::string::npos);
  Io write(Op::write, 0, 1, 9);
  EXPECT_EQ(submit(write), IoCode::ok);
}

TEST_F(MirrorTest, ARebuildReadsFromAnotherLegWhenOneFails) {
  create(false, {"a", "b", "c"});
  Io write(Op::write, 0, kBlocks, 0x77);
  ASSERT_EQ(submit(write), IoCode::ok);
  ASSERT_TRUE(run(manager.remove_base("c")));
  auto fresh = add_disk("d");
  disk(0).failing_one_in = 1;
  disk(0).completes_at_once = false;
  ASSERT_TRUE(run(manager.add_base("r", "d")));
  for (int i = 0; i < 100 && role(2) != SlotRole::in_sync; ++i) drain();
  EXPECT_EQ(role(2), SlotRole::in_sync);
  EXPECT_EQ(fresh->bytes, disk(1).bytes);
}

TEST_F(MirrorTest, WritesDuringARebuildWaitOnlyForTheirWindow) {
  ASSERT_TRUE(manager.set_options({.process_window_size_kb = 64, .process_max_bandwidth_mb_sec = 0}));
  create();
  ASSERT_TRUE(run(manager.remove_base("b")));
  disk(2).completes_at_once = false;
  disk(0).completes_at_once = true;
  spawn<Result<void>>(manager.add_base("r", "c"), [](Result<void> r) { EXPECT_TRUE(r); });
  for (int i = 0; i < 20; ++i) {
    if (role(1) != SlotRole::rebuilding) disk(2).complete_some(reactor, random, 1);  // the look for a superblock
    turn();
  }
  ASSERT_EQ(role(1), SlotRole::rebuilding);
  Io within(Op::write, 3, 2, 1), beyond(Op::write, 2000, 2, 2);
  raid->submit(within);
  raid->submit(beyond);
  turn();
  EXPECT_FALSE(within.completed);
  EXPECT_TRUE(beyond.completed) << "the new leg gets it with the copy";
  for (int i = 0; i < 20 && role(1) != SlotRole::in_sync; ++i) drain();
  EXPECT_TRUE(within.completed);
  EXPECT_EQ(role(1), SlotRole::in_sync);
  EXPECT_EQ(disk(0).bytes, disk(2).bytes);
}

}  // namespace
}  // namespace diskengine::raid
