#include "raid/events.h"

#include <fmt/format.h>

#include <algorithm>

namespace diskengine::raid {

std::string_view name_of(EventType type) noexcept {
  switch (type) {
    case EventType::exclusion_wanted:
      return "exclusion_wanted";
    case EventType::excluded:
      return "excluded";
    case EventType::in_sync:
      return "in_sync";
    case EventType::fenced:
      return "fenced";
    case EventType::cache_lost:
      return "cache_lost";
    case EventType::stopped:
      return "stopped";
    case EventType::resumed:
      return "resumed";
    case EventType::waiting:
      return "waiting";
    case EventType::gave_up:
      return "gave_up";
    case EventType::reached:
      return "reached";
    case EventType::repair_failed:
      return "repair_failed";
    case EventType::legs_differ:
      return "legs_differ";
    case EventType::scrub_ended:
      return "scrub_ended";
  }
  return "unknown";
}

void RaidEvents::add(Event event) {
  event.id = ++last_id_;
  events_.push_back(std::move(event));
  if (events_.size() > kEventsMax) events_.pop_front();
  wake();
}

void RaidEvents::wake() {
  for (OneShot<bool>* waiter : waiters_)
    if (!waiter->is_set()) waiter->set(true);
}

RaidEvents::Batch RaidEvents::batch_after(uint64_t after) const {
  Batch batch{.instance = instance_, .last_id = last_id_, .lost = false, .events = {}};
  if (events_.empty()) return batch;
  batch.lost = after + 1 < events_.front().id;
  for (const Event& event : events_)
    if (event.id > after) batch.events.push_back(event);
  return batch;
}

Task<Result<RaidEvents::Batch>> RaidEvents::wait(uint64_t after, uint64_t wait_ns) {
  if (after > last_id_) after = 0;
  if (!closed_ && after == last_id_ && wait_ns > 0) {
    if (waiters_.size() >= kWaitersMax)
      co_return Error(Errc::busy, fmt::format("{} callers wait for RAID events already", kWaitersMax));
    OneShot<bool> woken(main_);
    Timer timer([&woken] {
      if (!woken.is_set()) woken.set(false);
    });
    timer.arm(main_, std::min(wait_ns, kWaitMaxNs));
    waiters_.push_back(&woken);
    co_await woken;
    std::erase(waiters_, &woken);
  }
  if (closed_) co_return Error(Errc::canceled, "the process is stopping");
  co_return batch_after(after);
}

void RaidEvents::close() {
  closed_ = true;
  wake();
}

}  // namespace diskengine::raid
