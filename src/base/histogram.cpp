#include "base/histogram.h"

#include <algorithm>
#include <numeric>

#include "base/assert.h"

namespace diskengine {

Histogram::Histogram(unsigned precision_bits) : precision_bits_(precision_bits) {
  DE_ASSERT(precision_bits >= 1 && precision_bits <= 10);
  counts_.resize(static_cast<size_t>(64 - precision_bits + 1) << precision_bits);
}

void Histogram::merge(const Histogram& other) noexcept {
  DE_ASSERT(precision_bits_ == other.precision_bits_);
  for (size_t i = 0; i < counts_.size(); ++i) counts_[i] += other.counts_[i];
}

void Histogram::reset() noexcept { std::fill(counts_.begin(), counts_.end(), 0); }

uint64_t Histogram::total() const noexcept { return std::accumulate(counts_.begin(), counts_.end(), uint64_t{0}); }

uint64_t Histogram::bucket_end(size_t index) const noexcept {
  const uint64_t range = index >> precision_bits_;
  const uint64_t within = (index & ((uint64_t{1} << precision_bits_) - 1)) + 1;
  if (range == 0) return within;
  const uint64_t base = (uint64_t{1} << precision_bits_) + within;
  const unsigned shift = static_cast<unsigned>(range - 1);
  if (static_cast<unsigned>(std::bit_width(base)) + shift > 64) return UINT64_MAX;
  return base << shift;
}

uint64_t Histogram::quantile(double fraction) const noexcept {
  const uint64_t all = total();
  if (all == 0) return 0;
  const auto wanted = std::max<uint64_t>(1, static_cast<uint64_t>(fraction * static_cast<double>(all)));
  uint64_t seen = 0;
  for (size_t i = 0; i < counts_.size(); ++i) {
    seen += counts_[i];
    if (seen >= wanted) return bucket_end(i);
  }
  return UINT64_MAX;
}

}  // namespace diskengine
