#include <algorithm>

#include "block/device.h"

namespace diskengine {

void IoStats::merge(const IoStats& other) noexcept {
  for (size_t i = 0; i < kOps; ++i) {
    OpStats& mine = ops[i];
    const OpStats& theirs = other.ops[i];
    mine.count += theirs.count;
    mine.bytes += theirs.bytes;
    mine.errors += theirs.errors;
    mine.ticks += theirs.ticks;
    mine.max_ticks = std::max(mine.max_ticks, theirs.max_ticks);
    mine.min_ticks = std::min(mine.min_ticks, theirs.min_ticks);
  }
  for (size_t i = 0; i < latency.size(); ++i) latency[i].merge(other.latency[i]);
}

void IoStats::reset(StatsReset what) noexcept {
  switch (what) {
    case StatsReset::nothing:
      break;
    case StatsReset::extremes:
      for (OpStats& op : ops) {
        op.max_ticks = OpStats{}.max_ticks;
        op.min_ticks = OpStats{}.min_ticks;
      }
      break;
    case StatsReset::errors:
      for (OpStats& op : ops) op.errors = 0;
      break;
    case StatsReset::everything:
      ops.fill(OpStats{});
      for (Histogram& histogram : latency) histogram.reset();
      break;
  }
}

}  // namespace diskengine
