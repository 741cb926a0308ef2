#include "runtime/clock.h"

#include <ctime>

namespace diskengine {
namespace {

uint64_t read_clock(clockid_t id) noexcept {
  timespec at{};
  clock_gettime(id, &at);
  return static_cast<uint64_t>(at.tv_sec) * 1'000'000'000u + static_cast<uint64_t>(at.tv_nsec);
}

uint64_t measure_ticks_per_second() noexcept {
  constexpr uint64_t kMeasureNs = 20'000'000;
  const uint64_t start_ns = read_clock(CLOCK_MONOTONIC);
  const uint64_t start = ticks();
  uint64_t now_ns = start_ns;
  while (now_ns - start_ns < kMeasureNs) now_ns = read_clock(CLOCK_MONOTONIC);
  const uint64_t elapsed = ticks() - start;
  return static_cast<uint64_t>(static_cast<double>(elapsed) * 1e9 / static_cast<double>(now_ns - start_ns));
}

}  // namespace

uint64_t SystemClock::now_ns() const noexcept { return read_clock(CLOCK_MONOTONIC); }
uint64_t SystemClock::wall_ns() const noexcept { return read_clock(CLOCK_REALTIME); }

uint64_t ticks_per_second() noexcept {
  static const uint64_t measured = measure_ticks_per_second();
  return measured;
}

}  // namespace diskengine
