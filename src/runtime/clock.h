// The seam for time. Everything above runtime/ reads time from the Reactor it runs on (Reactor::now_ns), and a reactor
// reads it from the Clock it was given: the machine's, or one that a test steps by hand.
#pragma once

#include <atomic>
#include <cstdint>

namespace diskengine {

class Clock {
 public:
  virtual ~Clock() = default;
  // Monotonic nanoseconds since an arbitrary start. Any thread.
  virtual uint64_t now_ns() const noexcept = 0;
  // Nanoseconds since 1970 UTC, which may jump. Any thread.
  virtual uint64_t wall_ns() const noexcept = 0;
};

// CLOCK_MONOTONIC and CLOCK_REALTIME of the machine.
class SystemClock final : public Clock {
 public:
  uint64_t now_ns() const noexcept override;
  uint64_t wall_ns() const noexcept override;
};

// Stands still until it is stepped. Any thread.
class ManualClock final : public Clock {
 public:
  explicit ManualClock(uint64_t start_ns = 1'000'000'000) : now_ns_(start_ns) {}
  uint64_t now_ns() const noexcept override { return now_ns_.load(std::memory_order_relaxed); }
  uint64_t wall_ns() const noexcept override { return now_ns(); }
  void advance_ns(uint64_t by) noexcept { now_ns_.fetch_add(by, std::memory_order_relaxed); }

 private:
  std::atomic<uint64_t> now_ns_;
};

// The processor's time-stamp counter, for durations on the hot path; one core's counter is comparable to another's.
inline uint64_t ticks() noexcept { return __builtin_ia32_rdtsc(); }
// Ticks in a second, measured once (about 20 ms at the first call). Any thread.
uint64_t ticks_per_second() noexcept;

}  // namespace diskengine
