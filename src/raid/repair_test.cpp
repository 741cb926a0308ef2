// What a leg cannot read is rewritten on it from another one, with writes kept off meanwhile; a scrub finds what nobody
// read, says where legs differ, and never guesses which is right.
#include "raid/repair.h"

#include "raid/scrub.h"
#include "raid/test_mirror.h"

namespace diskengine::raid {
namespace {

constexpr uint64_t kData = TestDisk::kFirstMiB;

class RepairTest : public MirrorTest {
 protected:
  // Blocks of the volume that `disk` cannot read until they are written to.
  void spoil(TestDisk& disk, uint64_t lba, uint64_t blocks) {
    auto bad = std::make_shared<std::vector<bool>>(kBlocks);
    std::fill_n(bad->begin() + static_cast<std::ptrdiff_t>(kData + lba), blocks, true);
    disk.fails = [bad](const Request& request) {
      const auto begin = bad->begin() + static_cast<std::ptrdiff_t>(request.lba);
      const auto end = begin + static_cast<std::ptrdiff_t>(request.op == Op::flush ? 0 : request.blocks);
      if (request.op == Op::read) return std::find(begin, end, true) != end;
      std::fill(begin, end, false);
      return false;
    };
  }
  void write(uint64_t lba, uint64_t blocks, uint8_t fill) {
    Io io(Op::write, lba, blocks, fill);
    ASSERT_EQ(submit(io), IoCode::ok);
  }
  // Until every leg was asked for it.
  void read_on_all(uint64_t lba, uint64_t blocks, uint8_t expected) {
    for (int i = 0; i < 4; ++i) {
      Io io(Op::read, lba, blocks);
      ASSERT_EQ(submit(io), IoCode::ok);
      EXPECT_EQ(io.buffer.front(), expected);
      EXPECT_EQ(io.buffer.back(), expected);
    }
  }
  uint64_t repaired() { return volume().repairs().repaired_blocks(); }
  const Scrub& scrub() { return *volume().scrub(); }
  void until_scrubbed() {
    for (int i = 0; i < 5000 && scrub().state() != Scrub::State::done; ++i) turn();
    EXPECT_EQ(scrub().state(), Scrub::State::done) << volume().scrub_json();
  }
  const Scrub::Findings& scrubbed() {
    EXPECT_TRUE(volume().start_scrub(0));
    until_scrubbed();
    return scrub().findings();
  }
};

TEST_F(RepairTest, WhatALegCannotReadIsServedByAnotherAndRewritten) {
  create(true);
  write(100, 16, 0x11);
  spoil(disk(0), 104, 2);
  read_on_all(100, 16, 0x11);
  EXPECT_EQ(repaired(), 16u);
  EXPECT_EQ(role(0), SlotRole::in_sync);
  const uint64_t errors = volume().slots()[0]->leg->read_errors;
  disk(1).dead = true;  // now the mended leg has to serve
  Io io(Op::read, 100, 16);
  ASSERT_EQ(submit(io), IoCode::ok);
  EXPECT_EQ(io.buffer[5 * 512], 0x11);
  EXPECT_EQ(volume().slots()[0]->leg->read_errors, errors);
}

TEST_F(RepairTest, AWriteDuringARepairIsNotUndone) {
  create();
  for (unsigned round = 0; round < 200; ++round) {
    write(100, 4, 0x11);
    disk(0).fails = [failed = false](const Request& request) mutable {
      return request.op == Op::read && !std::exchange(failed, true);
    };
    for (unsigned i = 0; i < 2; ++i) disk(i).completes_at_once = false;
    Io first(Op::read, 100, 4), second(Op::read, 100, 4), change(Op::write, 101, 2, 0x22);
    raid->submit(first);
    raid->submit(second);
    const uint64_t steps = random.below(40);
    for (uint64_t i = 0; i < steps; ++i) {
      disk(static_cast<unsigned>(random.below(2))).complete_some(reactor, random, 1);
      turn();
    }
    raid->submit(change);
    for (int i = 0; i < 60; ++i) {
      disk(static_cast<unsigned>(random.below(2))).complete_some(reactor, random, 1);
      turn();
    }
    drain();
    ASSERT_TRUE(first.completed && second.completed && change.completed);
    disk(0).fails = nullptr;
    for (unsigned i = 0; i < 2; ++i) {
      disk(i).completes_at_once = true;
      ASSERT_EQ(disk(i).bytes[101 * 512], 0x22) << "leg " << i << ", round " << round;
    }
  }
  EXPECT_GT(repaired(), 100u);
}

TEST_F(RepairTest, ALegThatCannotBeRewrittenLeavesAndOneThatStillCannotReadIsReportedOnce) {
  create(true, {"a", "b", "c"});
  write(100, 4, 0x11);
  disk(0).fails = [](const Request& request) { return request.op != Op::flush && request.lba == kData + 100; };
  read_on_all(100, 4, 0x11);
  EXPECT_EQ(role(0), SlotRole::empty);
  disk(1).fails = [](const Request& request) { return request.op == Op::read && request.lba == kData + 100; };
  const uint64_t writes = disk(1).writes;
  for (int i = 0; i < 10; ++i) read_on_all(100, 4, 0x11);
  EXPECT_EQ(role(1), SlotRole::in_sync);
  EXPECT_EQ(disk(1).writes, writes + 1) << "not again and again";
  const RaidEvents::Batch batch = events_after(0);
  EXPECT_EQ(batch.events.back().type, EventType::repair_failed);
  EXPECT_EQ(batch.events.back().leg, "b");
}

TEST_F(RepairTest, AScrubNamesWhereLegsDifferAndLeavesIt) {
  create(true, {"a", "b", "c"});
  write(0, kData, 0x11);
  disk(1).bytes[(kData + 700) * 512 + 9] ^= 1;
  disk(1).bytes[(kData + 701) * 512] ^= 1;
  disk(2).bytes[(kData + 2000) * 512] ^= 1;
  const Scrub::Findings& found = scrubbed();
  EXPECT_EQ(found.differing_blocks, 3u);
  ASSERT_EQ(found.differences.size(), 2u);
  EXPECT_EQ(found.differences[0].lba, 700u);
  EXPECT_EQ(found.differences[0].blocks, 2u);
  const auto& legs = found.differences[0].legs;
  EXPECT_EQ(legs[1].first, "b");
  EXPECT_EQ(legs[0].second, legs[2].second);
  EXPECT_NE(legs[0].second, legs[1].second);
  EXPECT_NE(volume().scrub_json().find(R"({"lba":700,"blocks":2,"legs":[{"name":"a","crc32c":")"), std::string::npos);
  EXPECT_EQ(disk(1).bytes[(kData + 701) * 512], 0x10) << "nobody knows which is right";
  EXPECT_EQ(scrub().progress().done(), volume().size_blocks());
  const RaidEvents::Batch batch = events_after(0);
  EXPECT_EQ(batch.events.at(batch.events.size() - 2).type, EventType::legs_differ);
  EXPECT_EQ(batch.events.back().type, EventType::scrub_ended);
}

TEST_F(RepairTest, AScrubRewritesWhatALegCannotRead) {
  create(true);
  write(0, kData, 0x11);
  spoil(disk(1), 300, 3);
  const Scrub::Findings found = scrubbed();
  EXPECT_EQ(found.differing_blocks, 0u);
  EXPECT_GE(found.healed_blocks, 3u);
  EXPECT_EQ(scrubbed().healed_blocks, 0u) << "the second one finds nothing";
  disk(0).fails = disk(1).fails = [](const Request& request) {
    return request.op == Op::read && request.lba <= kData + 9 && request.lba + request.blocks > kData + 9;
  };
  EXPECT_GT(scrubbed().unreadable_blocks, 0u);
}

TEST_F(RepairTest, AScrubSurvivesALegThatLeavesAndWaitsForOneThatIsCopiedTo) {
  create(true, {"a", "b", "c"});
  write(0, kData, 0x11);
  ASSERT_TRUE(volume().start_scrub(1));
  EXPECT_EQ(volume().start_scrub(1).error().code(), Errc::already_exists);
  for (int i = 0; i < 300; ++i) turn();
  EXPECT_EQ(scrub().state(), Scrub::State::running);
  EXPECT_GT(scrub().progress().eta_seconds(clock.now_ns()), 0u);
  EXPECT_LT(scrub().progress().percent(), 60u) << "a second and more at 1 MiB/s";
  ASSERT_TRUE(run(manager.remove_base("b")));
  for (int i = 0; i < 100; ++i) turn();
  EXPECT_EQ(scrub().state(), Scrub::State::running);
  ASSERT_TRUE(run(manager.remove_base("c")));
  for (int i = 0; i < 200; ++i) turn();
  EXPECT_EQ(scrub().state(), Scrub::State::waiting);
  EXPECT_EQ(scrub().reason(), "fewer than two legs are in sync");
  ASSERT_TRUE(run(manager.add_base("r", "b")));
  until_scrubbed();
  EXPECT_EQ(scrub().findings().differing_blocks, 0u);
  ASSERT_TRUE(volume().start_scrub(1));
  ASSERT_TRUE(run(volume().stop_scrub()));
  EXPECT_EQ(run(volume().stop_scrub()).error().code(), Errc::not_found);
  EXPECT_EQ(scrub().state(), Scrub::State::stopped);
  ASSERT_TRUE(volume().start_scrub(1));  // the volume is deleted in the midst of it
}

TEST_F(RepairTest, WritesGoOnDuringAScrub) {
  create(true);
  ASSERT_TRUE(volume().start_scrub(0));
  for (unsigned i = 0; i < 200; ++i) write(random.below(kData - 8), 8, static_cast<uint8_t>(i));
  until_scrubbed();
  EXPECT_EQ(scrub().findings().differing_blocks, 0u);
}

}  // namespace
}  // namespace diskengine::raid
