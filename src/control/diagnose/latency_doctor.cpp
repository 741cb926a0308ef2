#include "control/diagnose/latency_doctor.h"

#include <fmt/format.h>

#include <algorithm>
#include <boost/json.hpp>
#include <map>

#include "control/sizes.h"

namespace diskengine::control {
namespace {

namespace json = boost::json;

constexpr double kMostOfExcess = 0.5;    // a layer is slow with the volume if it has so much of what is too much
constexpr double kChanceLikely = 0.001;  // of so many spikes with it, if it had nothing to do with them
constexpr double kChanceCertain = 1e-6;
constexpr double kChancePossible = 0.05;
constexpr double kSharePossible = 0.3;  // of the spikes
constexpr double kShareLikely = 0.6;
constexpr double kShareCertain = 0.9;
constexpr size_t kSpikesCertain = 5;
constexpr size_t kSpikesLikely = 3;

const PastSeries* find_series(const LatencyHistory& history, PastRole role, const std::string& leg = {}) {
  for (const PastSeries& series : history.series)
    if (series.role == role && (leg.empty() || series.leg == leg)) return &series;
  return nullptr;
}

// Whether a series was slow in the spike by most of what the volume was slow by.
bool is_slow_with(const PastSeries* series, const Spike& spike, double excess_us) {
  if (series == nullptr || series->samples.empty()) return false;
  const double worst = worst_between(series->samples, spike.begin_ms, spike.end_ms);
  return worst - usual_of(series->samples).median_us >= kMostOfExcess * excess_us;
}

SpikeLayer layer_of(const LatencyHistory& history, const Spike& spike, double excess_us) {
  bool any_leg = false;
  for (const PastSeries& series : history.series) {
    if (series.role != PastRole::leg || series.samples.empty()) continue;
    any_leg = true;
    if (!is_slow_with(&series, spike, excess_us)) continue;
    const PastSeries* lvol = find_series(history, PastRole::lvol, series.leg);
    const PastSeries* disk = find_series(history, PastRole::disk, series.leg);
    if (is_slow_with(disk, spike, excess_us)) return {"disk", disk->node};
    if (is_slow_with(lvol, spike, excess_us)) return {"lvol", lvol->node};
    const bool is_known = lvol != nullptr && !lvol->samples.empty();
    return {is_known ? "network" : "target", lvol != nullptr ? lvol->node : series.name};
  }
  const PastSeries* volume = find_series(history, PastRole::volume);
  return {any_leg ? "raid" : "unknown", volume != nullptr ? volume->node : std::string()};
}

std::vector<SpikeLayer> layers_of(const LatencyHistory& history, const std::vector<Spike>& spikes, double median_us) {
  std::vector<SpikeLayer> layers;
  for (const Spike& spike : spikes) {
    SpikeLayer found = layer_of(history, spike, spike.worst_us - median_us);
    const auto known = std::find_if(layers.begin(), layers.end(), [&](const SpikeLayer& layer) {
      return layer.layer == found.layer && layer.node == found.node;
    });
    SpikeLayer& layer = known != layers.end() ? *known : layers.emplace_back(std::move(found));
    ++layer.spikes;
  }
  std::stable_sort(layers.begin(), layers.end(),
                   [](const SpikeLayer& a, const SpikeLayer& b) { return a.spikes > b.spikes; });
  return layers;
}

bool overlap(const Suspect& suspect, const Stretch& stretch, const Spike& spike) {
  return stretch.begin_ms <= spike.end_ms && stretch.end_ms + suspect.slack_ms >= spike.begin_ms;
}

struct Fit {
  size_t hits = 0;      // spikes with it
  size_t answered = 0;  // stretches with a spike
  double chance = 1;    // of so many hits, if it had nothing to do with the spikes
  const Stretch* example = nullptr;
};

// The share of the time in which a spike of usual length would touch one of the stretches.
double share_touched(const LatencyHistory& history, const Suspect& suspect, const std::vector<Spike>& spikes) {
  const int64_t window_ms = std::max<int64_t>(1, history.until_ms - history.since_ms);
  int64_t spike_ms = 0;
  for (const Spike& spike : spikes) spike_ms += spike.end_ms - spike.begin_ms;
  spike_ms /= static_cast<int64_t>(spikes.size());
  int64_t touched_ms = 0, reached_ms = history.since_ms;
  for (const Stretch& stretch : suspect.stretches) {
    const int64_t begin_ms = std::max(reached_ms, stretch.begin_ms - spike_ms);
    const int64_t end_ms = std::min(history.until_ms, stretch.end_ms + suspect.slack_ms);
    if (end_ms <= begin_ms) continue;
    touched_ms += end_ms - begin_ms;
    reached_ms = end_ms;
  }
  return std::min(1.0, static_cast<double>(touched_ms) / static_cast<double>(window_ms));
}

Fit fit_of(const LatencyHistory& history, const Suspect& suspect, const std::vector<Spike>& spikes) {
  Fit fit;
  for (const Spike& spike : spikes) {
    const auto with = std::find_if(suspect.stretches.begin(), suspect.stretches.end(),
                                   [&](const Stretch& stretch) { return overlap(suspect, stretch, spike); });
    if (with == suspect.stretches.end()) continue;
    ++fit.hits;
    if (fit.example == nullptr) fit.example = &*with;
  }
  fit.answered = static_cast<size_t>(
      std::count_if(suspect.stretches.begin(), suspect.stretches.end(), [&](const Stretch& stretch) {
        return std::any_of(spikes.begin(), spikes.end(),
                           [&](const Spike& spike) { return overlap(suspect, stretch, spike); });
      }));
  fit.chance = chance_of(fit.hits, spikes.size(), share_touched(history, suspect, spikes));
  return fit;
}

bool fits_layer(const Suspect& suspect, const std::vector<SpikeLayer>& layers) {
  if (suspect.fits.empty() || layers.empty()) return true;
  const auto fits = [&](const SpikeLayer& layer) {
    const bool is_known = layer.layer != "unknown";
    const bool is_same = std::find(suspect.fits.begin(), suspect.fits.end(), layer.layer) != suspect.fits.end();
    return !is_known || (is_same && (suspect.node.empty() || suspect.fits_elsewhere || suspect.node == layer.node));
  };
  return std::any_of(layers.begin(), layers.end(), fits);
}

Certainty certainty_of(const Suspect& suspect, const Fit& fit, size_t spikes) {
  const double share = static_cast<double>(fit.hits) / static_cast<double>(spikes);
  const double answered = static_cast<double>(fit.answered) / static_cast<double>(suspect.stretches.size());
  if (suspect.can_be_certain && spikes >= kSpikesCertain && share >= kShareCertain && answered >= kShareCertain &&
      fit.chance <= kChanceCertain)
    return Certainty::certain;
  if (fit.hits >= kSpikesLikely && share >= kShareLikely && fit.chance <= kChanceLikely) return Certainty::likely;
  return Certainty::possible;
}

LatencyExcluded excluded(const Suspect& suspect, std::string why) {
  return {suspect.code, suspect.node, std::move(why)};
}

void judge(const LatencyHistory& history, Suspect suspect, LatencyFinding* finding) {
  const size_t spikes = finding->spikes.size();
  if (suspect.stretches.empty()) {
    finding->excluded.push_back(excluded(suspect, "did not happen"));
    return;
  }
  const Fit fit = fit_of(history, suspect, finding->spikes);
  const std::string times = fmt::format("{} of {} spikes had it, and {} of the {} times that it happened had a spike",
                                        fit.hits, spikes, fit.answered, suspect.stretches.size());
  if (fit.hits == 0) {
    finding->excluded.push_back(
        excluded(suspect, fmt::format("happened {} times, never with a spike", suspect.stretches.size())));
  } else if (!fits_layer(suspect, finding->layers)) {
    finding->excluded.push_back(excluded(suspect, "happened with spikes, but another layer was slow: " + times));
  } else if (fit.chance > kChancePossible &&
             static_cast<double>(fit.hits) < kSharePossible * static_cast<double>(spikes)) {
    finding->excluded.push_back(excluded(suspect, "not more often with spikes than by chance: " + times));
  } else if (fit.chance > kChancePossible && spikes >= kSpikesLikely) {
    finding->excluded.push_back(
        excluded(suspect, fmt::format("went on so long that it says nothing: {}; chance alone gives that with {:.0f} %",
                                      times, fit.chance * 100)));
  } else {
    LatencyCause cause;
    cause.certainty = certainty_of(suspect, fit, spikes);
    cause.evidence = {times, "for instance " + fit.example->what};
    if (fit.chance <= kChancePossible)
      cause.evidence.push_back(fmt::format("by chance that would be so with a probability of {:.2g}", fit.chance));
    cause.suspect = std::move(suspect);
    finding->causes.push_back(std::move(cause));
  }
}

// Two that fit equally well cannot both be known to be it.
void settle(LatencyFinding* finding) {
  std::stable_sort(finding->causes.begin(), finding->causes.end(),
                   [](const LatencyCause& a, const LatencyCause& b) { return a.certainty > b.certainty; });
  const auto certain = std::count_if(finding->causes.begin(), finding->causes.end(),
                                     [](const LatencyCause& cause) { return cause.certainty == Certainty::certain; });
  if (certain < 2) return;
  for (LatencyCause& cause : finding->causes) {
    if (cause.certainty != Certainty::certain) continue;
    cause.certainty = Certainty::likely;
    cause.evidence.emplace_back("another cause fits as well, so neither is certain");
  }
}

// What a layer that was slow by itself, with nothing beside it, leaves.
void add_layer_itself(const LatencyHistory& history, LatencyFinding* finding) {
  const bool is_explained = std::any_of(finding->causes.begin(), finding->causes.end(), [](const LatencyCause& cause) {
    return cause.certainty != Certainty::possible && !cause.suspect.is_beside;
  });
  const bool is_alone = std::none_of(finding->causes.begin(), finding->causes.end(),
                                     [](const LatencyCause& cause) { return cause.certainty != Certainty::possible; });
  if (is_explained || finding->layers.empty() || finding->layers.front().layer == "unknown") return;
  const SpikeLayer& layer = finding->layers.front();
  LatencyCause cause;
  cause.suspect = {
      .code = layer.layer + "-slow",
      .layer = layer.layer,
      .node = layer.node,
      .summary = fmt::format("{} itself was slow, and {} that was recorded explains it",
                             layer.layer == "target" ? "the network or the target" : "the layer " + layer.layer,
                             is_alone ? "nothing" : "nothing else"),
      .next = fmt::format("diskengine volume trace {} --slow", history.volume),
      .fits = {},
      .can_be_certain = false,
      .stretches = {}};
  const bool is_most = static_cast<double>(layer.spikes) >= kShareLikely * static_cast<double>(finding->spikes.size());
  cause.certainty = is_most && layer.spikes >= kSpikesLikely ? Certainty::likely : Certainty::possible;
  cause.evidence = {fmt::format("in {} of {} spikes it is the deepest layer that was slow with the volume",
                                layer.spikes, finding->spikes.size())};
  finding->causes.push_back(std::move(cause));
}

std::string headline_of(const LatencyHistory& history, const LatencyFinding& finding, size_t samples) {
  if (samples < kSamplesMin)
    return fmt::format("Volume {} did too little to tell: {} moments with I/O were recorded, {} are needed.",
                       history.volume, samples, kSamplesMin);
  const std::string usual = fmt::format("99 of 100 I/Os usually end within {:.2f} ms", finding.usual.median_us / 1000);
  if (finding.spikes.empty()) return fmt::format("Volume {} had no latency spikes: {}.", history.volume, usual);
  const auto worst = std::max_element(finding.spikes.begin(), finding.spikes.end(),
                                      [](const Spike& a, const Spike& b) { return a.worst_us < b.worst_us; });
  return fmt::format("Volume {} had {} latency spike{}, up to {:.1f} ms{}: {}.", history.volume, finding.spikes.size(),
                     finding.spikes.size() == 1 ? "" : "s", worst->worst_us / 1000,
                     finding.period_ms > 0 ? ", every " + format_duration(finding.period_ms) : ", at uneven distances",
                     usual);
}

}  // namespace

LatencyFinding find_latency_causes(const LatencyHistory& history) {
  LatencyFinding finding;
  const PastSeries* volume = find_series(history, PastRole::volume);
  const std::vector<PastSample> samples = volume != nullptr ? volume->samples : std::vector<PastSample>();
  finding.usual = usual_of(samples);
  finding.spikes = find_spikes(samples);
  finding.period_ms = period_of(finding.spikes);
  finding.headline = headline_of(history, finding, samples.size());
  if (finding.spikes.empty()) return finding;
  finding.layers = layers_of(history, finding.spikes, finding.usual.median_us);
  for (Suspect& suspect : suspects_of(history)) judge(history, std::move(suspect), &finding);
  settle(&finding);
  add_layer_itself(history, &finding);
  return finding;
}

json::object encode(const LatencyHistory& history, const LatencyFinding& finding) {
  json::array spikes, layers, causes, excluded, gaps;
  for (const Spike& spike : finding.spikes)
    spikes.push_back({{"begin_ms", spike.begin_ms}, {"end_ms", spike.end_ms}, {"worst_us", spike.worst_us}});
  for (const SpikeLayer& layer : finding.layers)
    layers.push_back({{"layer", layer.layer}, {"node", layer.node}, {"spikes", layer.spikes}});
  for (const LatencyCause& cause : finding.causes) {
    json::array evidence(cause.evidence.begin(), cause.evidence.end());
    causes.push_back({{"layer", cause.suspect.layer},
                      {"code", cause.suspect.code},
                      {"node", cause.suspect.node},
                      {"certainty", name_of(cause.certainty)},
                      {"summary", cause.suspect.summary},
                      {"evidence", std::move(evidence)},
                      {"next", cause.suspect.next}});
  }
  for (const LatencyExcluded& one : finding.excluded)
    excluded.push_back({{"code", one.code}, {"node", one.node}, {"why", one.why}});
  for (const PastGap& gap : history.gaps) gaps.push_back({{"what", gap.what}, {"why", gap.why}});
  return {{"volume", history.volume},
          {"since_ms", history.since_ms},
          {"until_ms", history.until_ms},
          {"headline", finding.headline},
          {"usual_p99_us", finding.usual.median_us},
          {"spike_over_us", finding.usual.threshold_us},
          {"period_ms", finding.period_ms},
          {"spikes", std::move(spikes)},
          {"layers", std::move(layers)},
          {"causes", std::move(causes)},
          {"excluded", std::move(excluded)},
          {"not_looked_at", std::move(gaps)}};
}

}  // namespace diskengine::control
