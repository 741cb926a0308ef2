#include "history/states.h"

#include <algorithm>

#include "history/tally.h"

namespace diskengine::history {

using spec::HistoryPhase;
using spec::HistoryRecord;

HistoryRecord event(std::string type, std::string object, std::string text, uint64_t now_ms, HistoryPhase phase,
                    uint64_t took_ms) {
  HistoryRecord record;
  record.end_ms = now_ms;
  record.span_ms = saturated(std::min(took_ms, now_ms));
  record.detail = static_cast<uint16_t>(phase);
  record.name = std::move(object);
  record.type = std::move(type);
  record.text = std::move(text);
  return record;
}

std::vector<HistoryRecord> StateBook::look(const std::vector<ObjectState>& now, uint64_t now_ms) {
  std::vector<HistoryRecord> events;
  for (auto& [key, under] : under_way_) under.seen = false;
  for (const ObjectState& state : now) {
    const auto known = under_way_.find({state.kind, state.object});
    if (known == under_way_.end()) {
      if (under_way_.size() >= kStatesMax) continue;
      under_way_[{state.kind, state.object}] = {state.text, now_ms, true};
      events.push_back(event(state.kind, state.object, state.text, now_ms, HistoryPhase::began));
      continue;
    }
    known->second.seen = true;
    if (known->second.text == state.text) continue;
    known->second.text = state.text;
    events.push_back(event(state.kind, state.object, state.text, now_ms));
  }
  for (auto at = under_way_.begin(); at != under_way_.end();) {
    if (at->second.seen) {
      ++at;
      continue;
    }
    const uint64_t took_ms = now_ms > at->second.since_ms ? now_ms - at->second.since_ms : 0;
    events.push_back(event(at->first.first, at->first.second, at->second.text, now_ms, HistoryPhase::ended, took_ms));
    at = under_way_.erase(at);
  }
  return events;
}

}  // namespace diskengine::history
