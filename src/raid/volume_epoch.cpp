// Exclusions that count only by somebody else's word, and the end of a writer whose epoch is over (raid/volume.h).
#include <fmt/format.h>

#include "base/log.h"
#include "raid/rebuild.h"
#include "raid/volume.h"

namespace diskengine::raid {

Event Volume::event_of(EventType type, const Slot* slot, std::string reason) const {
  Event event;
  event.type = type;
  event.volume = name_;
  event.volume_uuid = uuid_;
  event.epoch = epoch_;
  event.reason = std::move(reason);
  if (slot != nullptr) {
    event.slot = slot->index;
    event.leg = slot->name;
    event.leg_uuid = slot->uuid;
  }
  return event;
}

void Volume::announce(EventType type, const Slot* slot, std::string reason) {
  shared_.events.add(event_of(type, slot, std::move(reason)));
}

Result<void> Volume::check_epoch(uint64_t epoch) const {
  if (!fenced_) return {};
  return Error(
      Errc::conflict,
      fmt::format("{}: its writer was stopped for good ({}); it cannot go on under epoch {}: delete the volume "
                  "and assemble it anew",
                  name_, fence_reason_, epoch));
}

void Volume::assembled_under(uint64_t epoch, bool confirm_exclusions) noexcept {
  DE_ASSERT(state_ == VolumeState::configuring && epoch != 0);
  assembled_ = true;
  epoch_ = epoch;
  confirms_ = confirm_exclusions;
}

// A log that nobody can read may have held an epoch, unless another leg's says that there was none.
bool Volume::waits_for_assembly() const noexcept {
  if (assembled_ || state_ != VolumeState::configuring) return false;
  bool damaged = false;
  bool free = false;
  for (const auto& slot : slots_) {
    if (!slot->present() || slot->found_sequence == 0) continue;
    if (slot->found_epoch != 0) return true;
    (slot->found_damaged ? damaged : free) = true;
  }
  return damaged && !free;
}

Task<Result<void>> Volume::set_epoch(uint64_t epoch, bool confirm_exclusions) {
  const std::shared_ptr<Volume> self = shared_from_this();
  CO_TRY(check_epoch(epoch));
  if (waits_for_assembly())
    co_return Error(Errc::busy, fmt::format("{}: it waits to be put together by diskengine_raid_assemble", name_));
  if (epoch < epoch_)
    co_return Error(Errc::conflict, fmt::format("{}: it is in epoch {}: epoch {} is over", name_, epoch_, epoch));
  const bool changed = epoch != epoch_ || confirm_exclusions != confirms_;
  epoch_ = epoch;
  confirms_ = confirm_exclusions;
  if (changed)
    LOG_INFO("raid", "{}: epoch {}, exclusions count {}", name_, epoch_, confirms_ ? "when confirmed" : "at once");
  for (const auto& slot : slots_) {
    if (!changed || !slot->wanted) continue;
    if (confirms_ && !slot->confirmed) {
      announce(EventType::exclusion_wanted, slot.get(), slot->reason);  // under the new epoch
    } else if (!confirms_ && slot->confirmation != nullptr && !slot->confirmation->is_set()) {
      slot->confirmation->set(true);
    }
  }
  // From here on nobody puts the volume together who does not know of the epoch.
  if (!superblock_ || state_ != VolumeState::online || recorded_epoch_ >= epoch) co_return Result<void>{};
  const Result<void> recorded = co_await write_superblocks();
  co_return recorded;
}

Task<Result<void>> Volume::confirm_exclusion(uint64_t epoch, std::string leg) {
  const std::shared_ptr<Volume> self = shared_from_this();
  CO_TRY(check_epoch(epoch));
  if (epoch == 0 || epoch != epoch_)
    co_return Error(Errc::conflict, fmt::format("{}: it is in epoch {}: a confirmation of epoch {} does not count",
                                                name_, epoch_, epoch));
  Slot* slot = nullptr;
  for (const auto& candidate : slots_)
    if (candidate->present() && (candidate->name == leg || candidate->uuid.to_string() == leg)) slot = candidate.get();
  if (slot == nullptr)
    co_return Error(Errc::no_device, fmt::format("{}: '{}' is none of its legs; it may have left already", name_, leg));
  slot->confirmed = true;
  if (slot->excluding) {
    if (slot->confirmation != nullptr && !slot->confirmation->is_set()) slot->confirmation->set(true);
    co_return Result<void>{};
  }
  // The record is ahead of us: the leg leaves now, and nobody has to be asked.
  if (state_ != VolumeState::online) co_return Error(Errc::busy, fmt::format("{} is {}", name_, name_of(state_)));
  Result<void> excluded =
      co_await exclude(*slot, spec::RaidBaseState::failed, fmt::format("excluded in epoch {}", epoch));
  co_return excluded;
}

Task<Result<void>> Volume::fence(uint64_t epoch) {
  const std::shared_ptr<Volume> self = shared_from_this();
  if (!fenced_ && epoch <= epoch_)
    co_return Error(Errc::conflict, fmt::format("{}: it is in epoch {}: epoch {} cannot end it", name_, epoch_, epoch));
  if (!fenced_) stop_writer(fmt::format("epoch {} began", epoch));
  co_await sync();  // from here on no reactor acknowledges anything
  co_return Result<void>{};
}

// Held writes fail with the next view; nothing after them is taken.
void Volume::stop_writer(std::string reason) {
  if (fenced_) return;
  fenced_ = true;
  fence_reason_ = std::move(reason);
  LOG_ERROR("raid", "{}: its writer is stopped for good: {}", name_, fence_reason_);
  if (rebuild_ != nullptr) rebuild_->cancel(fence_reason_);
  announce(EventType::fenced, nullptr, fence_reason_);
  wake_confirmations();
}

void Volume::wake_confirmations() {
  for (const auto& slot : slots_)
    if (slot->confirmation != nullptr && !slot->confirmation->is_set()) slot->confirmation->set(false);
}

// Until the exclusion of `slot` is confirmed, or nobody needs that any more. False: it was not, and the writer stops.
Task<bool> Volume::wait_for_confirmation(Slot& slot) {
  const std::shared_ptr<Volume> self = shared_from_this();
  while (confirms_ && !slot.confirmed) {
    if (fenced_ || deleting_) co_return false;
    OneShot<bool> confirmation(main());
    slot.confirmation = &confirmation;
    co_await confirmation;
    slot.confirmation = nullptr;
  }
  co_return true;
}

}  // namespace diskengine::raid
