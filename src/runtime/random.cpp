#include "runtime/random.h"

#include <sys/random.h>

#include <bit>

#include "base/assert.h"

namespace diskengine {

// splitmix64 spreads the seed over the state of xoshiro256** (Blackman and Vigna).
Random::Random(uint64_t seed) noexcept {
  for (uint64_t& word : state_) {
    seed += 0x9e3779b97f4a7c15u;
    uint64_t z = seed;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    word = z ^ (z >> 31);
  }
}

Random Random::from_system() {
  uint64_t seed = 0;
  DE_ASSERT(getrandom(&seed, sizeof seed, 0) == sizeof seed);
  return Random(seed);
}

uint64_t Random::next() noexcept {
  const uint64_t result = std::rotl(state_[1] * 5, 7) * 9;
  const uint64_t t = state_[1] << 17;
  state_[2] ^= state_[0];
  state_[3] ^= state_[1];
  state_[1] ^= state_[2];
  state_[0] ^= state_[3];
  state_[2] ^= t;
  state_[3] = std::rotl(state_[3], 45);
  return result;
}

uint64_t Random::below(uint64_t bound) noexcept {
  DE_ASSERT(bound > 0);
  return static_cast<uint64_t>((static_cast<unsigned __int128>(next()) * bound) >> 64);
}

Uuid Random::uuid() noexcept {
  const uint64_t high = next();
  return Uuid::from_random(high, next());
}

}  // namespace diskengine
