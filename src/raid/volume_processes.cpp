// What a volume does beside serving (raid/volume.h): copies to legs, repairs of what a leg cannot read, and scrubs.
#include <fmt/format.h>

#include "base/log.h"
#include "raid/rebuild.h"
#include "raid/repair.h"
#include "raid/scrub.h"
#include "raid/volume.h"

namespace diskengine::raid {

bool Volume::processes_run() const noexcept {
  return looking_ || rebuild_ != nullptr || !repairs_->idle() || (scrub_ != nullptr && scrub_->runs());
}

void Volume::repair(Slot& slot, uint64_t lba, uint64_t blocks) { repairs_->add(slot, lba, blocks); }

void Volume::leg_failed_write(const Slot& slot, IoStatus status) {
  on_leg_failed({.tag = slot.leg->tag(), .leg = slot.leg.get(), .op = Op::write, .status = status});
}

// --- Scrubs
// ------------------------------------------------------------------------------------------------------------

Result<void> Volume::start_scrub(uint64_t max_bandwidth_mb_sec) {
  if (state_ != VolumeState::online || deleting_)
    return Error(Errc::busy, fmt::format("{} is {}: only a volume that is online is scrubbed", name_, name_of(state_)));
  if (scrub_ != nullptr && scrub_->runs())
    return Error(Errc::already_exists, fmt::format("{}: a scrub is under way: stop it first", name_));
  scrub_ = std::make_unique<Scrub>(*this, max_bandwidth_mb_sec);
  spawn(scrub_->run());
  return {};
}

Task<Result<void>> Volume::stop_scrub() {
  const std::shared_ptr<Volume> self = shared_from_this();
  if (scrub_ == nullptr || scrub_->ended())
    co_return Error(Errc::not_found, fmt::format("{}: no scrub is under way", name_));
  scrub_->stop("it was stopped on request");
  while (scrub_->runs()) co_await sleep_for(main(), 1'000'000);
  co_return Result<void>{};
}

std::string Volume::scrub_json() const {
  return scrub_ == nullptr ? R"({"state":"none"})" : scrub_->json(main().now_ns());
}

// --- Copies to legs
// -----------------------------------------------------------------------------------------------------

void Volume::start_next_rebuild() {
  if (state_ != VolumeState::online || deleting_ || stopped_ || rebuild_ != nullptr) return;
  for (const auto& slot : slots_)
    if ((slot->role == SlotRole::attached || slot->unsynced) && !slot->excluding) {
      spawn(run_rebuild(*slot));
      return;
    }
}

Task<void> Volume::run_rebuild(Slot& slot) {
  const std::shared_ptr<Volume> self = shared_from_this();
  const uint64_t attachment = slot.attachments;
  if (!slot.unsynced) {
    slot.role = SlotRole::rebuilding;
    ++operational_;
  }
  slot.gets_writes = false;
  slot.reason = "it is being copied to";
  rebuild_ = std::make_unique<Rebuild>(*this, slot);
  Result<void> copied;
  const bool chosen = co_await choose_copy(slot);
  if (!chosen) copied = Error(Errc::io_error, "the dirty-region log cannot be written");
  if (copied) {
    LOG_INFO("raid", "{}: rebuild of {} regions onto '{}' begins", name_, log_.to_copy().count(), slot.name);
    log_.arm_sweep();  // what is copied comes off the list
    copied = co_await copy_and_record(slot);
  }
  const bool still_there = slot.attachments == attachment && slot.present() && !slot.excluding && !deleting_;
  rebuild_.reset();
  log_.to_copy().clear_all();
  if (still_there && copied) {
    slot.role = SlotRole::in_sync;  // it counts from here; reads go to it once the view says so
    slot.reason.clear();
    LOG_INFO("raid", "{}: rebuild onto '{}' is complete", name_, slot.name);
    co_await sync();
    announce(EventType::in_sync, &slot, "it was copied to");
  } else if (still_there) {
    const Result<void> excluded =
        co_await exclude(slot, spec::RaidBaseState::failed, "rebuild failed: " + copied.error().message());
    if (!excluded) LOG_WARN("raid", "{}: {}", name_, excluded.error().message());
  }
  grow_to_legs();
  start_next_rebuild();
  log_.arm_sweep();
}

// Ok: the leg holds everything, gets every write, and the superblocks call it in sync. Only then anybody is told: who
// keeps a record of the legs must not be ahead of them.
Task<Result<void>> Volume::copy_and_record(Slot& slot) {
  const bool was_unsynced = slot.unsynced;
  for (unsigned round = 0; round <= Rebuild::kRestartsMax; ++round) {
    const Result<void> copied = co_await rebuild_->run();
    const bool promoted = was_unsynced && slot.role == SlotRole::in_sync && !slot.unsynced;
    if (promoted) co_return Result<void>{};
    CO_TRY(copied);
    if (rebuild_->stopped()) break;
    slot.unsynced = false;
    slot.recorded = spec::RaidBaseState::configured;
    slot.recorded_uuid = slot.uuid;
    slot.cache = slot.leg->device().cache_instance();
    if (superblock_) {
      const Result<void> written = co_await write_superblocks();
      if (!written) LOG_ERROR("raid", "{}: {}", name_, written.error().message());
    }
    if (rebuild_->stopped()) break;
    if (!rebuild_->restarts()) co_return Result<void>{};
    slot.unsynced = was_unsynced;
    slot.copied_in_full = slot.copied_in_full && !log_.persistent();  // from here on it lacks only what is marked
  }
  co_return Error(Errc::canceled, "the leg left, or the one that it is copied from fails writes");
}

}  // namespace diskengine::raid
