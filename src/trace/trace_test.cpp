#include <gtest/gtest.h>

#include <numeric>

#include "runtime/random.h"
#include "trace/recorder.h"

namespace diskengine::trace {
namespace {

uint64_t sum_of(const StageTicks& parts) { return std::accumulate(parts.begin(), parts.end(), uint64_t{0}); }
uint64_t in(const StageTicks& parts, Stage stage) { return parts[static_cast<size_t>(stage)]; }

// A visit with chosen times, below `parent`.
Visit& put(Trace& trace, size_t parent, Layer layer, uint64_t entered, uint64_t left) {
  Visit& visit = trace.visits[trace.count++];
  visit = {};
  visit.layer = layer;
  visit.parent = static_cast<uint8_t>(parent);
  visit.entered = entered;
  visit.left = left;
  return visit;
}

// The mirrored write of a guest: 100 to vhost, legs from 130 and 135, the second is slower.
void fill_write(Trace& trace) {
  Visit& top = put(trace, 0, Layer::vhost, 100, 500);
  top.answered = 480;
  put(trace, 0, Layer::raid, 120, 460);
  Visit& fast = put(trace, 1, Layer::nvme, 130, 300);
  fast.sent = 140;
  fast.answered = 290;
  Visit& slow = put(trace, 1, Layer::nvme, 135, 450);
  slow.sent = 160;
  slow.answered = 430;
}

TEST(Stages, EachMomentBelongsToTheStageThatWasWaitedFor) {
  Trace trace;
  fill_write(trace);
  const StageTicks parts = stages_of(trace);
  EXPECT_EQ(waited_for(trace, 1), 3u);
  EXPECT_EQ(in(parts, Stage::vhost_submit), 20u);
  EXPECT_EQ(in(parts, Stage::raid_submit), 15u);
  EXPECT_EQ(in(parts, Stage::nvme_submit), 25u);
  EXPECT_EQ(in(parts, Stage::network_target), 270u);
  EXPECT_EQ(in(parts, Stage::nvme_complete), 20u);
  EXPECT_EQ(in(parts, Stage::raid_complete), 10u);
  EXPECT_EQ(in(parts, Stage::vhost_complete), 20u);
  EXPECT_EQ(in(parts, Stage::vhost_notify), 20u);
  EXPECT_EQ(sum_of(parts), trace.ticks());
}

TEST(Stages, APartThatOutlivesItsParentWasNotWaitedFor) {
  Trace trace;
  fill_write(trace);
  trace.visits[3].left = 700;  // excluded, and answered after the mirror had gone on
  EXPECT_EQ(waited_for(trace, 1), 2u);
  EXPECT_EQ(sum_of(stages_of(trace)), trace.ticks());
}

TEST(Stages, AnAllocationCountsForItself) {
  Trace trace;
  put(trace, 0, Layer::nvmf, 10, 200);
  Visit& lvol = put(trace, 0, Layer::lvol, 20, 190);
  lvol.waiting = 25;
  lvol.prepared = 150;
  put(trace, 1, Layer::disk, 155, 185);
  const StageTicks parts = stages_of(trace);
  EXPECT_EQ(in(parts, Stage::nvmf_submit), 10u);
  EXPECT_EQ(in(parts, Stage::lvol_allocate), 125u);
  EXPECT_EQ(in(parts, Stage::disk), 30u);
  EXPECT_EQ(sum_of(parts), trace.ticks());
}

TEST(Stages, TheyAddUpWhateverTheTimesAre) {
  for (uint64_t seed = 0; seed < 2000; ++seed) {
    Random random(seed);
    Trace trace;
    put(trace, 0, Layer::vhost, 1000, 1000 + random.below(1000));
    if (random.chance(1, 2)) trace.visits[0].answered = 900 + random.below(1200);
    const size_t visits = 1 + random.below(Trace::kVisitsMax - 1);
    for (size_t i = 1; i < visits; ++i) {
      const uint64_t entered = 900 + random.below(1200);
      Visit& visit =
          put(trace, random.below(i), static_cast<Layer>(random.below(kLayers)), entered, entered + random.below(800));
      if (random.chance(1, 2)) visit.sent = 900 + random.below(1200);
      if (random.chance(1, 2)) visit.answered = 900 + random.below(1200);
      if (random.chance(1, 3)) visit.waiting = 900 + random.below(1200);
      if (random.chance(1, 3)) visit.prepared = 900 + random.below(1200);
    }
    ASSERT_EQ(sum_of(stages_of(trace)), trace.ticks()) << "seed " << seed;
  }
}

class RecorderTest : public ::testing::Test {
 protected:
  // How many of `count` I/Os are traced; each ends at once.
  unsigned run(unsigned count) {
    unsigned traced = 0;
    for (unsigned i = 0; i < count; ++i)
      if (Visit* top = recorder.begin(root, 1, i, 8); top != nullptr) {
        ++traced;
        top->leave(true);
      }
    return traced;
  }

