#include "control/diagnose/latency_spikes.h"

#include <algorithm>
#include <cmath>
#include <cstdlib>

namespace diskengine::control {
namespace {

constexpr double kTimesUsual = 3;      // a spike is at least so many times the median,
constexpr double kTimesSpread = 6;     // further from it than so many usual deviations,
constexpr double kMoreThanUs = 500;    // and more than so much above it
constexpr double kDeviation = 1.4826;  // of a normal distribution, in median absolute deviations
constexpr int64_t kSpans = 3;          // spikes that are closer than so many samples are one
constexpr size_t kDistancesMin = 4;
constexpr double kEven = 0.15;    // of the distance
constexpr double kMostly = 0.75;  // of the distances

double median_of(std::vector<double> values) {
  if (values.empty()) return 0;
  const auto middle = values.begin() + static_cast<std::ptrdiff_t>(values.size() / 2);
  std::nth_element(values.begin(), middle, values.end());
  return *middle;
}

bool is_multiple(double distance, double period) {
  const double times = std::round(distance / period);
  return times >= 1 && std::abs(distance - times * period) <= kEven * period;
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
  std::vector<double> distances;
  for (size_t i = 1; i < spikes.size(); ++i)
    distances.push_back(static_cast<double>(spikes[i].begin_ms - spikes[i - 1].begin_ms));
  if (distances.size() < kDistancesMin) return 0;
  const double period = median_of(distances);
  if (period <= 0) return 0;
  const auto even =
      std::count_if(distances.begin(), distances.end(), [&](double distance) { return is_multiple(distance, period); });
  return static_cast<double>(even) >= kMostly * static_cast<double>(distances.size())
             ? static_cast<int64_t>(std::llround(period))
             : 0;
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
