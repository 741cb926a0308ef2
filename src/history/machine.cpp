#include "history/machine.h"

#include <algorithm>

#include "history/tally.h"

namespace diskengine::history {

using spec::HistoryKind;
using spec::HistoryRecord;

void MachineLook::look(uint64_t now_ms, uint64_t span_ms) {
  for (auto& [name, known] : known_) known.seen = false;
  std::map<std::string, Sum> sums;
  for (const NetworkCounters& now : sources_.networks()) {
    const bool is_new = !known_.contains(now.name);
    if (is_new && known_.size() >= kNetworksMax) continue;
    Known& known = known_[now.name];
    known.seen = true;
    const std::array<uint64_t, kCounters> counted = {now.sent, now.again, now.dropped, now.damaged, now.congested};
    Sum& sum = sums[now.record];
    sum.type = now.type;
    ++sum.connections;
    // What the machine had counted before is not ours; a connection that is new began with nothing.
    const bool is_since = !first_ && (!is_new || now.type == spec::HistoryNetwork::tcp);
    bool did = false;
    for (size_t i = 0; i < kCounters; ++i) {
      const uint64_t before = is_new ? 0 : known.counted[i];
      const uint64_t more = counted[i] >= before ? counted[i] - before : counted[i];
      if (is_since) sum.counted[i] += more;
      did = did || (is_since && more > 0);
    }
    if (did) sum.rtt_us = std::max(sum.rtt_us, now.rtt_us);
    known.counted = counted;
  }
  std::erase_if(known_, [](const auto& entry) { return !entry.second.seen; });
  first_ = false;
  for (const auto& [name, sum] : sums) {
    if (std::all_of(sum.counted.begin(), sum.counted.end(), [](uint64_t count) { return count == 0; })) continue;
    put(Series::seconds, name, sum, now_ms, span_ms);
    Sum& minute = minute_[name];
    minute.type = sum.type;
    minute.connections = std::max(minute.connections, sum.connections);
    minute.rtt_us = std::max(minute.rtt_us, sum.rtt_us);
    for (size_t i = 0; i < kCounters; ++i) minute.counted[i] += sum.counted[i];
  }
}

void MachineLook::end_minute(uint64_t now_ms, uint64_t span_ms, const std::vector<DiskTemperature>& own) {
  for (const auto& [name, sum] : minute_) put(Series::minutes, name, sum, now_ms, span_ms);
  minute_.clear();
  std::vector<DiskTemperature> temperatures = sources_.temperatures();
  temperatures.insert(temperatures.end(), own.begin(), own.end());
  for (const DiskTemperature& one : temperatures) {
    HistoryRecord record;
    record.kind = HistoryKind::temperature;
    record.name = one.name;
    record.end_ms = now_ms;
    record.span_ms = saturated(std::min(span_ms, now_ms));
    record.values[spec::kHistoryCelsius] = one.celsius;
    record.values[spec::kHistoryWarningCelsius] = one.warning_celsius;
    put_(Series::seconds, record);
    put_(Series::minutes, std::move(record));
  }
}

void MachineLook::put(Series series, const std::string& name, const Sum& sum, uint64_t now_ms, uint64_t span_ms) const {
  HistoryRecord record;
  record.kind = HistoryKind::network;
  record.detail = static_cast<uint16_t>(sum.type);
  record.name = name;
  record.end_ms = now_ms;
  record.span_ms = saturated(std::min(span_ms, now_ms));
  record.values[spec::kHistoryConnections] = sum.connections;
  for (size_t i = 0; i < kCounters; ++i) record.values[spec::kHistorySent + i] = saturated(sum.counted[i]);
  record.values[spec::kHistoryRttUs] = sum.rtt_us;
  put_(series, std::move(record));
}

}  // namespace diskengine::history
