// The latency doctor on histories made by hand: it finds spikes, their period, layer and cause, and is never certain of
// what only happened at the same time.
#include "control/diagnose/latency_doctor.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <boost/json.hpp>

namespace diskengine::control {
namespace {

constexpr int64_t kStartMs = 1'000'000'000;
constexpr int64_t kSecond = 1'000;
constexpr int64_t kLength = 600;  // seconds

// A volume with one replica whose latencies hold each other: what a disk takes, everything above takes too.
struct Past {
  Past() {
    history.volume = "data";
    history.raid = "raid_1";
    history.controllers = {"replica-a"};
    history.since_ms = kStartMs;
    history.until_ms = kStartMs + kLength * kSecond;
    add(PastRole::volume, "c1", "raid_1", 220);
    add(PastRole::leg, "c1", "replica-an1", 200);
    add(PastRole::lvol, "s1", "lvol", 100);
    add(PastRole::disk, "s1", "disk", 80);
    add(PastRole::reactor, "s1", "reactor_0", 0);
  }
  void add(PastRole role, const std::string& node, const std::string& name, double us) {
    PastSeries series{.role = role, .node = node, .name = name, .leg = "replica-an1", .samples = {}};
    for (int64_t second = 1; second <= kLength; ++second) {
      PastSample sample;
      sample.end_ms = kStartMs + second * kSecond;
      sample.span_ms = kSecond;
      sample.ops = 1000;
      sample.kib = 4000;
      sample.p99_us = us + static_cast<double>(second * 7919 % 40);  // not quite even
      sample.busy_percent = 30;
      series.samples.push_back(sample);
    }
    history.series.push_back(std::move(series));
  }
  // The layers from the volume down to `deepest` are slow in that second.
  void slow(int64_t second, PastRole deepest, double us = 20'000) {
    for (PastSeries& series : history.series)
      if (series.role <= deepest) at(series, second).p99_us += us;
  }
  PastSample& at(PastSeries& series, int64_t second) const { return series.samples[static_cast<size_t>(second - 1)]; }
  PastSeries& series(PastRole role) {
    return *std::find_if(history.series.begin(), history.series.end(), [&](const auto& s) { return s.role == role; });
  }
  void event(int64_t second, const std::string& node, const std::string& type, const std::string& object,
             const std::string& text, const std::string& phase = "moment", int64_t took_ms = 300) {
    const int64_t end_ms = kStartMs + second * kSecond;
    history.events.push_back({node, type, phase, object, text, end_ms - took_ms, end_ms});
  }

