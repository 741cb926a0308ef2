#include "control/loop.h"

#include <algorithm>

namespace diskengine::control {
namespace {

constexpr int64_t kFirstDelayMs = 250;

}  // namespace

Status make_status(std::string_view state, std::string reason) { return Status{std::string(state), std::move(reason)}; }

bool Backoff::may_try(const std::string& object, int64_t now_ms) const {
  const auto found = entries_.find(object);
  return found == entries_.end() || now_ms >= found->second.retry_at_ms;
}

const std::string& Backoff::last_error(const std::string& object) const { return entries_.at(object).error; }

void Backoff::failed(const std::string& object, int64_t now_ms, std::string error) {
  Entry& entry = entries_[object];
  entry.delay_ms = std::clamp(entry.delay_ms * 2, kFirstDelayMs, std::max(kFirstDelayMs, max_ms_));
  entry.retry_at_ms = now_ms + entry.delay_ms;
  entry.error = std::move(error);
}

}  // namespace diskengine::control
