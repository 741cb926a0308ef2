// Arithmetic on counters that only grow: what came since the last look. Pure; no thread of its own.
#pragma once

#include <array>
#include <cstdint>
#include <vector>

#include "base/histogram.h"
#include "block/device.h"
#include "format/history.h"
#include "trace/recorder.h"

namespace diskengine::history {

// How often each bucket of a Histogram was met in some time.
class Distribution {
 public:
  // What `now` has counted since `before`, which becomes what `now` has counted. Where counters were reset: all of it.
  static Distribution since(const Histogram& now, std::vector<uint64_t>* before);
  void add(const Distribution& other);

  uint64_t total() const noexcept;
  // In microseconds, at most UINT32_MAX; 0 if there are none.
  uint32_t quantile_us(double fraction) const noexcept;
  uint32_t max_us() const noexcept { return quantile_us(1.0); }

 private:
  std::vector<uint64_t> counts_;  // empty: none
};

// A device's I/O in some time.
struct DeviceTally {
  std::array<uint64_t, 3> ops{};  // reads, writes, others
  uint64_t errors = 0, read_bytes = 0, write_bytes = 0;
  std::array<Distribution, 3> latency;

  void add(const DeviceTally& other);
  bool empty() const noexcept { return ops[0] + ops[1] + ops[2] == 0; }
  // All but what is outstanding.
  spec::HistoryRecord record() const;
};

// Keeps what was counted at the last look.
class DeviceLook {
 public:
  DeviceTally since(const IoStats& now);

 private:
  std::array<uint64_t, 3> ops_{};
  uint64_t errors_ = 0, read_bytes_ = 0, write_bytes_ = 0;
  std::array<std::vector<uint64_t>, 3> latency_;
};

// The traced I/O of a root in some time.
struct StagesTally {
  Distribution total;
  std::array<Distribution, trace::kStages> stages;

  void add(const StagesTally& other);
  bool empty() const noexcept { return total.total() == 0; }
  spec::HistoryRecord record() const;
};
static_assert(spec::kHistoryFirstStage + 2 * trace::kStages <= spec::kHistoryValues);

// As DeviceLook, on the root's reactor.
class StagesLook {
 public:
  // Nothing, and quickly, if none was traced since.
  StagesTally since(const trace::Root& root);

 private:
  uint64_t traced_ = 0;
  std::vector<uint64_t> total_;
  std::array<std::vector<uint64_t>, trace::kStages> stages_;
};

// At most UINT32_MAX.
constexpr uint32_t saturated(uint64_t value) noexcept {
  return value > UINT32_MAX ? UINT32_MAX : static_cast<uint32_t>(value);
}

}  // namespace diskengine::history
