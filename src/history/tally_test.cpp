// What is said of a second or a minute is what happened in it, whatever was counted before; and states become events
// exactly when they begin, change and end.
#include "history/tally.h"

#include <gtest/gtest.h>

#include "history/states.h"
#include "runtime/clock.h"

namespace diskengine::history {
namespace {

uint64_t ticks_of_us(uint64_t us) { return us * ticks_per_second() / 1'000'000; }

void count(IoStats* stats, Op op, uint64_t us, uint64_t times) {
  OpStats& one = stats->ops[static_cast<size_t>(op)];
  one.count += times;
  one.bytes += times * 4096;
  for (uint64_t i = 0; i < times; ++i)
    stats->latency[op == Op::read ? 0 : op == Op::write ? 1 : 2].record(ticks_of_us(us));
}

TEST(DeviceTallies, ALookTellsOnlyWhatCameSinceTheOneBefore) {
  IoStats stats;
  DeviceLook look;
  count(&stats, Op::write, 100, 1000);
  EXPECT_EQ(look.since(stats).record().values[spec::kHistoryWrites], 1000U);
  count(&stats, Op::write, 5000, 10);
  count(&stats, Op::flush, 50, 3);
  const auto values = look.since(stats).record().values;
  EXPECT_EQ(values[spec::kHistoryWrites], 10U);
  EXPECT_EQ(values[spec::kHistoryOthers], 3U);
  EXPECT_EQ(values[spec::kHistoryWriteKib], 40U);
  EXPECT_NEAR(values[spec::kHistoryWriteP50], 5000, 5000 / 8.0);  // the thousand fast ones are of another second
  EXPECT_EQ(values[spec::kHistoryReadP99], 0U);
  EXPECT_TRUE(look.since(stats).empty());
}

TEST(DeviceTallies, CountersThatWereResetCountFromZero) {
  IoStats stats;
  DeviceLook look;
  count(&stats, Op::read, 100, 50);
  look.since(stats);
  stats.reset();
  count(&stats, Op::read, 200, 7);
  const auto values = look.since(stats).record().values;
  EXPECT_EQ(values[spec::kHistoryReads], 7U);
  EXPECT_NEAR(values[spec::kHistoryReadP50], 200, 200 / 8.0);
}

TEST(DeviceTallies, AMinuteHasThePercentilesOfAllItsSeconds) {
  IoStats stats;
  DeviceLook look;
  DeviceTally minute;
  for (int second = 0; second < 60; ++second) {
    count(&stats, Op::write, second == 30 ? 9000 : 100, 10);
    minute.add(look.since(stats));
  }
  const auto values = minute.record().values;
  EXPECT_EQ(values[spec::kHistoryWrites], 600U);
  EXPECT_NEAR(values[spec::kHistoryWriteP50], 100, 100 / 8.0);
  EXPECT_NEAR(values[spec::kHistoryWriteP99], 9000, 9000 / 8.0);
}

TEST(StagesTallies, ARootThatTracedNothingIsSkipped) {
  trace::Root root("raid_1", trace::Layer::vhost);
  StagesLook look;
  EXPECT_TRUE(look.since(root).empty());
  root.traced = 2;
  for (int i = 0; i < 2; ++i) {
    root.total.record(ticks_of_us(300));
    root.stages[static_cast<size_t>(trace::Stage::network_target)].record(ticks_of_us(250));
  }
  const auto values = look.since(root).record().values;
  EXPECT_EQ(values[spec::kHistoryTraced], 2U);
  const size_t stage = spec::kHistoryFirstStage + 2 * static_cast<size_t>(trace::Stage::network_target);
  EXPECT_NEAR(values[stage], 250, 250 / 8.0);
  EXPECT_TRUE(look.since(root).empty());
}

TEST(States, BecomeEventsWhenTheyBeginChangeAndEnd) {
  StateBook book;
  EXPECT_TRUE(book.look({}, 1'000).empty());
  const auto began = book.look({{"path", "c1", "reconnecting"}}, 2'000);
  ASSERT_EQ(began.size(), 1U);
  EXPECT_EQ(began[0].detail, static_cast<uint16_t>(spec::HistoryPhase::began));
  EXPECT_TRUE(book.look({{"path", "c1", "reconnecting"}}, 3'000).empty());
  const auto changed = book.look({{"path", "c1", "failed"}}, 4'000);
  ASSERT_EQ(changed.size(), 1U);
  EXPECT_EQ(changed[0].detail, static_cast<uint16_t>(spec::HistoryPhase::moment));
  const auto ended = book.look({}, 7'500);
  ASSERT_EQ(ended.size(), 1U);
  EXPECT_EQ(ended[0].detail, static_cast<uint16_t>(spec::HistoryPhase::ended));
  EXPECT_EQ(ended[0].span_ms, 5'500U);
  EXPECT_EQ(ended[0].text, "failed");
  EXPECT_TRUE(book.look({}, 8'000).empty());
}

}  // namespace
}  // namespace diskengine::history
