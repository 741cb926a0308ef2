// The seam for randomness: a seeded generator that is passed to whoever needs random numbers, so that a run can be
// replayed from its seed. Not for secrets. One thread owns a generator.
#pragma once

#include <cstdint>

#include "base/uuid.h"

namespace diskengine {

class Random {
 public:
  explicit Random(uint64_t seed) noexcept;
  // Seeded from the operating system.
  static Random from_system();

  uint64_t next() noexcept;
  // Uniform in [0, bound); bound > 0.
  uint64_t below(uint64_t bound) noexcept;
  // True with probability numerator / denominator.
  bool chance(uint64_t numerator, uint64_t denominator) noexcept { return below(denominator) < numerator; }
  Uuid uuid() noexcept;

 private:
  uint64_t state_[4];
};

}  // namespace diskengine
