#include "fabric/command_slots.h"

#include <gtest/gtest.h>

#include <set>

namespace diskengine::fabric {
namespace {

TEST(CommandSlots, FindsWhatIsInFlightByItsId) {
  CommandSlots<CommandSlot> slots(5);
  HostCommand one, other;
  CommandSlot& first = slots.take(one);
  CommandSlot& second = slots.take(other);
  EXPECT_NE(one.sqe.cid, other.sqe.cid);
  EXPECT_EQ(slots.find(one.sqe.cid), &first);
  EXPECT_EQ(slots.find(other.sqe.cid), &second);
  EXPECT_EQ(second.command, &other);
  EXPECT_EQ(slots.in_flight(), 2u);
  slots.for_each_in_flight([&](CommandSlot& slot) { slots.give_back(slot); });
  EXPECT_EQ(slots.in_flight(), 0u);
}

TEST(CommandSlots, NoIdNamesACommandThatIsNotInFlight) {
  for (const uint32_t depth : {1u, 2u, 5u, 128u, 1024u}) {
    CommandSlots<CommandSlot> slots(depth);
    HostCommand command, before;
    slots.give_back(slots.take(before));
    CommandSlot& slot = slots.take(command);
    for (uint32_t cid = 0; cid <= UINT16_MAX; ++cid)
      EXPECT_EQ(slots.find(static_cast<uint16_t>(cid)), cid == command.sqe.cid ? &slot : nullptr);
    slots.give_back(slot);
    EXPECT_EQ(slots.find(command.sqe.cid), nullptr);
  }
}

TEST(CommandSlots, ASlotsIdsComeBackLateAndAreNeverTheReservedOne) {
  CommandSlots<CommandSlot> slots(1024);
  std::set<uint16_t> seen;
  for (int use = 0; use < 63; ++use) {
    HostCommand command;
    slots.give_back(slots.take(command));
    EXPECT_TRUE(seen.insert(command.sqe.cid).second);
    EXPECT_NE(command.sqe.cid, 0xffff);
  }
}

TEST(CommandSlots, AWaitingSlotIsUnlinkedWhenItIsGivenBack) {
  CommandSlots<CommandSlot> slots(2);
  HostCommand command;
  List<CommandSlot> waiting;
  CommandSlot& slot = slots.take(command);
  waiting.push_back(slot);
  slots.give_back(slot);
  EXPECT_TRUE(waiting.empty());
}

}  // namespace
}  // namespace diskengine::fabric
