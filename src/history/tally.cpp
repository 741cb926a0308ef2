#include "history/tally.h"

#include <algorithm>
#include <cmath>
#include <functional>
#include <numeric>
#include <utility>

#include "runtime/clock.h"

namespace diskengine::history {
namespace {

using spec::HistoryKind;
using spec::HistoryRecord;

uint64_t since(uint64_t now, uint64_t* before) noexcept {
  const uint64_t was = std::exchange(*before, now);
  return now >= was ? now - was : now;
}

uint32_t us_of(uint64_t ticks) noexcept {
  const double us = static_cast<double>(ticks) * 1e6 / static_cast<double>(ticks_per_second());
  return us >= static_cast<double>(UINT32_MAX) ? UINT32_MAX : static_cast<uint32_t>(std::lround(us));
}

}  // namespace

Distribution Distribution::since(const Histogram& now, std::vector<uint64_t>* before) {
  Distribution found;
  found.counts_ = now.counts();
  const bool grew = before->size() == found.counts_.size() &&
                    std::equal(before->begin(), before->end(), found.counts_.begin(), std::less_equal<>());
  if (grew) {
    for (size_t i = 0; i < before->size(); ++i) found.counts_[i] -= (*before)[i];
  }
  *before = now.counts();
  return found;
}

void Distribution::add(const Distribution& other) {
  if (counts_.size() < other.counts_.size()) counts_.resize(other.counts_.size());
  for (size_t i = 0; i < other.counts_.size(); ++i) counts_[i] += other.counts_[i];
}

uint64_t Distribution::total() const noexcept { return std::accumulate(counts_.begin(), counts_.end(), uint64_t{0}); }

uint32_t Distribution::quantile_us(double fraction) const noexcept {
  const uint64_t all = total();
  if (all == 0) return 0;
  const auto wanted = std::max<uint64_t>(1, static_cast<uint64_t>(std::llround(fraction * static_cast<double>(all))));
  static const Histogram kBuckets;  // for the ends of its buckets
  uint64_t seen = 0;
  for (size_t i = 0; i < counts_.size(); ++i) {
    seen += counts_[i];
    if (seen >= wanted) return us_of(kBuckets.bucket_end(i));
  }
  return UINT32_MAX;
}

void DeviceTally::add(const DeviceTally& other) {
  for (size_t i = 0; i < ops.size(); ++i) {
    ops[i] += other.ops[i];
    latency[i].add(other.latency[i]);
  }
  errors += other.errors;
  read_bytes += other.read_bytes;
  write_bytes += other.write_bytes;
}

HistoryRecord DeviceTally::record() const {
  HistoryRecord record;
  record.kind = HistoryKind::device;
  auto& values = record.values;
  values[spec::kHistoryReads] = saturated(ops[0]);
  values[spec::kHistoryWrites] = saturated(ops[1]);
  values[spec::kHistoryOthers] = saturated(ops[2]);
  values[spec::kHistoryErrors] = saturated(errors);
  values[spec::kHistoryReadKib] = saturated(read_bytes / 1024);
  values[spec::kHistoryWriteKib] = saturated(write_bytes / 1024);
  values[spec::kHistoryReadP50] = latency[0].quantile_us(0.5);
  values[spec::kHistoryReadP99] = latency[0].quantile_us(0.99);
  values[spec::kHistoryReadMax] = latency[0].max_us();
  values[spec::kHistoryWriteP50] = latency[1].quantile_us(0.5);
  values[spec::kHistoryWriteP99] = latency[1].quantile_us(0.99);
  values[spec::kHistoryWriteMax] = latency[1].max_us();
  values[spec::kHistoryOtherP99] = latency[2].quantile_us(0.99);
  return record;
}

DeviceTally DeviceLook::since(const IoStats& now) {
  DeviceTally tally;
  std::array<uint64_t, 3> ops{};
  uint64_t errors = 0;
  for (size_t i = 0; i < kOps; ++i) {
    const Op op = static_cast<Op>(i);
    ops[op == Op::read ? 0 : op == Op::write ? 1 : 2] += now.ops[i].count;
    errors += now.ops[i].errors;
  }
  for (size_t i = 0; i < ops.size(); ++i) {
    tally.ops[i] = history::since(ops[i], &ops_[i]);
    if (tally.ops[i] > 0) tally.latency[i] = Distribution::since(now.latency[i], &latency_[i]);
  }
  tally.errors = history::since(errors, &errors_);
  tally.read_bytes = history::since(now.ops[static_cast<size_t>(Op::read)].bytes, &read_bytes_);
  tally.write_bytes = history::since(now.ops[static_cast<size_t>(Op::write)].bytes, &write_bytes_);
  return tally;
}

void StagesTally::add(const StagesTally& other) {
  total.add(other.total);
  for (size_t i = 0; i < stages.size(); ++i) stages[i].add(other.stages[i]);
}

HistoryRecord StagesTally::record() const {
  HistoryRecord record;
  record.kind = HistoryKind::stages;
  record.values[spec::kHistoryTraced] = saturated(total.total());
  record.values[spec::kHistoryTotalP50] = total.quantile_us(0.5);
  record.values[spec::kHistoryTotalP99] = total.quantile_us(0.99);
  for (size_t i = 0; i < stages.size(); ++i) {
    record.values[spec::kHistoryFirstStage + 2 * i] = stages[i].quantile_us(0.5);
    record.values[spec::kHistoryFirstStage + 2 * i + 1] = stages[i].quantile_us(0.99);
  }
  return record;
}

StagesTally StagesLook::since(const trace::Root& root) {
  StagesTally tally;
  if (root.traced == traced_) return tally;
  traced_ = root.traced;
  tally.total = Distribution::since(root.total, &total_);
  for (size_t i = 0; i < trace::kStages; ++i) tally.stages[i] = Distribution::since(root.stages[i], &stages_[i]);
  return tally;
}

}  // namespace diskengine::history
