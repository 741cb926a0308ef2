// How a volume publishes its changes, and what it stores about itself: views, range locks, superblocks, JSON.
#include <fmt/format.h>

#include <algorithm>

#include "base/log.h"
#include "raid/mutation.h"
#include "raid/rebuild.h"
#include "raid/repair.h"
#include "raid/scrub.h"
#include "raid/volume.h"

namespace diskengine::raid {

// --- Views
// -------------------------------------------------------------------------------------------------------------

std::shared_ptr<const View> Volume::snapshot(uint64_t generation) const {
  auto view = std::make_shared<View>();
  view->generation = generation;
  for (const auto& slot : slots_) {
    if (!slot->present() || slot->role < SlotRole::rebuilding) continue;
    const unsigned tag = slot->leg->tag();
    view->legs[tag] = slot->leg;
    (slot->role == SlotRole::in_sync ? view->in_sync : view->rebuilding) |= mask_of(tag);
    if (slot->role == SlotRole::in_sync && (slot->excluding || slot->unsynced)) view->unread |= mask_of(tag);
  }
  view->fenced = fenced_;
  view->stopped = stopped_;
  view->waiting = waiting_ && !gave_up_;
  view->gave_up = gave_up_;
  view->may_wait = options().no_leg_timeout_sec != 0 && !gave_up_ && !fenced_ && !deleting_;
  view->copied_until = copied_until_;
  view->locks = locks_;
  view->logs = log_.persistent();
  view->region_shift = log_.region_shift();
  return view;
}

Task<void> Volume::sync() {
  const std::shared_ptr<Volume> self = shared_from_this();
  publish_soon();
  const uint64_t generation = wanted_;
  if (released_ >= generation) co_return;
  OneShot<bool> reached(main());
  waiters_.push_back({generation, &reached});
  co_await reached;
}

void Volume::publish_soon() {
  ++wanted_;
  if (!publishing_) spawn(publish());
}

// One view at a time, until the latest change is out.
Task<void> Volume::publish() {
  const std::shared_ptr<Volume> self = shared_from_this();
  publishing_ = true;
  while (released_ < wanted_) {
    const uint64_t generation = wanted_;
    const std::shared_ptr<const View> view = snapshot(generation);
    OneShot<bool> adopted(main());
    board_->publish(view, [&adopted] { adopted.set(true); });
    co_await adopted;
    board_->release(view);
    released_ = generation;
    for (const Waiter& waiter : waiters_)
      if (waiter.generation <= generation) waiter.reached->set(true);
    std::erase_if(waiters_, [&](const Waiter& waiter) { return waiter.generation <= generation; });
  }
  publishing_ = false;
}

Task<unsigned> Volume::lock_range(uint64_t begin, uint64_t end) {
  const std::shared_ptr<Volume> self = shared_from_this();
  const auto free = std::find_if(locks_.begin(), locks_.end(), [](const RangeLock& l) { return l.ticket == nullptr; });
  DE_ASSERT(free != locks_.end());  // one for each process that locks: a rebuild
  const auto index = static_cast<unsigned>(free - locks_.begin());
  OneShot<bool> drained(main());
  auto ticket = std::make_shared<DrainTicket>(main(), [&drained] { drained.set(true); });
  if constexpr (mutated(Mutation::unlocked_copy)) end = begin;
  locks_[index] = {begin, end, ticket};
  co_await sync();
  ticket->drop();
  co_await drained;
  co_return index;
}

// --- Superblocks
// -------------------------------------------------------------------------------------------------------

spec::RaidSuperblock Volume::superblock_now() const {
  spec::RaidSuperblock superblock;
  superblock.uuid = uuid_;
  superblock.name = name_;
  superblock.raid_size = size_blocks_;
  superblock.block_size = block_size_;
  superblock.seq_number = sequence_;
  superblock.num_base_bdevs = static_cast<uint8_t>(slots_.size());
  for (const auto& slot : slots_)
    superblock.base_bdevs.push_back({.uuid = slot->recorded_uuid,
                                     .data_offset = slot->data_offset,
                                     .data_size = slot->data_size,
                                     .state = slot->recorded,
                                     .flags = 0,
                                     .slot = static_cast<uint8_t>(slot->index)});
  return superblock;
}

Task<Result<void>> Volume::write_superblocks() {
  const std::shared_ptr<Volume> self = shared_from_this();
  if (fenced_) co_return Error(Errc::conflict, fmt::format("{}: its writer was stopped for good", name_));
  co_await superblock_mutex_.lock();
  ++sequence_;
  const uint64_t epoch = epoch_;
  const std::vector<uint8_t> bytes = spec::encode(superblock_now());
  Result<void> outcome;
  for (const auto& slot : slots_) {
    if (!slot->present() || slot->excluding) continue;
    if (state_ == VolumeState::online && slot->role == SlotRole::attached) continue;  // none of its legs yet
    const uint64_t attachment = slot->attachments;
    Result<void> stored = co_await store_superblock(*slot->control, bytes);
    if (stored && slot->attachments == attachment && slot->present()) stored = co_await store_log_header(*slot);
    if (stored || slot->attachments != attachment || !slot->present() || slot->excluding) continue;
    outcome = stored;
    if (state_ == VolumeState::online && (slot->role != SlotRole::in_sync || count_in_sync() > 1))
      spawn<Result<void>>(exclude(*slot, spec::RaidBaseState::failed, stored.error().message()));
  }
  if (outcome) recorded_epoch_ = std::max(recorded_epoch_, epoch);
  superblock_mutex_.unlock();
  co_return outcome;
}

Task<void> Volume::clear_superblocks() {
  const std::shared_ptr<Volume> self = shared_from_this();
  co_await superblock_mutex_.lock();
  const std::vector<uint8_t> zeroes(spec::encode(superblock_now()).size());
  for (const auto& slot : slots_) {
    if (!slot->present() || slot->excluding) continue;
    const Result<void> stored = co_await store_superblock(*slot->control, zeroes);
    if (!stored) LOG_WARN("raid", "{}: {}", name_, stored.error().message());
  }
  superblock_mutex_.unlock();
}

// --- JSON
// --------------------------------------------------------------------------------------------------------------

namespace {

std::string quoted(std::string_view text) {
  std::string out = "\"";
  for (const char c : text) {
    if (c == '"' || c == '\\') {
      out += '\\';
      out += c;
    } else if (static_cast<unsigned char>(c) < 0x20) {
      out += fmt::format("\\u{:04x}", static_cast<unsigned>(c));
    } else {
      out += c;
    }
  }
  return out + "\"";
}

std::string slot_json(const Volume::Slot& slot) {
  std::string out =
      fmt::format(R"({{"name":{},"uuid":"{}","is_configured":{},"data_offset":{},"data_size":{},"state":"{}")",
                  slot.name.empty() ? "null" : quoted(slot.name), slot.uuid.to_string(), slot.present(),
                  slot.data_offset, slot.data_size, slot.excluding ? "leaving" : name_of(slot.role));
  if (!slot.reason.empty()) out += fmt::format(R"(,"reason":{})", quoted(slot.reason));
  if (slot.present())
    out += fmt::format(R"(,"read_errors":{},"write_errors":{})", slot.leg->read_errors.load(),
                       slot.leg->write_errors.load());
  return out + "}";
}

std::string process_json(const Rebuild& rebuild, uint64_t now_ns, uint32_t block_size) {
  const Progress& progress = rebuild.progress();
  const double rate = progress.rate(now_ns);
  std::string out =
      fmt::format(R"({{"type":"rebuild","target":{},"progress":{{"blocks":{},"percent":{}}},"total_blocks":{},)"
                  R"("blocks_per_sec":{:.0f},"mb_per_sec":{:.1f},"max_bandwidth_mb_sec":{})",
                  quoted(rebuild.target().name), progress.done(), progress.percent(), progress.total(), rate,
                  rate * block_size / (1024 * 1024), rebuild.max_bandwidth_mb_sec());
  const uint64_t eta = progress.eta_seconds(now_ns);
  if (eta != UINT64_MAX) out += fmt::format(R"(,"eta_seconds":{})", eta);
  return out + "}";
}

}  // namespace

uint64_t Volume::known_epoch() const noexcept {
  uint64_t epoch = epoch_;
  if (state_ == VolumeState::configuring)
    for (const auto& slot : slots_) epoch = std::max(epoch, slot->found_epoch);
  return epoch;
}

std::string Volume::epoch_json() const {
  std::string waiting;
  for (const auto& slot : slots_)
    if (slot->wanted && confirms_ && !slot->confirmed)
      waiting += fmt::format(R"({}{{"leg":{},"uuid":"{}","slot":{},"reason":{}}})", waiting.empty() ? "" : ",",
                             quoted(slot->name), slot->uuid.to_string(), slot->index, quoted(slot->reason));
  const auto ms = [](const std::atomic<uint64_t>& ns) { return static_cast<double>(ns.load()) / 1e6; };
  return fmt::format(R"("epoch":{},"confirms_exclusions":{},"fenced":{},"exclusions_wanted":[{}],)"
                     R"("held_writes":{{"now":{},"total":{},"last_ms":{:.3f},"max_ms":{:.3f}}})",
                     known_epoch(), confirms_, fenced_, waiting, board_->held.now.load(), board_->held.total.load(),
                     ms(board_->held.last_ns), ms(board_->held.max_ns));
}

std::string Volume::why_configuring() const {
  if (waits_for_assembly())
    return fmt::format("somebody keeps the record of its legs (epoch {}): diskengine_raid_assemble puts it together",
                       known_epoch());
  return fmt::format("{} of {} base bdevs that it needs are there", count_present(), operational_);
}

std::string Volume::info_json() {
  std::string out = fmt::format(
      R"({{"uuid":"{}","strip_size_kb":0,"state":"{}","raid_level":"raid1","superblock":{},"num_base_bdevs":{},)"
      R"("num_base_bdevs_discovered":{},"num_base_bdevs_operational":{},"num_base_bdevs_in_sync":{})",
      uuid_.to_string(), name_of(state_), superblock_, slots_.size(), count_present(), operational_, count_in_sync());
  if (state_ == VolumeState::configuring) out += fmt::format(R"(,"reason":{})", quoted(why_configuring()));
  if (rebuild_ != nullptr && rebuild_->target().role == SlotRole::rebuilding && !rebuild_->target().excluding)
    out += ",\"process\":" + process_json(*rebuild_, main().now_ns(), block_size_);
  if (stopped_) out += ",\"stopped\":true,\"reason\":" + quoted(stop_reason_);
  if (waiting_) out += "," + waiting_json();
  if (log_.persistent())
    out += fmt::format(R"(,"dirty_log":{{"region_blocks":{},"regions":{},"marked":{}}})", log_.region_blocks(),
                       log_.regions(), log_.marked().count());
  if (scrub_ != nullptr) out += ",\"scrub\":" + scrub_json();
  out += ",\"repairs\":" + repairs_->json();
  out += "," + epoch_json() + ",\"base_bdevs_list\":[";
  for (const auto& slot : slots_) out += (slot->index == 0 ? "" : ",") + slot_json(*slot);
  return out + "]}";
}

std::string Volume::config_json() const {
  if (superblock_) return {};
  std::string names;
  for (const auto& slot : slots_) {
    // As SPDK writes an empty slot: what would make the volume again waits for a device that never comes.
    const std::string name = slot->name.empty() ? fmt::format("removed_base_bdev_{}", slot->index) : slot->name;
    names += (slot->index == 0 ? "" : ",") + quoted(name);
  }
  return fmt::format(
      R"({{"method":"bdev_raid_create","params":{{"name":{},"uuid":"{}","raid_level":"raid1","base_bdevs":[{}],)"
      R"("superblock":false}}}})",
      quoted(name_), uuid_.to_string(), names);
}

}  // namespace diskengine::raid
