// Legs that may have lost what they had completed and not flushed while the volume was in use (raid/volume.h). What
// such a leg may lack is marked, since a mark goes only after a flush; so it leaves, and comes back by a copy of what
// is marked.
#include <fmt/format.h>

#include "base/log.h"
#include "raid/mutation.h"
#include "raid/rebuild.h"
#include "raid/volume.h"

namespace diskengine::raid {

void Volume::Slot::on_cache_lost(Device&, const std::shared_ptr<void>& hold) {
  volume->spawn_leg_lost_cache(*this, hold);
}

Uuid Volume::cache_instance() const {
  Uuid joined = kNothingCached;
  for (const auto& slot : slots_)
    if (slot->present() && slot->role == SlotRole::in_sync)
      joined = join_cache_instances(joined, slot->leg->device().cache_instance());
  return joined;
}

void Volume::spawn_leg_lost_cache(Slot& slot, std::shared_ptr<void> hold) {
  spawn(leg_lost_cache(slot, std::move(hold)));
}

Task<void> Volume::leg_lost_cache(Slot& slot, std::shared_ptr<void> hold) {
  const std::shared_ptr<Volume> self = shared_from_this();
  if constexpr (mutated(Mutation::trusted_cache)) co_return;
  if (deleting_ || state_ != VolumeState::online || slot.excluding) co_return;
  ++leg_changes_;  // a flush that was under way says nothing of what was lost
  // A device without a cache has lost all of its data instead.
  const bool caches = slot.present() && slot.leg->device().info().write_cache;
  if (caches && log_.persistent() && log_.marked().empty()) {
    LOG_INFO("raid", "{}: '{}' may have lost its cache; everything was flushed", name_, slot.name);
    co_return;
  }
  if (slot.role == SlotRole::rebuilding && rebuild_ != nullptr) rebuild_->restart();
  if (slot.role != SlotRole::in_sync) co_return;
  announce(EventType::cache_lost, &slot, kLostCache);
  if (count_in_sync() == 1) {
    co_await stop(slot);
    co_return;
  }
  const std::shared_ptr<Device> device = slot.leg->device_ref();
  OneShot<bool> out(main());
  spawn<Result<void>>(exclude(slot, spec::RaidBaseState::failed, kLostCache),
                      [&out](const Result<void>& excluded) { out.set(excluded.has_value()); });
  co_await sync();  // no reactor reads from it any more, nor believes what it answers to a read
  hold.reset();
  const bool excluded = co_await out;
  if (excluded) co_await take_back(slot, device);
}

// The leg that left is free again in a moment, and lacks only what is marked.
Task<void> Volume::take_back(Slot& slot, std::shared_ptr<Device> device) {
  const uint64_t deadline_ns = main().now_ns() + kTakeBackWaitNs;
  while (!device->claimed_by().empty() && main().now_ns() < deadline_ns) co_await sleep_for(main(), kTakeBackPollNs);
  if (deleting_ || fenced_ || slot.present() || device->removed()) co_return;
  const Result<void> attached = attach(slot, device);
  if (!attached) {
    slot.reason = attached.error().message();
    LOG_WARN("raid", "{}: {}", name_, attached.error().message());
    co_return;
  }
  const uint64_t attachment = slot.attachments;
  // By a channel of its own: the slot's may be closed meanwhile.
  Result<std::unique_ptr<Channel>> channel = device->open_channel(main());
  Result<LegContents> contents = LegContents{};
  if (superblock_ && channel) contents = co_await read_leg(**channel);
  if (channel) close_when_idle(std::move(channel).value());
  if (slot.attachments != attachment || !slot.present()) co_return;
  if (contents && contents->superblock && contents->superblock->uuid == uuid_ && contents->epoch() <= epoch_)
    note_found(slot, *contents);
  start_next_rebuild();
}

// What was acknowledged may be on no leg any more. Nobody is shown less than what was there before somebody who knows
// of it says so.
Task<void> Volume::stop(Slot& slot) {
  if (stopped_) co_return;
  stopped_ = true;
  stop_reason_ =
      fmt::format("every leg may have lost writes that were acknowledged and not flushed, '{}' last", slot.name);
  LOG_ERROR("raid", "{}: stopped: {}", name_, stop_reason_);
  if (rebuild_ != nullptr) rebuild_->cancel(stop_reason_);
  announce(EventType::stopped, &slot, stop_reason_);
  co_await sync();
}

Task<Result<void>> Volume::resume() {
  const std::shared_ptr<Volume> self = shared_from_this();
  if (!stopped_) co_return Error(Errc::not_found, fmt::format("{}: it is not stopped", name_));
  stopped_ = false;
  stop_reason_.clear();
  LOG_WARN("raid", "{}: goes on with what its legs hold, as it was told", name_);
  announce(EventType::resumed, nullptr, "on request");
  co_await sync();
  start_next_rebuild();
  co_return Result<void>{};
}

}  // namespace diskengine::raid
