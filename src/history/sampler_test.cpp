#include "history/sampler.h"

#include <gtest/gtest.h>

#include <vector>

namespace diskengine::history {
namespace {

// Its time of day can be set.
class SettableClock final : public Clock {
 public:
  uint64_t now_ns() const noexcept override { return now; }
  uint64_t wall_ns() const noexcept override { return wall; }
  void advance_ns(uint64_t by) noexcept {
    now += by;
    wall += by;
  }
  uint64_t now = 1'000'000'000;
  uint64_t wall = 1'700'000'000'000'000'000;
};

struct SamplerTest : testing::Test {
  void pass(uint64_t ns) {
    clock.advance_ns(ns);
    for (int turn = 0; turn < 20; ++turn) reactor.turn();
  }
  void TearDown() override {
    bool stopped = false;
    spawn(sampler.stop(), [&] { stopped = true; });
    for (int turn = 0; turn < 20 && !stopped; ++turn) reactor.turn();
    ASSERT_TRUE(stopped);
  }

  SettableClock clock;
  Reactor reactor{{.clock = &clock, .use_ring = false}};
  std::vector<Reactor*> reactors{&reactor};
  DeviceRegistry devices{reactor};
  std::vector<spec::HistoryRecord> seconds, minutes;
  Sampler sampler{reactors,
                  devices,
                  {},
                  {.record =
                       [this](Series series, spec::HistoryRecord record) {
                         if (series == Series::seconds) seconds.push_back(record);
                         if (series == Series::minutes) minutes.push_back(record);
                       },
                   .machine = {},
                   .states = {},
                   .stuck = {}}};
};

TEST_F(SamplerTest, ASecondAndAMinuteAreAsLongAsTheyAreThoughTheTimeOfDayIsSet) {
  constexpr uint64_t kHourNs = 3'600'000'000'000;
  sampler.start();
  for (unsigned second = 0; second < Sampler::kSecondsPerMinute; ++second) {
    if (second == 20) clock.wall += kHourNs;
    if (second == 40) clock.wall -= 2 * kHourNs;
    pass(Sampler::kPeriodNs);
  }
  ASSERT_EQ(seconds.size(), Sampler::kSecondsPerMinute);
  for (const spec::HistoryRecord& record : seconds) EXPECT_EQ(record.span_ms, 1'000u);
  EXPECT_EQ(seconds.back().end_ms, clock.wall / 1'000'000);
  ASSERT_EQ(minutes.size(), 1u);
  EXPECT_EQ(minutes[0].span_ms, 60'000u);
}

}  // namespace
}  // namespace diskengine::history
