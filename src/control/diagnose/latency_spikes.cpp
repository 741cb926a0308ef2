#include "control/diagnose/latency_spikes.h"

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <functional>
#include <iterator>

namespace diskengine::control {
namespace {

constexpr double kTimesUsual = 3;      // a spike is at least so many times the median,
constexpr double kTimesSpread = 6;     // further from it than so many usual deviations,
constexpr double kMoreThanUs = 500;    // and more than so much above it
constexpr double kDeviation = 1.4826;  // of a normal distribution, in median absolute deviations
constexpr int64_t kSpans = 3;          // spikes that are closer than so many samples are one
constexpr size_t kDistancesMin = 4;
constexpr double kEven = 0.15;        // of the period, or a sample if that is longer: moments are known no better,
constexpr double kEvenMost = 0.25;    // but not more than this
constexpr double kMostly = 0.75;      // of the distances
constexpr double kChanceEven = 0.05;  // of so many that fit, if they were uneven
constexpr double kTall = 0.5;         // of a reference's height
constexpr size_t kReferences = 3;     // the tallest ones

double median_of(std::vector<double> values) {
  if (values.empty()) return 0;
  const auto middle = values.begin() + static_cast<std::ptrdiff_t>(values.size() / 2);
  std::nth_element(values.begin(), middle, values.end());
  return *middle;
}

// The period of all of them; 0: they are uneven.
int64_t even_period(const std::vector<Spike>& spikes) {
  std::vector<double> distances;
  for (size_t i = 1; i < spikes.size(); ++i)
    distances.push_back(static_cast<double>(spikes[i].begin_ms - spikes[i - 1].begin_ms));
  if (distances.size() < kDistancesMin) return 0;
  const double guess = median_of(distances);
  if (guess <= 0) return 0;
  const auto shortest = std::min_element(spikes.begin(), spikes.end(), [](const Spike& a, const Spike& b) {
    return a.end_ms - a.begin_ms < b.end_ms - b.begin_ms;
  });
  const auto sample_ms = static_cast<double>(shortest->end_ms - shortest->begin_ms);
  const double tolerance = std::min(std::max(kEven * guess, sample_ms), kEvenMost * guess);
  size_t even = 0;
  double covered = 0, times_all = 0;
  for (const double distance : distances) {
    const double times = std::round(distance / guess);
    if (times < 1 || std::abs(distance - times * guess) > tolerance) continue;
    ++even;
    covered += distance;
    times_all += times;
  }
  const bool mostly = static_cast<double>(even) >= kMostly * static_cast<double>(distances.size());
  if (!mostly || chance_of(even, distances.size(), 2 * tolerance / guess) > kChanceEven) return 0;
  return static_cast<int64_t>(std::llround(covered / times_all));
}

}  // namespace

Usual usual_of(const std::vector<PastSample>& samples) {
  std::vector<double> values;
  for (const PastSample& sample : samples)
    if (sample.p99_us > 0) values.push_back(sample.p99_us);
  Usual usual;
  usual.median_us = median_of(values);
  for (double& value : values) value = std::abs(value - usual.median_us);
  usual.threshold_us =
      std::max({kTimesUsual * usual.median_us, usual.median_us + kTimesSpread * kDeviation * median_of(values),
                usual.median_us + kMoreThanUs});
  return usual;
}

std::vector<Spike> find_spikes(const std::vector<PastSample>& samples) {
  std::vector<Spike> spikes;
  if (samples.size() < kSamplesMin) return spikes;
  const Usual usual = usual_of(samples);
  for (const PastSample& sample : samples) {
    if (sample.p99_us <= usual.threshold_us) continue;
    const int64_t begin_ms = sample.end_ms - sample.span_ms;
    if (!spikes.empty() && begin_ms - spikes.back().end_ms < kSpans * sample.span_ms) {
      spikes.back().end_ms = sample.end_ms;
      spikes.back().worst_us = std::max(spikes.back().worst_us, sample.p99_us);
    } else {
      spikes.push_back({begin_ms, sample.end_ms, sample.p99_us});
    }
  }
  return spikes;
}

int64_t period_of(const std::vector<Spike>& spikes) {
  if (const int64_t period = even_period(spikes); period > 0) return period;
  std::vector<double> heights;
  for (const Spike& spike : spikes) heights.push_back(spike.worst_us);
  std::sort(heights.begin(), heights.end(), std::greater<>());
  // One or two that stand out from the tall ones must not make these small.
  for (size_t i = 0; i < std::min(kReferences, heights.size()); ++i) {
    std::vector<Spike> tall;
    std::copy_if(spikes.begin(), spikes.end(), std::back_inserter(tall),
                 [&](const Spike& spike) { return spike.worst_us >= kTall * heights[i]; });
    if (tall.size() == spikes.size()) continue;
    if (const int64_t period = even_period(tall); period > 0) return period;
  }
  return 0;
}

double worst_between(const std::vector<PastSample>& samples, int64_t begin_ms, int64_t end_ms) {
  double worst = 0;
  for (const PastSample& sample : samples)
    if (sample.end_ms > begin_ms && sample.end_ms - sample.span_ms < end_ms) worst = std::max(worst, sample.p99_us);
  return worst;
}

double chance_of(size_t hits, size_t trials, double p) {
  if (hits == 0 || p >= 1) return 1;
  if (p <= 0) return 0;
  const auto n = static_cast<double>(trials);
  double chance = 0;
  for (size_t k = hits; k <= trials; ++k) {
    const auto at = static_cast<double>(k);
    chance += std::exp(std::lgamma(n + 1) - std::lgamma(at + 1) - std::lgamma(n - at + 1) + at * std::log(p) +
                       (n - at) * std::log1p(-p));
  }
  return std::min(1.0, chance);
}

}  // namespace diskengine::control