  Reactor reactor{{.name = "trace", .use_ring = false}};
  Recorder recorder{reactor, {.enabled = true, .sample_every = 10, .budget_per_s = 100}};
  Root* root = recorder.open_root("volume", Layer::vhost);
};

TEST_F(RecorderTest, FewAreAllTracedAndManyAreSampled) {
  EXPECT_EQ(run(10), 10u) << "a tenth of a second's budget";
  EXPECT_NEAR(run(1000), 100, 3);
  EXPECT_EQ(root->traced, root->total.total());
}

TEST_F(RecorderTest, OffNothingIsTracedAndOnItIsAgain) {
  recorder.set_options({.enabled = false, .sample_every = 1, .budget_per_s = 100});
  EXPECT_EQ(run(1000), 0u);
  recorder.set_options({.enabled = true, .sample_every = 1, .budget_per_s = 0});
  EXPECT_EQ(run(100), 100u);
}

TEST_F(RecorderTest, ATraceEndsWithItsLastVisit) {
  Visit* top = recorder.begin(root, 1, 0, 8);
  ASSERT_NE(top, nullptr);
  Visit* below = top->enter("leg", Layer::nvme, 1, 0, 8);
  Visit* straggler = top->enter("other leg", Layer::nvme, 1, 0, 8);
  below->leave(true);
  top->leave(true);
  EXPECT_EQ(root->traced, 0u);
  straggler->leave(false);
  EXPECT_EQ(root->traced, 1u);
  unsigned seen = 0;
  recorder.for_each_recent([&](const Trace& trace) {
    ++seen;
    EXPECT_EQ(trace.count, 3);
    EXPECT_STREQ(trace.visits[2].name.data(), "other leg");
    EXPECT_TRUE(trace.visits[2].has(Note::failed));
  });
  EXPECT_EQ(seen, 1u);
}

TEST_F(RecorderTest, WhatDoesNotFitIsLeftOut) {
  Visit* top = recorder.begin(root, 1, 0, 8);
  std::vector<Visit*> below;
  for (size_t i = 1; i < Trace::kVisitsMax; ++i)
    below.push_back(top->enter(std::string(200, 'n'), Layer::disk, 1, 0, 8));
  EXPECT_EQ(top->enter("one more", Layer::disk, 1, 0, 8), nullptr);
  EXPECT_TRUE(top->trace->cut);
  EXPECT_EQ(std::string_view(below[0]->name.data()).size(), below[0]->name.size() - 1);
  for (Visit* visit : below) visit->leave(true);
  top->leave(true);

  recorder.set_options({.enabled = true, .sample_every = 1, .budget_per_s = 0});
  std::vector<Visit*> open;
  for (size_t i = 0; i < Recorder::kTraces; ++i) open.push_back(recorder.begin(root, 1, 0, 8));
  EXPECT_EQ(recorder.begin(root, 1, 0, 8), nullptr) << "the pool is empty";
  EXPECT_EQ(recorder.not_recorded(), 1u);
  for (Visit* visit : open) visit->leave(true);
}

TEST_F(RecorderTest, SlowOnesAreKeptOnceItIsKnownWhatIsUsual) {
  recorder.set_options({.enabled = true, .sample_every = 1, .budget_per_s = 0});
  EXPECT_EQ(run(1000), 1000u);
  ASSERT_NE(root->slow_ticks, UINT64_MAX);
  Visit* top = recorder.begin(root, 1, 77, 8);
  top->entered -= root->slow_ticks + 1;  // as if it had begun then
  top->leave(true);
  bool kept = false;
  recorder.for_each_slow([&](const Trace& trace) { kept = kept || trace.top().lba == 77; });
  EXPECT_TRUE(kept);
  recorder.set_options({.enabled = true, .sample_every = 1000, .budget_per_s = 0});
  run(1);
  recorder.ended_untraced(root, root->slow_ticks + 1);
  EXPECT_EQ(root->slow_untraced, 1u);
  EXPECT_GE(run(100), 20u) << "after a slow one that was missed more are traced";
}

TEST_F(RecorderTest, ARootThatIsGoneLeavesNothingBehind) {
  EXPECT_EQ(recorder.open_root("volume", Layer::vhost), root);
  Visit* top = recorder.begin(root, 1, 0, 8);
  recorder.close_root(root);
  recorder.close_root(root);
  top->leave(true);
  unsigned roots = 0;
  recorder.for_each_root([&](const Root&) { ++roots; });
  EXPECT_EQ(roots, 0u);
}

}  // namespace
}  // namespace diskengine::trace
