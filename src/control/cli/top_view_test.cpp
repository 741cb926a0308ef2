// What `diskengine top` shows: the newest second of each object, within the terminal.
#include "control/cli/top_view.h"

#include <gtest/gtest.h>

#include <boost/json.hpp>
#include <sstream>

namespace diskengine::control::cli {
namespace {

const char* const kAnswer = R"({"records":[
  {"kind":"device","name":"raid_1","end_ms":9000,"span_ms":1000,"reads":1,"writes":10,"write_kib":40},
  {"kind":"device","name":"raid_1","end_ms":10000,"span_ms":2000,"reads":0,"writes":400,"write_kib":2048,
   "write_p50_us":120,"write_p99_us":900,"outstanding":3,"oldest_ms":1},
  {"kind":"stages","name":"raid_1","end_ms":10000,"stages":[{"stage":"raid_submit","p50_us":3,"p99_us":9},
   {"stage":"network_target","p50_us":100,"p99_us":800}]},
  {"kind":"device","name":"disk","end_ms":10000,"span_ms":1000,"writes":99},
  {"kind":"reactor","name":"reactor_0","end_ms":10000,"busy_percent":62.5,"spinning_percent":25,"asleep_percent":12.5},
  {"kind":"reactor","name":"reactor_1","end_ms":2000,"busy_percent":99}]})";

Top example(size_t volumes = 1) {
  Top top;
  top.now_ms = 1'700'000'000'000;
  top.nodes = {{"c1", ""}, {"s1", "its data plane keeps no history"}};
  add_node("c1", boost::json::parse(kAnswer), {{"data", "raid_1"}}, 5'000, &top);
  for (size_t i = 1; i < volumes; ++i) {
    top.volumes.push_back(top.volumes[0]);
    top.volumes.back().name = std::string(100, 'v');
    top.volumes.back().iops = static_cast<double>(i);
  }
  sort(&top);
  return top;
}

TEST(TopView, TheNewestSecondOfEachObjectCounts) {
  const Top top = example();
  ASSERT_EQ(top.volumes.size(), 1U);  // a disk is no volume
  EXPECT_EQ(top.volumes[0].name, "data");
  EXPECT_DOUBLE_EQ(top.volumes[0].iops, 200);
  EXPECT_DOUBLE_EQ(top.volumes[0].mib_s, 1);
  EXPECT_DOUBLE_EQ(top.volumes[0].p99_us, 900);
  ASSERT_EQ(top.volumes[0].stages.size(), 2U);
  ASSERT_EQ(top.reactors.size(), 1U);  // what the other one did is of the past
  EXPECT_DOUBLE_EQ(top.reactors[0].busy_percent, 62.5);
}

TEST(TopView, ItShowsBusyAgainstPollingInVain) {
  const std::string drawn = draw(example(), 80, 24);
  EXPECT_NE(drawn.find("|###############......   |"), std::string::npos) << drawn;
  EXPECT_NE(drawn.find("network_target"), std::string::npos) << drawn;
  EXPECT_NE(drawn.find("s1 was not asked: its data plane keeps no history"), std::string::npos) << drawn;
}

TEST(TopView, ItFitsIntoTheTerminal) {
  for (const auto& [columns, rows] : {std::pair<size_t, size_t>{80, 24}, {40, 10}, {20, 3}, {1, 1}, {300, 100}}) {
    for (const size_t volumes : {1, 50}) {
      std::istringstream lines(draw(example(volumes), columns, rows));
      size_t count = 0;
      for (std::string line; std::getline(lines, line); ++count) EXPECT_LE(line.size(), columns) << line;
      EXPECT_LE(count, rows);
    }
  }
  EXPECT_NE(draw(example(50), 80, 24).find("reactor_0"), std::string::npos);
}

TEST(TopView, AnAnswerThatMakesNoSenseShowsNothing) {
  for (const char* text : {"null", "[]", R"({"records":3})", R"({"records":[{},4,{"kind":"stages","stages":[1]}]})"}) {
    Top top;
    add_node("c1", boost::json::parse(text), {{"data", "raid_1"}}, 0, &top);
    EXPECT_TRUE(top.volumes.empty()) << text;
    EXPECT_NE(draw(top, 80, 24).find("no volume"), std::string::npos);
  }
}

}  // namespace
}  // namespace diskengine::control::cli
