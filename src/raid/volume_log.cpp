// The volume's part in its dirty-region log (raid/dirty_log.h): finding it on the legs, believing it or not, and which
// legs have to be copied to.
#include <fmt/format.h>

#include <algorithm>
#include <tuple>

#include "base/log.h"
#include "raid/mutation.h"
#include "raid/rebuild.h"
#include "raid/volume.h"

namespace diskengine::raid {

bool Volume::keeps_log(const Slot& slot) const noexcept {
  return slot.present() && !slot.excluding && slot.control != nullptr &&
         (slot.role == SlotRole::in_sync || slot.role == SlotRole::rebuilding || state_ == VolumeState::configuring);
}

// Every slot has a leg that gets every write, and at most one of them has still something to be copied to it.
bool Volume::legs_are_well() const noexcept {
  return std::all_of(slots_.begin(), slots_.end(), [&](const auto& slot) {
    const bool copied_to = rebuild_ != nullptr && &rebuild_->target() == slot.get() && slot->gets_writes;
    return slot->present() && !slot->excluding && (copied_to || (slot->role == SlotRole::in_sync && !slot->unsynced));
  });
}

bool Volume::exclusion_unrecorded() const noexcept {
  return std::any_of(slots_.begin(), slots_.end(), [](const auto& slot) { return slot->unrecorded; });
}

void Volume::choose_log() {
  const bool room = std::all_of(slots_.begin(), slots_.end(), [&](const auto& slot) {
    return !slot->present() || slot->data_offset * block_size_ >= spec::kRaidDataOffsetBytes;
  });
  log_.reset(superblock_ && room, shared_.random.next(), block_size_, size_blocks_, options().log_region_kb);
}

// What the slot's leg knows of the volume by itself.
void Volume::note_found(Slot& slot, const LegContents& contents) {
  slot.found_sequence = contents.sequence();
  slot.found_configured = contents.configured(slot.uuid);
  slot.found_epoch = contents.epoch();
  slot.found_damaged = contents.log_damaged;
}

// Before the volume is online: marks what its legs' logs call dirty, or everything if none can be believed, and calls
// all legs but one unsynced if that is anything. Nothing is written here.
Task<void> Volume::load_log() {
  const std::shared_ptr<Volume> self = shared_from_this();
  choose_log();
  stopped_ = false;
  uint64_t newest = 0;
  bool strangers = false;
  for (const auto& slot : slots_) {
    slot->unsynced = false;
    if (!slot->present()) continue;
    newest = std::max(newest, slot->found_sequence);
    strangers = strangers || slot->found_sequence == 0;
  }
  if (!log_.persistent() || newest == 0) co_return;  // all legs are new: they are taken as they are
  std::vector<bool> known(spec::raid_dirty_log_pages(log_.regions()), false);
  std::vector<spec::RaidDirtyLogHeader> headers;
  for (const auto& slot : slots_)
    if (slot->present() && slot->found_sequence != 0 && slot->found_sequence + 1 >= newest)
      co_await load_log_of(*slot, known, headers);
  for (uint64_t region = 0; region < log_.regions(); ++region)
    if (strangers || !known[region / spec::kRaidDirtyLogRegionsPerPage]) log_.mark(region);
  if (log_.marked().empty()) co_return;
  find_lost_caches(headers);
  const Slot* first = choose_source();
  for (const auto& slot : slots_) slot->unsynced = slot->present() && slot.get() != first;
  LOG_WARN("raid", "{}: was not stopped in order, or a leg is out: up to {} of {} regions may differ; '{}' is read",
           name_, log_.marked().count(), log_.regions(), first->name);
}

// The header of the leg's log, if the log is to be believed.
Task<std::optional<spec::RaidDirtyLogHeader>> Volume::load_header_of(Slot& slot) {
  const uint64_t attachment = slot.attachments;
  DmaBuffer buffer(spec::kRaidDirtyLogPageBytes);
  const uint64_t first = spec::kRaidDirtyLogOffsetBytes / block_size_;
  const IoStatus status = co_await control_io(*slot.control, Op::read, first, buffer.span(), false);
  if (!status.ok() || slot.attachments != attachment || !slot.present()) co_return std::nullopt;
  const Result<spec::RaidDirtyLogHeader> header =
      spec::decode_raid_dirty_log_header(spec::RaidDirtyLogPageView(buffer.data(), spec::kRaidDirtyLogPageBytes));
  const bool believed = header && header->volume_uuid == uuid_ && header->sequence == slot.found_sequence &&
                        header->region_blocks == log_.region_blocks() && header->region_count == log_.regions() &&
                        header->block_size == block_size_;
  if (believed) co_return *header;
  LOG_WARN("raid", "{}: the dirty-region log of '{}' is not believed: {}", name_, slot.name,
           header ? "the volume was in use without it" : header.error().message());
  co_return std::nullopt;
}

// Marks what the pages of the leg's log mark; `known` are those that could be read.
Task<void> Volume::load_pages_of(Slot& slot, uint64_t log_id, std::vector<bool>& known) {
  const uint64_t attachment = slot.attachments;
  DmaBuffer buffer(spec::kRaidDirtyLogPageBytes);
  const spec::RaidDirtyLogPageView page(buffer.data(), spec::kRaidDirtyLogPageBytes);
  const uint64_t blocks = spec::kRaidDirtyLogPageBytes / block_size_;
  const uint64_t first = spec::kRaidDirtyLogOffsetBytes / block_size_ + blocks;
  for (uint32_t i = 0; i < known.size(); ++i) {
    const IoStatus status = co_await control_io(*slot.control, Op::read, first + i * blocks, buffer.span(), false);
    if (slot.attachments != attachment || !slot.present()) co_return;
    if (!status.ok()) continue;
    const auto bits = spec::decode_raid_dirty_log_page(page, log_id, i);
    if (!bits) {
      LOG_WARN("raid", "{}: '{}': {}", name_, slot.name, bits.error().message());
      continue;
    }
    known[i] = true;
    for (uint64_t bit = 0; bit < spec::kRaidDirtyLogRegionsPerPage; ++bit) {
      const uint64_t region = i * spec::kRaidDirtyLogRegionsPerPage + bit;
      if (region < log_.regions() && ((*bits)[bit / 8] & 1u << bit % 8) != 0) log_.mark(region);
    }
  }
}

// The leg that is read until the others are like it: one that lost nothing (all that are here, but for blank ones, had
// everything that was acknowledged), the newest, and of several the one that was read before.
const Volume::Slot* Volume::choose_source() const noexcept {
  const auto rank = [this](const Slot& slot) {
    return std::tuple(slot.found_sequence != 0, !lost_cache(slot), slot.found_epoch, slot.found_sequence,
                      !slot.found_unsynced);
  };
  const auto better = [&](const Slot& a, const Slot& b) {
    return mutated(Mutation::wrong_leg) ? rank(a) < rank(b) : rank(a) > rank(b);
  };
  const Slot* best = nullptr;
  for (const auto& slot : slots_)
    if (slot->present() && (best == nullptr || better(*slot, *best))) best = slot.get();
  return best;
}

Task<void> Volume::load_log_of(Slot& slot, std::vector<bool>& known, std::vector<spec::RaidDirtyLogHeader>& headers) {
  const std::optional<spec::RaidDirtyLogHeader> header = co_await load_header_of(slot);
  if (!header || !slot.present()) co_return;
  headers.push_back(*header);
  epoch_ = std::max(epoch_, header->epoch);
  slot.found_unsynced = (header->unsynced & 1u << slot.index) != 0;
  for (size_t i = 0; i < slots_.size() && i < header->left.size(); ++i)
    if (slots_[i]->recorded_uuid == header->left[i].uuid)
      slots_[i]->left_sequence = std::max(slots_[i]->left_sequence, header->left[i].sequence);
  co_await load_pages_of(slot, header->log_id, known);
}

// A leg that returns may have got writes after the others last heard of it: what its own log marks is copied as well.
// False: that log says nothing.
Task<bool> Volume::load_log_of_returned(Slot& slot) {
  const std::optional<spec::RaidDirtyLogHeader> header = co_await load_header_of(slot);
  if (!header || !slot.present()) co_return false;
  std::vector<bool> known(spec::raid_dirty_log_pages(log_.regions()), false);
  co_await load_pages_of(slot, header->log_id, known);
  co_return std::all_of(known.begin(), known.end(), [](bool read) { return read; });
}

Task<Result<void>> Volume::store_log_header(Slot& slot) {
  if (!log_.persistent() || log_.regions() == 0) co_return Result<void>{};
  spec::RaidDirtyLogHeader header;
  header.volume_uuid = uuid_;
  header.log_id = log_.log_id();
  header.sequence = sequence_;
  header.epoch = epoch_;
  header.region_blocks = log_.region_blocks();
  header.region_count = log_.regions();
  header.block_size = block_size_;
  for (size_t i = 0; i < slots_.size(); ++i) {
    header.left[i] = {slots_[i]->recorded_uuid, slots_[i]->left_sequence};
    if (slots_[i]->unsynced) header.unsynced |= 1u << i;
    header.caches[i] = slots_[i]->cache;
  }
  header.machine = shared_.machine;
  DmaBuffer buffer(spec::kRaidDirtyLogPageBytes);
  spec::encode(header, spec::RaidDirtyLogPageSpan(buffer.data(), spec::kRaidDirtyLogPageBytes));
  const IoStatus status =
      co_await control_io(*slot.control, Op::write, spec::kRaidDirtyLogOffsetBytes / block_size_, buffer.span(), true);
  if (!status.ok())
    co_return Error(Errc::io_error, fmt::format("cannot write the dirty-region log of '{}': {}", slot.name,
                                                diskengine::name_of(status.code)));
  co_return Result<void>{};
}

// Says what has to be copied to the slot's leg. All of the volume, and from here on that is on record, if the leg is
// new or cannot show that it left this volume and was nowhere else since. False: the log could not be written.
Task<bool> Volume::choose_copy(Slot& slot) {
  const std::shared_ptr<Volume> self = shared_from_this();
  const bool returns = slot.unsynced || (slot.recorded_uuid == slot.uuid && slot.found_sequence != 0 &&
                                         (!slot.found_configured || slot.found_sequence < slot.left_sequence));
  slot.copied_in_full = !log_.persistent() || !returns;
  if (!slot.copied_in_full && !slot.unsynced) {
    const bool known = co_await load_log_of_returned(slot);
    slot.copied_in_full = !known;
  }
  log_.to_copy().clear_all();
  DE_ASSERT(slot.unsynced || slot.recorded != spec::RaidBaseState::configured);
  if (slot.copied_in_full) {
    log_.mark_all();
    log_.to_copy().set_all();
    const bool marked = co_await log_.write_pages(true);
    if (!marked) co_return false;
    if (slot.recorded_uuid != slot.uuid) slot.cache = {};
    slot.recorded_uuid = slot.uuid;
    slot.left_sequence = sequence_ + 1;
  } else {
    log_.to_copy().add(log_.marked());
    const bool marked = co_await log_.write_pages(true);  // the leg that returns needs the log as well
    if (!marked) co_return false;
  }
  if (!superblock_) co_return true;
  const Result<void> recorded = co_await write_superblocks();
  if (!recorded) LOG_WARN("raid", "{}: {}", name_, recorded.error().message());
  co_return true;
}

// The last leg that everything could be copied from is on its way out. Another one holds all that was acknowledged.
void Volume::promote_unsynced() {
  Slot* next = nullptr;
  for (const auto& slot : slots_) {
    if (slot->role != SlotRole::in_sync || slot->excluding) continue;
    if (!slot->unsynced) return;
    if (next == nullptr) next = slot.get();
  }
  if (next == nullptr) return;
  LOG_WARN("raid", "{}: '{}' is read from now on, though not all was copied to it", name_, next->name);
  next->unsynced = false;
  if (rebuild_ != nullptr && &rebuild_->target() == next) rebuild_->cancel("the leg that it was copied from left");
}

}  // namespace diskengine::raid
