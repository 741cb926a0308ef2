// Legs that may have lost what they had completed and not flushed while the volume was in use (raid/volume.h). What
// such a leg may lack is marked, since a mark goes only after a flush; so it leaves, and comes back by a copy of what
// is marked.
#include <fmt/format.h>

#include <algorithm>

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
    hold.reset();
    if (slot.role == SlotRole::in_sync) slot.cache = slot.leg->device().cache_instance();
    co_await write_log_headers();
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
  LOG_ERROR("raid", "{}: stopped: {}: diskengine_raid_resume lets it go on", name_, stop_reason_);
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
  accept_caches();
  co_await write_log_headers();
  co_await sync();
  start_next_rebuild();
  co_return Result<void>{};
}

// --- What is remembered over the end of this process -----------------------------------------------------------------

// Before the volume is online, with something marked: which caches the legs had when the newest of these headers were
// written. A leg that has another one by now may lack what was acknowledged. If all do, and the guest may live on, none
// is shown: it runs on the machine of whoever wrote the headers.
void Volume::find_lost_caches(const std::vector<spec::RaidDirtyLogHeader>& headers) {
  uint64_t newest = 0;
  for (const auto& header : headers) newest = std::max(newest, header.sequence);
  bool guest_lives = false;
  for (const auto& header : headers) {
    if (header.sequence != newest) continue;
    guest_lives = guest_lives || shared_.machine.is_nil() || header.machine == shared_.machine;
    for (size_t i = 0; i < slots_.size() && i < header.caches.size(); ++i) {
      Slot& slot = *slots_[i];
      if (!slot.present() || slot.recorded_uuid != header.left[i].uuid || header.caches[i].is_nil()) continue;
      if (slot.cache.is_nil() || !lost_cache(slot)) slot.cache = header.caches[i];
    }
  }
  if (!every_leg_lost_its_cache()) return;
  if (!guest_lives) return accept_caches();
  stopped_ = true;
  stop_reason_ =
      "every leg may have lost writes that were acknowledged and not flushed, while nobody served the volume";
  LOG_ERROR("raid", "{}: stopped: {}: diskengine_raid_resume lets it go on", name_, stop_reason_);
}

bool Volume::lost_cache(const Slot& slot) const {
  if constexpr (mutated(Mutation::forgotten_cache)) return false;
  return slot.present() && !slot.cache.is_nil() && slot.cache != slot.leg->device().cache_instance();
}

// Of those that were legs before.
bool Volume::every_leg_lost_its_cache() const {
  return std::all_of(slots_.begin(), slots_.end(), [&](const auto& slot) {
    return !slot->present() || slot->found_sequence == 0 || lost_cache(*slot);
  });
}

// What the legs hold now is what counts.
void Volume::accept_caches() {
  for (const auto& slot : slots_)
    if (slot->present() && !slot->excluding && (slot->role == SlotRole::in_sync || state_ == VolumeState::configuring))
      slot->cache = slot->leg->device().cache_instance();
}

// The volume has just come online: legs that lost something before, or while it did, leave and come back.
void Volume::settle_lost_caches() {
  if (stopped_) announce(EventType::stopped, nullptr, stop_reason_);
  for (const auto& slot : slots_)
    if (!stopped_ && lost_cache(*slot)) spawn(leg_lost_cache(*slot, nullptr));
}

// Beside the superblocks that are there. One that cannot be written says of a cache that it is lost though it is not.
Task<void> Volume::write_log_headers() {
  const std::shared_ptr<Volume> self = shared_from_this();
  if (!superblock_ || fenced_) co_return;
  co_await superblock_mutex_.lock();
  for (const auto& slot : slots_) {
    if (!slot->present() || slot->excluding || slot->role < SlotRole::rebuilding) continue;
    const Result<void> stored = co_await store_log_header(*slot);
    if (!stored) LOG_WARN("raid", "{}: {}", name_, stored.error().message());
  }
  superblock_mutex_.unlock();
}

}  // namespace diskengine::raid