  LatencyHistory history;
};

const LatencyCause* find(const LatencyFinding& finding, const std::string& code) {
  const auto at = std::find_if(finding.causes.begin(), finding.causes.end(),
                               [&](const LatencyCause& cause) { return cause.suspect.code == code; });
  return at == finding.causes.end() ? nullptr : &*at;
}

bool excludes(const LatencyFinding& finding, const std::string& code) {
  return std::any_of(finding.excluded.begin(), finding.excluded.end(),
                     [&](const LatencyExcluded& one) { return one.code == code; });
}

bool is_certain_of_anything(const LatencyFinding& finding) {
  return std::any_of(finding.causes.begin(), finding.causes.end(),
                     [](const LatencyCause& cause) { return cause.certainty == Certainty::certain; });
}

TEST(LatencyDoctor, ASteadyVolumeHasNoSpikes) {
  const LatencyFinding finding = find_latency_causes(Past().history);
  EXPECT_TRUE(finding.spikes.empty());
  EXPECT_TRUE(finding.causes.empty());
  EXPECT_NE(finding.headline.find("no latency spikes"), std::string::npos);
}

TEST(LatencyDoctor, AVolumeThatDidNothingIsNotJudged) {
  LatencyHistory history;
  history.volume = "data";
  EXPECT_NE(find_latency_causes(history).headline.find("too little"), std::string::npos);
}

TEST(LatencyDoctor, ASnapshotScheduleIsFoundByItsPeriod) {
  Past past;
  for (int64_t second = 30; second < kLength; second += 60) {
    past.event(second, "s1", "rpc", "lvol", "bdev_lvol_snapshot lvol_name=lvol");
    past.slow(second, PastRole::lvol);
    past.slow(second + 1, PastRole::lvol);
  }
  const LatencyFinding finding = find_latency_causes(past.history);
  EXPECT_EQ(finding.spikes.size(), 10U);
  EXPECT_EQ(finding.period_ms, 60 * kSecond);
  ASSERT_FALSE(finding.causes.empty());
  EXPECT_EQ(finding.causes[0].suspect.code, "snapshot");
  EXPECT_EQ(finding.causes[0].certainty, Certainty::certain);
  EXPECT_EQ(finding.layers[0].layer, "lvol");
  EXPECT_TRUE(excludes(finding, "rebuild"));
  EXPECT_TRUE(excludes(finding, "reconnect"));
}

TEST(LatencyDoctor, ReconnectsAreNamedWhereTheLegWaits) {
  Past past;
  for (const int64_t second : {40, 133, 190, 333, 401, 550}) {
    past.event(second, "c1", "path", "replica-a", "reconnect_is_delayed", "ended", 800);
    past.slow(second, PastRole::leg);
  }
  const LatencyFinding finding = find_latency_causes(past.history);
  EXPECT_EQ(finding.period_ms, 0);
  ASSERT_FALSE(finding.causes.empty());
  EXPECT_EQ(finding.causes[0].suspect.code, "reconnect");
  EXPECT_EQ(finding.causes[0].certainty, Certainty::certain);
  EXPECT_EQ(finding.layers[0].layer, "network");
}

TEST(LatencyDoctor, ASaturatedReactorIsLikelyAndNeverCertain) {
  Past past;
  for (const int64_t second : {40, 133, 190, 333, 401, 550}) {
    past.at(past.series(PastRole::reactor), second).busy_percent = 99;
    past.slow(second, PastRole::leg);
  }
  const LatencyFinding finding = find_latency_causes(past.history);
  ASSERT_NE(find(finding, "reactor-saturated"), nullptr);
  EXPECT_EQ(find(finding, "reactor-saturated")->certainty, Certainty::likely);
  EXPECT_FALSE(is_certain_of_anything(finding));
}

TEST(LatencyDoctor, ASaturatedReactorHidesNeitherTheDiskNorAnotherMachines) {
  Past past;
  past.add(PastRole::reactor, "c1", "reactor_0", 0);
  for (const int64_t second : {40, 133, 190, 333, 401, 550}) {
    for (PastSeries& series : past.history.series)
      if (series.role == PastRole::reactor) past.at(series, second).busy_percent = 99;
    past.slow(second, PastRole::disk);
  }
  const LatencyFinding finding = find_latency_causes(past.history);
  ASSERT_EQ(finding.causes.size(), 2U);
  EXPECT_EQ(finding.causes[0].suspect.code, "reactor-saturated");
  EXPECT_EQ(finding.causes[0].suspect.node, "s1");
  EXPECT_EQ(finding.causes[1].suspect.code, "disk-slow");
  EXPECT_EQ(finding.causes[1].certainty, Certainty::likely);
  EXPECT_TRUE(excludes(finding, "reactor-saturated"));  // that of c1 makes no disk of s1 slow
}

TEST(LatencyDoctor, SmallSpikesBetweenTallOnesDoNotHideTheirPeriod) {
  Past past;
  for (int64_t second = 15; second < kLength; second += 50) past.slow(second, PastRole::disk, 400'000);
  for (const int64_t second : {31, 78, 102, 171, 203, 286, 299, 350, 378, 431, 497, 583})
    past.slow(second, PastRole::volume, 60'000 + static_cast<double>(second) * 100);
  past.slow(322, PastRole::disk, 3'000'000);  // one that is far taller than the tall ones
  const LatencyFinding finding = find_latency_causes(past.history);
  EXPECT_GT(finding.spikes.size(), 20U);
  EXPECT_NEAR(static_cast<double>(finding.period_ms), 50'000, 1'000);
}

TEST(LatencyDoctor, ThePeriodIsThatOfThemAllThoughEachIsKnownToASecondOnly) {
  Past past;
  for (const int64_t second : {20, 26, 31, 35, 41, 46, 50, 55}) past.slow(second, PastRole::disk);
  EXPECT_EQ(find_latency_causes(past.history).period_ms, 5 * kSecond);
}

TEST(LatencyDoctor, ChanceIsNotTakenForAPeriod) {
  Past past;
  for (const int64_t second : {40, 133, 190, 333, 401, 411, 550, 570}) past.slow(second, PastRole::disk);
  EXPECT_EQ(find_latency_causes(past.history).period_ms, 0);
}

TEST(LatencyDoctor, RetransmissionsWithTheSpikesAreTheNetwork) {
  Past past;
  past.add(PastRole::connections, "c1", "tcp 10.0.0.1:4420", 0);
  past.add(PastRole::connections, "s1", "tcp 10.0.0.1:4420", 0);
  for (const int64_t second : {40, 133, 190, 333, 401, 550}) {
    for (PastSeries& series : past.history.series)
      if (series.role == PastRole::connections && series.node == "c1") past.at(series, second).again = 3;
    past.slow(second, PastRole::leg);
  }
  const LatencyFinding finding = find_latency_causes(past.history);
  ASSERT_EQ(finding.causes.size(), 1U);
  EXPECT_EQ(finding.causes[0].suspect.code, "retransmissions");
  EXPECT_EQ(finding.causes[0].suspect.node, "s1");
  EXPECT_EQ(finding.causes[0].certainty, Certainty::certain);
  EXPECT_NE(finding.causes[0].evidence[1].find("counted on c1"), std::string::npos);
}

TEST(LatencyDoctor, RetransmissionsToOneReplicaDoNotExplainADisk) {
  Past past;
  past.add(PastRole::connections, "c1", "tcp 10.0.0.1:4420", 0);
  for (const int64_t second : {40, 133, 190, 333, 401, 550}) {
    past.at(past.series(PastRole::connections), second).again = 3;
    past.slow(second, PastRole::disk);
  }
  const LatencyFinding finding = find_latency_causes(past.history);
  EXPECT_EQ(find(finding, "retransmissions"), nullptr);
  EXPECT_TRUE(excludes(finding, "retransmissions"));
}

TEST(LatencyDoctor, APortThatDropsIsLikelyAndNeverCertain) {
  Past past;
  past.add(PastRole::interface, "c1", "rdma mlx5_0/1", 0);
  for (const int64_t second : {40, 133, 190, 333, 401, 550}) {
    past.at(past.series(PastRole::interface), second).lost = 12;
    past.slow(second, PastRole::leg);
  }
  const LatencyFinding finding = find_latency_causes(past.history);
  ASSERT_NE(find(finding, "network-errors"), nullptr);
  EXPECT_EQ(find(finding, "network-errors")->certainty, Certainty::likely);
  EXPECT_FALSE(is_certain_of_anything(finding));
}

TEST(LatencyDoctor, ADiskThatIsHotWithTheSpikesIsSaidSo) {
  Past past;
  past.add(PastRole::temperature, "s1", "nvme0", 0);
  for (const int64_t second : {40, 133, 190, 333, 401, 550}) {
    PastSample& sample = past.at(past.series(PastRole::temperature), second);
    sample.celsius = 78;
    sample.warning_celsius = 77;
    past.slow(second, PastRole::disk);
  }
  const LatencyFinding finding = find_latency_causes(past.history);
  ASSERT_NE(find(finding, "disk-health"), nullptr);
  EXPECT_EQ(find(finding, "disk-health")->certainty, Certainty::likely);
  EXPECT_NE(find(finding, "disk-health")->evidence[1].find("78 C"), std::string::npos);
}

TEST(LatencyDoctor, WhatMachinesSaidIsReadForEachNameByItself) {
  const boost::json::value answer = boost::json::parse(
      R"({"records":[{"kind":"network","type":"tcp","name":"tcp 10.0.0.1:4420","end_ms":2000,"span_ms":1000,"sent":9,"again":2},
          {"kind":"network","type":"rdma","name":"rdma rxe0/1","end_ms":2000,"span_ms":1000,"dropped":1,"damaged":4},
          {"kind":"temperature","name":"nvme0","end_ms":2000,"span_ms":60000,"celsius":41,"warning_celsius":"x"},
          {"kind":"device","name":"d"},{"kind":"network","type":"tcp","name":"tcp 10.0.0.1:4420","end_ms":3000}, 7]})");
  const std::vector<PastSeries> all = read_machine(answer, "s1", 500);
  ASSERT_EQ(all.size(), 3U);
  EXPECT_EQ(all[0].role, PastRole::temperature);
  EXPECT_EQ(all[0].samples[0].celsius, 41);
  EXPECT_EQ(all[1].role, PastRole::interface);
  EXPECT_EQ(all[1].samples[0].lost, 5);
  EXPECT_EQ(all[2].role, PastRole::connections);
  ASSERT_EQ(all[2].samples.size(), 2U);
  EXPECT_EQ(all[2].samples[0].again, 2);
  EXPECT_EQ(all[2].samples[0].end_ms, 1'500);
}

TEST(LatencyDoctor, NeighboursAreSeenByWhatTheDiskDoesForOthers) {
  Past past;
  for (const int64_t second : {40, 133, 190, 333, 401, 550}) {
    past.at(past.series(PastRole::disk), second).kib = 200'000;
    past.slow(second, PastRole::disk);
  }
  const LatencyFinding finding = find_latency_causes(past.history);
  ASSERT_NE(find(finding, "neighbours"), nullptr);
  EXPECT_EQ(find(finding, "neighbours")->certainty, Certainty::likely);
  EXPECT_EQ(finding.layers[0].layer, "disk");
}

TEST(LatencyDoctor, ADiskThatIsSlowAloneIsNamedItself) {
  Past past;
  for (const int64_t second : {40, 133, 190}) past.slow(second, PastRole::disk);
  const LatencyFinding finding = find_latency_causes(past.history);
  ASSERT_EQ(finding.causes.size(), 1U);
  EXPECT_EQ(finding.causes[0].suspect.code, "disk-slow");
  EXPECT_EQ(finding.causes[0].suspect.node, "s1");
  EXPECT_EQ(finding.causes[0].certainty, Certainty::likely);
}

TEST(LatencyDoctor, ARebuildThatRunsAllTheTimeExplainsNothing) {
  Past past;
  past.event(kLength, "c1", "rebuild", "raid_1", "copies to a leg", "ended", (kLength - 5) * kSecond);
  for (const int64_t second : {40, 133, 190, 333, 401, 550}) past.slow(second, PastRole::disk);
  const LatencyFinding finding = find_latency_causes(past.history);
  EXPECT_EQ(find(finding, "rebuild"), nullptr);
  EXPECT_TRUE(excludes(finding, "rebuild"));
  EXPECT_FALSE(is_certain_of_anything(finding));
}

TEST(LatencyDoctor, WhatHappenedOnceAtTheSameTimeIsOnlyPossible) {
  Past past;
  past.event(133, "s1", "rpc", "lvol", "bdev_lvol_snapshot lvol_name=lvol");
  past.slow(133, PastRole::lvol);
  const LatencyFinding finding = find_latency_causes(past.history);
  ASSERT_NE(find(finding, "snapshot"), nullptr);
  EXPECT_EQ(find(finding, "snapshot")->certainty, Certainty::possible);
  EXPECT_FALSE(is_certain_of_anything(finding));
}

TEST(LatencyDoctor, AnEventOfAnotherLayerIsExcluded) {
  Past past;
  for (const int64_t second : {40, 133, 190, 333, 401, 550}) {
    past.event(second, "s1", "rpc", "lvol", "bdev_lvol_snapshot lvol_name=lvol");
    past.slow(second, PastRole::leg);  // the lvol was quick all the time
  }
  const LatencyFinding finding = find_latency_causes(past.history);
  EXPECT_EQ(find(finding, "snapshot"), nullptr);
  EXPECT_TRUE(excludes(finding, "snapshot"));
}

TEST(LatencyDoctor, TwoCausesThatFitEquallyAreNotCertain) {
  Past past;
  for (const int64_t second : {40, 133, 190, 333, 401, 550}) {
    past.event(second, "s1", "rpc", "lvol", "bdev_lvol_snapshot lvol_name=lvol");
    past.event(second, "c1", "path", "replica-a", "reconnect_is_delayed", "ended", 800);
    past.slow(second, PastRole::lvol);
  }
  const LatencyFinding finding = find_latency_causes(past.history);
  ASSERT_NE(find(finding, "snapshot"), nullptr);
  EXPECT_EQ(find(finding, "snapshot")->certainty, Certainty::likely);
  EXPECT_FALSE(is_certain_of_anything(finding));
}

TEST(LatencyDoctor, PathsOfOtherVolumesDoNotCount) {
  Past past;
  for (const int64_t second : {40, 133, 190, 333, 401, 550}) {
    past.event(second, "c1", "path", "replica-of-another", "reconnect_is_delayed", "ended", 800);
    past.slow(second, PastRole::leg);
  }
  const LatencyFinding finding = find_latency_causes(past.history);
  EXPECT_TRUE(excludes(finding, "reconnect"));
}

TEST(LatencyDoctor, ATargetThatCouldNotBeAskedIsNotCalledTheNetwork) {
  Past past;
  std::erase_if(past.history.series, [](const PastSeries& s) { return s.node == "s1"; });
  for (const int64_t second : {40, 133, 190}) past.slow(second, PastRole::leg);
  const LatencyFinding finding = find_latency_causes(past.history);
  EXPECT_EQ(finding.layers[0].layer, "target");
}

TEST(LatencyDoctor, AnAnswerThatMakesNoSenseIsReadAsNothing) {
  for (const char* text :
       {"null", "[]", "{}", R"({"records":7})", R"({"records":[1,{},{"kind":"device","end_ms":"x"}]})"}) {
    const boost::json::value answer = boost::json::parse(text);
    EXPECT_LE(read_samples(answer, 0).size(), 1U) << text;
    EXPECT_TRUE(read_events(answer, "s1", 0).empty()) << text;
  }
}

TEST(LatencyDoctor, TimesOfAnotherClockAreBroughtIntoOurs) {
  const boost::json::value answer = boost::json::parse(
      R"({"records":[{"kind":"device","end_ms":11000,"span_ms":1000,"reads":5,"read_p99_us":70,"write_p99_us":90,"oldest_ms":0}]})");
  const std::vector<PastSample> samples = read_samples(answer, 3'000);
  ASSERT_EQ(samples.size(), 1U);
  EXPECT_EQ(samples[0].end_ms, 8'000);
  EXPECT_EQ(samples[0].p99_us, 90);
}

TEST(LatencyDoctor, OneWriteThatTookMostOfASecondCountsThoughAHundredTimesAsManyWereQuick) {
  const boost::json::value answer = boost::json::parse(
      R"({"records":[{"kind":"device","end_ms":2000,"span_ms":1000,"writes":1500,"write_p99_us":300,"write_max_us":600000},
          {"kind":"device","end_ms":3000,"span_ms":1000,"writes":9000,"write_p99_us":300,"write_max_us":9000}]})");
  const std::vector<PastSample> samples = read_samples(answer, 0);
  ASSERT_EQ(samples.size(), 2U);
  EXPECT_EQ(samples[0].p99_us, 590'000);
  EXPECT_EQ(samples[1].p99_us, 300);
}

}  // namespace
}  // namespace diskengine::control
