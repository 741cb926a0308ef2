// Finds the moments at which a series of samples was much slower than usual, and whether they come back at even
// distances. Pure; any thread.
#pragma once

#include <cstdint>
#include <vector>

#include "control/diagnose/latency_history.h"

namespace diskengine::control {

struct Spike {
  int64_t begin_ms = 0;
  int64_t end_ms = 0;
  double worst_us = 0;
};

struct Usual {
  double median_us = 0;
  double threshold_us = 0;  // what is over it is a spike
};

// Fewer samples than this say nothing of what is usual.
inline constexpr size_t kSamplesMin = 20;

Usual usual_of(const std::vector<PastSample>& samples);
// Samples over the threshold, those close to each other taken together. None where there are too few samples.
std::vector<Spike> find_spikes(const std::vector<PastSample>& samples);
// The distance at which they come back, in ms, if at least three quarters of at least four distances are about whole
// multiples of it, and that is hardly chance; 0: they do not. If they do not as a whole, those do that are at least
// half as high as the tallest, or as the second or third tallest: small ones between them do not hide their period.
int64_t period_of(const std::vector<Spike>& spikes);
// The highest latency between the two moments; 0: nothing was sampled.
double worst_between(const std::vector<PastSample>& samples, int64_t begin_ms, int64_t end_ms);
// The chance of at least `hits` of `trials` when each has the chance `p`.
double chance_of(size_t hits, size_t trials, double p);

}  // namespace diskengine::control
