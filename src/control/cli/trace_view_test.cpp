#include "control/cli/trace_view.h"

#include <gtest/gtest.h>

#include <boost/json.hpp>
#include <numeric>

namespace diskengine::control::cli {
namespace {

namespace json = boost::json;

json::object parsed(const char* text) { return json::parse(text).as_object(); }

json::object compute_trace() {
  return parsed(R"({"name":"raid_1","layer":"vhost","op":"write","lba":64,"blocks":8,"age_us":1000.0,"total_us":200.0,
    "stages":[{"stage":"vhost_submit","us":10.0},{"stage":"network_target","us":150.0},{"stage":"vhost_complete","us":40.0}],
    "visits":[
     {"index":0,"parent":0,"layer":"vhost","name":"raid_1","op":"write","lba":64,"blocks":8,"enter_us":0.0,"leave_us":200.0,
      "waited_for":true,"notes":[]},
     {"index":1,"parent":0,"layer":"raid","name":"raid_1","op":"write","lba":64,"blocks":8,"enter_us":10.0,"leave_us":160.0,
      "waited_for":true,"notes":["ordered"]},
     {"index":2,"parent":1,"layer":"nvme","name":"replica-an1","op":"write","lba":320,"blocks":8,"enter_us":10.0,
      "leave_us":60.0,"sent_us":10.0,"answered_us":60.0,"queue_id":1,"command_id":5,"waited_for":false,"notes":[]},
     {"index":3,"parent":1,"layer":"nvme","name":"replica-bn1","op":"write","lba":320,"blocks":8,"enter_us":10.0,
      "leave_us":160.0,"sent_us":10.0,"answered_us":160.0,"queue_id":1,"command_id":6,"waited_for":true,"notes":[]}]})");
}

json::object target_trace() {
  return parsed(R"({"name":"lvol","layer":"nvmf","op":"write","lba":320,"blocks":8,"age_us":1100.0,"total_us":90.0,
    "host_nqn":"h","stages":[{"stage":"lvol_allocate","us":60.0},{"stage":"disk","us":30.0}],
    "visits":[
     {"index":0,"parent":0,"layer":"nvmf","name":"lvol","op":"write","lba":320,"blocks":8,"enter_us":0.0,"leave_us":90.0,
      "queue_id":1,"command_id":6,"waited_for":true,"notes":[]},
     {"index":1,"parent":0,"layer":"lvol","name":"lvol","op":"write","lba":320,"blocks":8,"enter_us":0.0,"leave_us":90.0,
      "waited_for":true,"notes":["allocated"]}]})");
}

JoinedTrace joined() {
  JoinedTrace joined;
  joined.volume = "data";
  joined.node = "c1";
  joined.trace = compute_trace();
  joined.legs = legs_of(joined.trace);
  joined.legs[0].node = "s1";
  joined.legs[0].no_target = "it does not trace";
  joined.legs[1].node = "s2";
  joined.legs[1].target = target_trace();
  return joined;
}

TEST(TraceView, StagesOfBothMachinesAddUpToTheWhole) {
  const std::vector<JoinedStage> stages = stages_of(joined());
  const double sum = std::accumulate(stages.begin(), stages.end(), 0.0,
                                     [](double all, const JoinedStage& stage) { return all + stage.us; });
  EXPECT_DOUBLE_EQ(sum, 200);
  ASSERT_EQ(stages.size(), 5u);
  EXPECT_EQ(stages[1].name, "network, both ways");
  EXPECT_DOUBLE_EQ(stages[1].us, 60);
  EXPECT_EQ(stages[2].where, "s2");
}

TEST(TraceView, WithoutATargetsTraceNetworkAndTargetAreOne) {
  JoinedTrace one = joined();
  one.legs[1].target.clear();
  const std::vector<JoinedStage> stages = stages_of(one);
  ASSERT_EQ(stages.size(), 3u);
  EXPECT_EQ(stages[1].name, "network and target");
  EXPECT_DOUBLE_EQ(stages[1].us, 150);
}

TEST(TraceView, ACommandIsKnownByHostQueueIdAndBlocksTogether) {
  const JoinedTrace one = joined();
  json::array candidates{target_trace(), target_trace(), target_trace()};
  candidates[0].as_object()["lba"] = 328;           // the same id, used for another command
  candidates[1].as_object()["total_us"] = 1'000.0;  // longer than the command was away
  EXPECT_EQ(same_command(one.legs[1].visit, candidates), &candidates[2].as_object());
  EXPECT_EQ(same_command(one.legs[0].visit, candidates), nullptr);
}

TEST(TraceView, WhatWasUnusualIsSaid) {
  const std::string drawn = draw(joined());
  for (const char* part : {"200.0 us", "<- this one was waited for", "waited for an overlapping write",
                           "first write to a cluster", "3.0 times as long as replica-an1", "it does not trace"})
    EXPECT_NE(drawn.find(part), std::string::npos) << part << "\n" << drawn;
}

TEST(TraceView, SpansPointToTheirParentsAndKeepTheirTimes) {
  const json::object otlp = to_otlp(joined(), 2'000'000'000);
  const json::array& resources = otlp.at("resourceSpans").as_array();
  ASSERT_EQ(resources.size(), 2u);
  const auto spans = [&](size_t i) -> const json::array& {
    return resources[i].at("scopeSpans").as_array()[0].at("spans").as_array();
  };
  EXPECT_EQ(spans(0).size(), 4u);
  EXPECT_EQ(spans(1)[0].at("parentSpanId"), spans(0)[3].at("spanId"));
  EXPECT_EQ(spans(0)[0].at("startTimeUnixNano"), "1998800000");
  EXPECT_EQ(spans(0)[0].at("endTimeUnixNano"), "1999000000");
  EXPECT_FALSE(spans(0)[0].as_object().contains("parentSpanId"));
}

}  // namespace
}  // namespace diskengine::control::cli
