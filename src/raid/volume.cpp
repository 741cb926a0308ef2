#include "raid/volume.h"

#include <fmt/format.h>

#include <algorithm>
#include <bit>

#include "base/log.h"
#include "raid/mirror_channel.h"
#include "raid/rebuild.h"
#include "raid/repair.h"
#include "raid/scrub.h"

namespace diskengine::raid {

std::string_view name_of(VolumeState state) noexcept {
  switch (state) {
    case VolumeState::online:
      return "online";
    case VolumeState::configuring:
      return "configuring";
    case VolumeState::offline:
      return "offline";
  }
  return "unknown";
}

std::string_view name_of(SlotRole role) noexcept {
  switch (role) {
    case SlotRole::empty:
      return "empty";
    case SlotRole::expected:
      return "expected";
    case SlotRole::attached:
      return "attached";
    case SlotRole::rebuilding:
      return "rebuilding";
    case SlotRole::in_sync:
      return "in_sync";
  }
  return "unknown";
}

void Volume::Slot::on_removed(Device&) { volume->on_leg_removed(*this); }
void Volume::Slot::on_resized(Device&) { volume->grow_to_legs(); }

Volume::Volume(Shared shared, std::string name, Uuid uuid, bool superblock, unsigned slots)
    : shared_(std::move(shared)),
      name_(std::move(name)),
      uuid_(uuid),
      superblock_(superblock),
      wait_timer_([this] { stop_waiting(); }),
      board_(std::make_shared<Board>(main())),
      superblock_mutex_(main()),
      repairs_(std::make_unique<Repairs>(*this)),
      process_mutex_(main()) {
  DE_ASSERT(slots >= 1 && slots <= kLegsMax);
  for (unsigned i = 0; i < slots; ++i) {
    slots_.push_back(std::make_unique<Slot>());
    slots_.back()->volume = this;
    slots_.back()->index = i;
  }
  board_->on_marks = [this](std::shared_ptr<MarkExchange> question) { log_.ask(std::move(question)); };
  board_->on_failure = [this](const LegFailure& failure) { on_leg_failed(failure); };
}

Volume::~Volume() {
  board_->on_failure = nullptr;
  board_->on_marks = nullptr;
  for (const auto& slot : slots_) DE_ASSERT(!slot->present());
  DE_ASSERT(!processes_run());
}

Volume::Slot* Volume::slot_of_device(const Device& device) noexcept {
  for (const auto& slot : slots_)
    if (slot->present() && &slot->leg->device() == &device) return slot.get();
  return nullptr;
}

unsigned Volume::count_in_sync() const noexcept {
  return static_cast<unsigned>(std::count_if(slots_.begin(), slots_.end(), [](const auto& slot) {
    return slot->role == SlotRole::in_sync && !slot->excluding;
  }));
}

unsigned Volume::count_present() const noexcept {
  return static_cast<unsigned>(
      std::count_if(slots_.begin(), slots_.end(), [](const auto& slot) { return slot->present(); }));
}

unsigned Volume::free_tag() const noexcept { return static_cast<unsigned>(std::countr_one(tags_used_)); }

void Volume::expect(unsigned index, std::string device_name, const Uuid& device_uuid) {
  Slot& slot = *slots_[index];
  slot.role = SlotRole::expected;
  slot.name = std::move(device_name);
  slot.uuid = device_uuid;
  slot.reason = "its device has not appeared";
  ++operational_;
}

void Volume::expect_from(const spec::RaidSuperblock& superblock) {
  block_size_ = superblock.block_size;
  recorded_size_ = superblock.raid_size;
  sequence_ = superblock.seq_number;
  for (const spec::RaidBaseDisk& disk : superblock.base_bdevs) {
    Slot& slot = *slots_[disk.slot];
    slot.recorded = disk.state;
    slot.recorded_uuid = disk.uuid;
    if (disk.state == spec::RaidBaseState::configured) {
      expect(disk.slot, {}, disk.uuid);
    } else {
      slot.reason = "its leg left before the volume was stopped";
    }
    slot.data_offset = disk.data_offset;
    slot.data_size = disk.data_size;
  }
}

void Volume::expect_only(const spec::RaidSuperblock& superblock, const std::vector<Uuid>& legs, uint64_t sequence) {
  expect_from(superblock);
  sequence_ = sequence;
  for (const auto& slot : slots_) {
    const bool named = std::find(legs.begin(), legs.end(), slot->recorded_uuid) != legs.end();
    if (named && slot->role == SlotRole::empty) expect(slot->index, {}, slot->recorded_uuid);
    if (named || slot->role == SlotRole::empty) continue;
    slot->role = SlotRole::empty;
    slot->uuid = {};
    slot->recorded = spec::RaidBaseState::missing;
    slot->left_sequence = sequence + 1;
    slot->reason = "it was not named when the volume was put together";
    --operational_;
  }
}

// --- Legs come and go
// --------------------------------------------------------------------------------------------------

Result<void> Volume::attach(Slot& slot, const std::shared_ptr<Device>& device) {
  DE_ASSERT(!slot.present());
  const DeviceInfo& info = device->info();
  const auto refuse = [&](Errc code, const std::string& why) {
    return Error(code, fmt::format("device '{}' cannot be a leg of {}: {}", info.name, name_, why));
  };
  if (device->removed()) return refuse(Errc::no_device, "it is being removed");
  if (superblock_ && info.uuid.is_nil()) return refuse(Errc::invalid_argument, "it has no UUID for the superblock");
  if (block_size_ != 0 && info.block_size != block_size_)
    return refuse(Errc::invalid_argument,
                  fmt::format("its block size is {}, that of the volume {}", info.block_size, block_size_));
  uint64_t offset = slot.data_offset;
  if (superblock_ && offset == 0) {
    offset = spec::kRaidDataOffsetBytes / info.block_size;
    if (info.optimal_blocks != 0)
      offset = (offset + info.optimal_blocks - 1) / info.optimal_blocks * info.optimal_blocks;
  }
  const uint64_t needed = std::max({uint64_t{1}, size_blocks_, recorded_size_});
  if (offset >= info.size_blocks || info.size_blocks - offset < needed)
    return refuse(Errc::invalid_argument, fmt::format("it has {} blocks; {} before the data and {} for it are needed",
                                                      info.size_blocks, offset, needed));
  if (state_ == VolumeState::online && info.max_transfer_blocks != 0 &&
      (max_transfer_blocks_ == 0 || info.max_transfer_blocks < max_transfer_blocks_))
    return refuse(Errc::invalid_argument, fmt::format("it takes at most {} blocks at a time, the volume {}",
                                                      info.max_transfer_blocks, max_transfer_blocks_));
  const unsigned tag = free_tag();
  if (tag >= kTagsMax) return refuse(Errc::busy, "too many legs that left still have requests under way");
  TRY(device->claim(name_));
  Result<std::unique_ptr<Channel>> control = device->open_channel(main());
  if (!control) {
    device->release();
    return control.error().with_context(fmt::format("device '{}' cannot be a leg of {}", info.name, name_));
  }

  tags_used_ |= 1u << tag;
  slot.leg = std::make_shared<Leg>(main(), device, tag, offset,
                                   [weak = weak_from_this(), tag](const std::shared_ptr<Device>& released) {
                                     released->release();
                                     if (auto volume = weak.lock()) volume->tags_used_ &= ~(1u << tag);
                                   });
  slot.control = std::move(control).value();
  slot.role = SlotRole::attached;
  slot.excluding = slot.confirmed = slot.wanted = slot.unsynced = false;
  slot.found_sequence = slot.found_epoch = 0;
  slot.found_configured = slot.found_damaged = slot.found_unsynced = false;
  slot.name = info.name;
  slot.uuid = info.uuid;
  slot.data_offset = offset;
  slot.data_size = size_blocks_ != 0 ? size_blocks_ : info.size_blocks - offset;
  slot.reason.clear();
  ++slot.attachments;
  block_size_ = info.block_size;
  device->watch(slot);
  return {};
}

void Volume::detach(Slot& slot, SlotRole role) {
  if (slot.present()) {
    slot.leg->device().unwatch(slot);
    close_when_idle(std::move(slot.control));
    slot.leg.reset();
  }
  slot.role = role;
  slot.excluding = slot.unsynced = slot.unrecorded = false;
  if (role == SlotRole::empty) {
    slot.name.clear();
    slot.uuid = {};
  }
}

Task<void> Volume::wait_for_drain(std::weak_ptr<Leg> leg) {
  const std::shared_ptr<Volume> self = shared_from_this();
  const uint64_t deadline_ns = main().now_ns() + kLegDrainWaitNs;
  while (!leg.expired() && main().now_ns() < deadline_ns) co_await sleep_for(main(), 1'000'000);
  co_await sleep_for(main(), 1'000'000);  // the message that frees the device is on its way
}

void Volume::on_leg_removed(Slot& slot) {
  if (slot.excluding || deleting_) return;  // it leaves already
  if (state_ == VolumeState::configuring) {
    detach(slot, SlotRole::expected);
    slot.reason = "its device was removed";
  } else if (slot.role == SlotRole::attached) {
    detach(slot, SlotRole::empty);
    slot.reason = "its device was removed";
  } else if (slot.role == SlotRole::in_sync && count_in_sync() == 1) {
    LOG_ERROR("raid", "{}: the device '{}' of its last leg was removed: the volume goes offline", name_, slot.name);
    slot.reason = "its device was removed";
    spawn<Result<void>>(shut_down(false));
  } else {
    spawn<Result<void>>(exclude(slot, spec::RaidBaseState::missing, "its device was removed"));
  }
}

void Volume::on_leg_failed(const LegFailure& failure) {
  if (failure.kept) {
    look_for_leg();
    return;
  }
  Slot* slot = nullptr;
  for (const auto& candidate : slots_)
    if (candidate->leg.get() == failure.leg && candidate->present() && candidate->leg->tag() == failure.tag)
      slot = candidate.get();
  if (slot == nullptr || slot->excluding || deleting_ || state_ != VolumeState::online) return;
  const bool reading = failure.op == Op::read || failure.op == Op::compare;
  const std::string what = fmt::format("{} failed: {}", diskengine::name_of(failure.op), name_of(failure.status.code));
  if (reading && failure.status.code != IoCode::disconnected) {
    LOG_WARN("raid", "{}: leg '{}': {}: served by another leg", name_, slot->name, what);
    repair(*slot, failure.lba, failure.blocks);
    return;
  }
  if (slot->role == SlotRole::in_sync && count_in_sync() == 1) {
    if (!looking_) LOG_ERROR("raid", "{}: last leg '{}': {}", name_, slot->name, what);
    if (failure.status.code == IoCode::disconnected) look_for_leg();
    if (!reading && failure.op != Op::flush && rebuild_ != nullptr) rebuild_->restart();
    return;
  }
  spawn<Result<void>>(exclude(*slot, spec::RaidBaseState::failed, what));
}

Task<Result<void>> Volume::exclude(Slot& slot, spec::RaidBaseState recorded_as, std::string reason) {
  const std::shared_ptr<Volume> self = shared_from_this();
  if (!slot.present() || slot.excluding)
    co_return Error(Errc::no_device, fmt::format("{}: slot {} has no leg to remove", name_, slot.index));
  const bool was_member = slot.role == SlotRole::in_sync || slot.role == SlotRole::rebuilding;
  if (slot.role == SlotRole::in_sync && count_in_sync() == 1)
    co_return Error(Errc::busy, fmt::format("{}: '{}' is its last leg in sync and cannot leave", name_, slot.name));
  DE_ASSERT(recorded_as != spec::RaidBaseState::configured);
  const uint64_t attachment = slot.attachments;
  slot.excluding = true;
  slot.reason = reason;
  ++leg_changes_;
  if (slot.role == SlotRole::in_sync || slot.recorded == spec::RaidBaseState::configured) {
    slot.recorded = recorded_as;
    slot.unrecorded = superblock_;
    slot.left_sequence = sequence_ + 1;
    promote_unsynced();
  }
  if (rebuild_ != nullptr && &rebuild_->target() == &slot) rebuild_->cancel(reason);
  LOG_WARN("raid", "{}: leg '{}' leaves: {}", name_, slot.name, reason);

  publish_soon();  // nobody reads from it any more

  // Here the exclusion becomes durable. Writes that the leg lacks are held by the channels until it is, and until every
  // channel has adopted the view without the leg. If it cannot, they are never acknowledged.
  bool recorded = true;
  if (was_member) recorded = co_await record_exclusion(slot);
  slot.unrecorded = slot.wanted = false;
  if (!recorded) stop_writer(fmt::format("the exclusion of '{}' was not recorded", slot.name));

  if (slot.attachments != attachment || !slot.present()) co_return Result<void>{};  // the volume went away meanwhile
  Event excluded = event_of(EventType::excluded, &slot, reason);
  detach(slot, SlotRole::empty);
  if (was_member) --operational_;
  co_await sync();
  shared_.events.add(std::move(excluded));
  co_return Result<void>{};
}

// Whether it is recorded where it has to be: in the superblocks, and by whoever confirms exclusions.
Task<bool> Volume::record_exclusion(Slot& slot) {
  if (ending_) {
    stop_writer(fmt::format("the process ends, and '{}' failed", slot.name));
    publish_soon();
    co_return false;
  }
  const bool confirm = confirms_ && slot.role == SlotRole::in_sync;
  // Whoever hears of it and looks finds it listed: confirmation and superblocks need not wait for each other.
  slot.wanted = confirm;
  if (confirm && !slot.confirmed) announce(EventType::exclusion_wanted, &slot, slot.reason);
  while (superblock_) {
    if (deleting_ || fenced_) co_return false;
    const Result<void> written = co_await write_superblocks();
    if (written) break;
    LOG_ERROR("raid", "{}: writes wait: the exclusion of '{}' cannot be recorded: {}", name_, slot.name,
              written.error().message());
    if (count_in_sync() == 1) look_for_leg();
    co_await sleep_for(main(), kSuperblockRetryNs);
  }
  slot.unrecorded = false;
  bool confirmed = true;
  if (confirm) confirmed = co_await wait_for_confirmation(slot);
  co_return confirmed;
}

void Volume::grow_to_legs() {
  const std::shared_ptr<RaidDevice> device = device_.lock();
  if (device == nullptr || state_ != VolumeState::online || rebuild_ != nullptr) return;
  uint64_t size = UINT64_MAX;
  for (const auto& slot : slots_)
    if (slot->role == SlotRole::in_sync) size = std::min(size, slot->leg->device().size_blocks() - slot->data_offset);
  if (size == UINT64_MAX || size <= size_blocks_) return;
  if (!log_.grow(size)) {
    LOG_WARN("raid", "{}: cannot grow to {} blocks: its dirty-region log has no room for them", name_, size);
    return;
  }
  LOG_INFO("raid", "{}: grows from {} to {} blocks", name_, size_blocks_, size);
  size_blocks_ = size;
  for (const auto& slot : slots_)
    if (slot->role == SlotRole::in_sync) slot->data_size = size;
  if (superblock_) spawn<Result<void>>(write_superblocks());
  device->set_size_blocks(size);
}

// --- The volume comes and goes
// -----------------------------------------------------------------------------------------

Result<void> Volume::choose_size() {
  size_blocks_ = UINT64_MAX;
  max_transfer_blocks_ = 0;
  for (const auto& slot : slots_) {
    if (!slot->present()) continue;
    const DeviceInfo& info = slot->leg->device().info();
    size_blocks_ = std::min(size_blocks_, info.size_blocks - slot->data_offset);
    if (info.max_transfer_blocks != 0)
      max_transfer_blocks_ = max_transfer_blocks_ == 0 ? info.max_transfer_blocks
                                                       : std::min(max_transfer_blocks_, info.max_transfer_blocks);
  }
  if (recorded_size_ != 0 && recorded_size_ > size_blocks_)
    return Error(Errc::invalid_argument, fmt::format("{}: its superblock says {} blocks, its legs have room for {}",
                                                     name_, recorded_size_, size_blocks_));
  if (recorded_size_ != 0) size_blocks_ = recorded_size_;
  for (const auto& slot : slots_)
    if (slot->present()) slot->data_size = size_blocks_;
  return {};
}

DeviceInfo Volume::device_info() const {
  DeviceInfo info;
  info.name = name_;
  info.product_name = "Raid Volume";
  info.layer = trace::Layer::raid;
  info.uuid = uuid_;
  info.block_size = block_size_;
  info.size_blocks = size_blocks_;
  info.can_unmap = info.can_compare = info.can_write_zeroes = true;
  info.max_transfer_blocks = max_transfer_blocks_;
  for (const auto& slot : slots_) {
    if (!slot->present()) continue;
    const DeviceInfo& leg = slot->leg->device().info();
    info.write_cache = info.write_cache || leg.write_cache;
    info.can_unmap = info.can_unmap && leg.can_unmap;
    info.can_compare = info.can_compare && leg.can_compare;
    info.buffer_align = std::max(info.buffer_align, leg.buffer_align);
    info.optimal_blocks = std::max(info.optimal_blocks, leg.optimal_blocks);
  }
  return info;
}

Task<Result<void>> Volume::go_online_if_complete() {
  const std::shared_ptr<Volume> self = shared_from_this();
  const auto complete = [this] { return operational_ > 0 && count_present() == operational_ && !deleting_; };
  if (state_ != VolumeState::configuring || going_online_ || !complete()) co_return Result<void>{};
  if (waits_for_assembly()) co_return Result<void>{};
  CO_TRY(choose_size());
  going_online_ = true;
  Result<void> outcome;
  co_await load_log();
  if (superblock_ && complete()) {
    for (const auto& slot : slots_) {
      if (!slot->present()) continue;
      slot->recorded = spec::RaidBaseState::configured;
      slot->recorded_uuid = slot->uuid;
      // One that is lost stays so on record until the leg has everything back.
      if (slot->cache.is_nil()) slot->cache = slot->leg->device().cache_instance();
    }
    const bool created = sequence_ == 0;
    const bool logged = co_await log_.write_pages(true);
    if (complete()) outcome = co_await write_superblocks();
    if (created && outcome && complete())
      outcome = co_await write_superblocks();  // past kSequenceOfCreation: every leg has one
    if (!logged && outcome) outcome = Error(Errc::io_error, fmt::format("{}: its log cannot be written", name_));
  }
  if (outcome && complete()) {
    for (const auto& slot : slots_)
      if (slot->present()) slot->role = SlotRole::in_sync;
    co_await sync();  // the first channel is to find this view, and find it released
  }
  going_online_ = false;
  if (outcome && complete()) {
    auto device = std::make_shared<RaidDevice>(device_info(), board_, shared_.zeroes, weak_from_this());
    device_ = device;
    state_ = VolumeState::online;
    outcome = shared_.registry.add(std::move(device));
  }
  if (!outcome || !complete()) {
    state_ = deleting_ ? VolumeState::offline : VolumeState::configuring;
    size_blocks_ = 0;
    for (const auto& slot : slots_)
      if (slot->present()) slot->role = SlotRole::attached;
    co_await sync();
    co_return outcome;
  }
  LOG_INFO("raid", "{}: online with {} of {} legs", name_, operational_, slots_.size());
  settle_lost_caches();
  start_next_rebuild();
  co_return Result<void>{};
}

void Volume::on_device_removing() {
  if (!deleting_) spawn<Result<void>>(shut_down(false));
}

Task<Result<void>> Volume::shut_down(bool clear_superblock) {
  const std::shared_ptr<Volume> self = shared_from_this();
  if (deleting_) co_return Error(Errc::busy, fmt::format("{} is being deleted already", name_));
  deleting_ = true;
  wake_confirmations();
  if (stopped_ || waiting_) {  // what waits fails
    stop_writer(fmt::format("the volume is being deleted, and {}", stopped_ ? "was stopped" : "no leg can be reached"));
    publish_soon();
  }
  const bool was_online = state_ == VolumeState::online;
  state_ = VolumeState::offline;
  if (rebuild_ != nullptr) rebuild_->cancel("the volume is being deleted");
  if (scrub_ != nullptr) scrub_->stop("the volume is being deleted");
  if (clear_superblock && superblock_) co_await clear_superblocks();

  Result<void> outcome;
  if (was_online) {
    if (shared_.registry.find(name_)) {
      outcome = co_await shared_.registry.remove(name_);
    } else {
      while (!device_.expired()) co_await sleep_for(main(), 1'000'000);
    }
  }
  while (processes_run()) co_await sleep_for(main(), 1'000'000);
  if (was_online && !fenced_ && outcome) co_await log_.close();
  std::vector<std::weak_ptr<Leg>> draining;
  for (const auto& slot : slots_) {
    draining.push_back(slot->leg);
    detach(*slot, SlotRole::empty);
  }
  co_await sync();
  for (const std::weak_ptr<Leg>& leg : draining) co_await wait_for_drain(leg);
  LOG_INFO("raid", "{}: gone", name_);
  if (shared_.gone) shared_.gone(*this);
  co_return outcome;
}

// --- The device
// --------------------------------------------------------------------------------------------------------

Result<std::unique_ptr<Channel>> RaidDevice::open_channel(Reactor& reactor) {
  return std::unique_ptr<Channel>(std::make_unique<MirrorChannel>(shared_from_this(), reactor, board_, zeroes_));
}

std::string RaidDevice::driver_specific_json() const {
  const std::shared_ptr<Volume> volume = volume_.lock();
  if (volume == nullptr) return "{}";
  return "{\"raid\":" + volume->info_json() + "}";
}

std::string RaidDevice::config_json() const {
  const std::shared_ptr<Volume> volume = volume_.lock();
  return volume == nullptr ? std::string() : volume->config_json();
}

Uuid RaidDevice::cache_instance() const {
  const std::shared_ptr<Volume> volume = volume_.lock();
  return volume == nullptr ? Uuid{} : volume->cache_instance();
}

void RaidDevice::on_remove() {
  if (const std::shared_ptr<Volume> volume = volume_.lock()) volume->on_device_removing();
}

}  // namespace diskengine::raid
