// Exclusions that wait for somebody else's word, writers that are fenced, and the events that tell of it.
#include "raid/test_mirror.h"

namespace diskengine::raid {
namespace {

class EpochTest : public MirrorTest {};

TEST_F(EpochTest, AHeldWriteIsAcknowledgedOnlyWhenItsLegsExclusionIsConfirmed) {
  create(true);
  ASSERT_TRUE(run(volume().set_epoch(7, true)));
  Io first(Op::write, 0, 1, 1);  // marks the region
  ASSERT_EQ(submit(first), IoCode::ok);
  disk(1).dead = true;
  Io write(Op::write, 0, 1, 9), after(Op::write, 100, 1, 8);
  raid->submit(write);
  drain();
  raid->submit(after);
  drain();
  EXPECT_FALSE(write.completed || after.completed);
  EXPECT_NE(volume().info_json().find(R"("exclusions_wanted":[{"leg":"b")"), std::string::npos);
  EXPECT_NE(volume().info_json().find(R"("held_writes":{"now":2)"), std::string::npos);
  const RaidEvents::Batch batch = events_after(0);
  ASSERT_EQ(batch.events.size(), 1u);
  EXPECT_EQ(batch.events[0].type, EventType::exclusion_wanted);
  EXPECT_EQ(batch.events[0].leg, "b");
  EXPECT_EQ(batch.events[0].epoch, 7u);
  Io read(Op::read, 0, 1);
  EXPECT_EQ(submit(read), IoCode::ok) << "reads do not wait";

  EXPECT_EQ(run(volume().confirm_exclusion(6, "b")).error().code(), Errc::conflict) << "an old epoch's word";
  EXPECT_EQ(run(volume().confirm_exclusion(8, "b")).error().code(), Errc::conflict);
  EXPECT_EQ(run(volume().confirm_exclusion(7, "nobody")).error().code(), Errc::no_device);
  drain();
  EXPECT_FALSE(write.completed || after.completed);
  ASSERT_TRUE(run(volume().confirm_exclusion(7, "b")));
  drain();
  EXPECT_TRUE(write.completed && write.status.ok() && after.completed && after.status.ok());
  EXPECT_EQ(role(1), SlotRole::empty);
  EXPECT_EQ(events_after(batch.last_id).events.at(0).type, EventType::excluded);
  EXPECT_NE(volume().info_json().find(R"("held_writes":{"now":0,"total":2)"), std::string::npos);
}

TEST_F(EpochTest, WhatIsWantedIsListedWhenItIsToldAndNeedNotWaitForTheSuperblocks) {
  create(true);
  ASSERT_TRUE(run(volume().set_epoch(7, true)));
  Io first(Op::write, 0, 1, 1);  // marks the region
  ASSERT_EQ(submit(first), IoCode::ok);
  disk(0).fails = [](const Request& request) { return request.lba < TestDisk::kFirstMiB; };
  disk(1).dead = true;
  Io write(Op::write, 0, 1, 9);
  raid->submit(write);
  const auto listed = [&] {
    return volume().info_json().find(R"("exclusions_wanted":[{"leg":"b")") != std::string::npos;
  };
  for (int i = 0; i < 1000 && events_after(0).events.empty(); ++i) {
    EXPECT_FALSE(listed()) << "not before it is told";
    turn();
  }
  const RaidEvents::Batch told = events_after(0);
  ASSERT_EQ(told.events.size(), 1u);
  EXPECT_TRUE(listed());
  drain();
  EXPECT_TRUE(listed()) << "its superblocks cannot be written";

  EXPECT_FALSE(run(volume().set_epoch(8, true))) << "the epoch is not recorded, but counts";
  const RaidEvents::Batch again = events_after(told.last_id);
  ASSERT_EQ(again.events.size(), 1u);
  EXPECT_EQ(again.events[0].type, EventType::exclusion_wanted);
  EXPECT_EQ(again.events[0].epoch, 8u);
  ASSERT_TRUE(run(volume().confirm_exclusion(8, "b")));
  drain();
  EXPECT_FALSE(listed()) << "nothing is to be confirmed any more";
  EXPECT_FALSE(write.completed) << "confirmed, but by its superblocks the leg is still in sync";

  disk(0).fails = nullptr;
  for (int i = 0; i < 10000 && !write.completed; ++i) turn();
  EXPECT_TRUE(write.completed && write.status.ok());
  EXPECT_EQ(role(1), SlotRole::empty);
}

TEST_F(EpochTest, AConfirmationAheadExcludesALegThatIsWellButNeverTheLast) {
  create();
  ASSERT_TRUE(run(volume().set_epoch(1, true)));
  ASSERT_TRUE(run(volume().confirm_exclusion(1, "b")));
  EXPECT_EQ(role(1), SlotRole::empty);
  EXPECT_EQ(run(volume().confirm_exclusion(1, "a")).error().code(), Errc::busy);
  EXPECT_EQ(role(0), SlotRole::in_sync);
}

TEST_F(EpochTest, AFencedWriterAcknowledgesNothingAnyMore) {
  create();
  ASSERT_TRUE(run(volume().set_epoch(7, true)));
  disk(1).dead = true;
  Io held(Op::write, 0, 1, 9), overlapping(Op::write, 0, 1, 8);
  raid->submit(held);
  raid->submit(overlapping);
  drain();
  EXPECT_EQ(run(volume().fence(7)).error().code(), Errc::conflict) << "its own epoch does not end it";
  disk(0).completes_at_once = false;
  Io under_way(Op::write, 200, 1, 7);
  raid->submit(under_way);
  turn();
  ASSERT_TRUE(run(volume().fence(8)));
  drain();
  for (const Io* io : {&held, &overlapping, &under_way}) {
    EXPECT_TRUE(io->completed);
    EXPECT_EQ(io->status.code, IoCode::fenced);
  }
  Io later(Op::write, 0, 1, 6), read(Op::read, 0, 1);
  EXPECT_EQ(submit(later), IoCode::fenced);
  EXPECT_EQ(submit(read), IoCode::fenced);
  EXPECT_EQ(run(volume().set_epoch(9, true)).error().code(), Errc::conflict);
  EXPECT_EQ(run(volume().confirm_exclusion(7, "b")).error().code(), Errc::conflict);
}

TEST_F(EpochTest, DeletingAVolumeDoesNotAcknowledgeWhatItHolds) {
  create();
  ASSERT_TRUE(run(volume().set_epoch(7, true)));
  disk(1).dead = true;
  Io held(Op::write, 0, 1, 9);
  raid->submit(held);
  drain();
  EXPECT_FALSE(held.completed);
  bool deleted = false;
  spawn<Result<void>>(manager.remove("r", false), [&](Result<void> r) { deleted = r.has_value(); });
  drain();
  EXPECT_TRUE(held.completed);
  EXPECT_EQ(held.status.code, IoCode::fenced);
  raid.reset();
  drain();
  EXPECT_TRUE(deleted);
}

TEST_F(EpochTest, WaitingForEventsEndsWithAnEventOrInTime) {
  create();
  const uint64_t start = clock.now_ns();
  std::optional<Result<RaidEvents::Batch>> answer;
  const auto wait = [&](uint64_t ms) {
    answer.reset();
    spawn<Result<RaidEvents::Batch>>(manager.events().wait(0, ms * 1'000'000), [&](auto r) { answer = std::move(r); });
  };
  wait(50);
  while (!answer) turn();
  EXPECT_TRUE(answer->has_value() && (*answer)->events.empty());
  EXPECT_GE(clock.now_ns() - start, 50'000'000u);
  wait(60'000);
  turn();
  EXPECT_FALSE(answer.has_value());
  ASSERT_TRUE(run(manager.remove_base("b")));
  ASSERT_TRUE(answer.has_value() && answer->has_value());
  EXPECT_EQ((*answer)->events.at(0).type, EventType::excluded);
  const uint64_t last = (*answer)->last_id;
  EXPECT_EQ(events_after(last + 100).events.size(), last) << "an id of another process: all there is";
}

}  // namespace
}  // namespace diskengine::raid
