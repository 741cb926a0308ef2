#include "raid/manager.h"

#include <fmt/format.h>

#include <algorithm>

#include "base/log.h"
#include "raid/mirror_channel.h"
#include "raid/mutation.h"

namespace diskengine::raid {
namespace {

bool answers_to(const Device& device, const Volume::Slot& slot) {
  const DeviceInfo& info = device.info();
  if (!slot.uuid.is_nil()) return slot.uuid == info.uuid;
  return slot.name == info.name || slot.name == info.uuid.to_string() ||
         std::find(info.aliases.begin(), info.aliases.end(), slot.name) != info.aliases.end();
}

}  // namespace

RaidManager::RaidManager(DeviceRegistry& registry, uint64_t random_seed, const Uuid& machine)
    : registry_(registry),
      random_(random_seed),
      machine_(machine),
      events_(registry.main_reactor(), random_.next()),
      zeroes_(std::make_shared<DmaBuffer>(kZeroBytes)) {
  registry_.observe(*this);
}

RaidManager::~RaidManager() {
  DE_ASSERT(volumes_.empty());
  registry_.unobserve(*this);
}

std::shared_ptr<Volume> RaidManager::find(std::string_view name) const {
  for (const auto& volume : volumes_)
    if (volume->name() == name) return volume;
  return nullptr;
}

std::shared_ptr<Volume> RaidManager::find(const Uuid& uuid) const {
  for (const auto& volume : volumes_)
    if (volume->uuid() == uuid) return volume;
  return nullptr;
}

std::shared_ptr<Volume> RaidManager::make_volume(std::string name, Uuid uuid, bool superblock, unsigned slots) {
  Volume::Shared shared{.registry = registry_,
                        .options = options_,
                        .zeroes = zeroes_,
                        .events = events_,
                        .random = random_,
                        .machine = machine_,
                        .gone = [this](Volume& gone) {
                          std::erase_if(volumes_, [&](const auto& volume) { return volume.get() == &gone; });
                        }};
  volumes_.push_back(std::make_shared<Volume>(std::move(shared), std::move(name), uuid, superblock, slots));
  return volumes_.back();
}

// --- Requests of the operator
// ------------------------------------------------------------------------------------------

Result<void> RaidManager::check(const CreateOptions& options) const {
  const auto invalid = [&](const std::string& why) {
    return Error(Errc::invalid_argument, fmt::format("RAID volume '{}': {}", options.name, why));
  };
  if (options.name.empty() || options.name.size() >= spec::kRaidNameBytes)
    return invalid(fmt::format("a name has 1 to {} bytes", spec::kRaidNameBytes - 1));
  if (options.strip_size_kb != 0) return invalid("a mirror has no strips: strip_size_kb must be 0");
  if (options.base_bdevs.size() < kLegsMin || options.base_bdevs.size() > kLegsMax)
    return invalid(
        fmt::format("a mirror has {} to {} base devices, not {}", kLegsMin, kLegsMax, options.base_bdevs.size()));
  for (size_t i = 0; i < options.base_bdevs.size(); ++i) {
    if (options.base_bdevs[i].empty()) return invalid("the name of a base device is empty");
    for (size_t j = 0; j < i; ++j)
      if (options.base_bdevs[i] == options.base_bdevs[j])
        return invalid(fmt::format("base device '{}' is named twice", options.base_bdevs[i]));
  }
  if (find(options.name) != nullptr || registry_.find(options.name))
    return Error(Errc::already_exists, fmt::format("the name '{}' is taken", options.name));
  if (!options.uuid.is_nil() && (find(options.uuid) != nullptr || registry_.find(options.uuid.to_string())))
    return Error(Errc::already_exists, fmt::format("the UUID {} is taken", options.uuid.to_string()));
  return {};
}

Task<Result<void>> RaidManager::create(CreateOptions options) {
  CO_TRY(check(options));
  const Uuid uuid = options.uuid.is_nil() ? random_.uuid() : options.uuid;
  const auto count = static_cast<unsigned>(options.base_bdevs.size());
  const std::shared_ptr<Volume> volume = make_volume(options.name, uuid, options.superblock, count);
  volume->set_creating(true);
  for (unsigned i = 0; i < count; ++i) volume->expect(i, options.base_bdevs[i], {});
  Result<void> outcome;
  for (unsigned i = 0; i < count && outcome; ++i) {
    Volume::Slot& slot = *volume->slots()[i];
    const Result<std::shared_ptr<Device>> device = registry_.find(options.base_bdevs[i]);
    if (!device) continue;  // it may come later
    outcome = volume->attach(slot, *device);
    if (outcome) outcome = co_await check_superblock(*volume, slot);
  }
  if (outcome) outcome = co_await volume->go_online_if_complete();
  if (!outcome && !volume->deleting()) {
    const Result<void> undone = co_await volume->shut_down(false);
    if (!undone) LOG_WARN("raid", "{}: {}", volume->name(), undone.error().message());
  }
  volume->set_creating(false);
  // Devices that appeared while others were being looked at.
  for (const std::string& name : options.base_bdevs)
    if (const auto late = registry_.find(name); late && outcome) on_examine(*late);
  co_return outcome;
}

Task<Result<void>> RaidManager::remove(std::string name, bool clear_superblock) {
  const std::shared_ptr<Volume> volume = find(name);
  if (volume == nullptr) co_return Error(Errc::no_device, fmt::format("there is no RAID volume '{}'", name));
  Result<void> outcome = co_await volume->shut_down(clear_superblock);
  co_return outcome;
}

Task<Result<void>> RaidManager::check_superblock(Volume& volume, Volume::Slot& slot) {
  const uint64_t attachment = slot.attachments;
  // By a channel of its own: the slot's may be closed meanwhile.
  Result<std::unique_ptr<Channel>> channel = slot.leg->device().open_channel(registry_.main_reactor());
  CO_TRY(channel);
  const Result<LegContents> found = co_await read_leg(**channel);
  close_when_idle(std::move(channel).value());
  if (slot.attachments != attachment || !slot.present())
    co_return Error(Errc::no_device, fmt::format("{}: its base device was removed meanwhile", volume.name()));
  if (!found && found.error().code() == Errc::io_error) co_return found.error();
  if (!found || !found->superblock) co_return Result<void>{};
  if (found->superblock->uuid != volume.uuid())
    co_return Error(
        Errc::already_exists,
        fmt::format("device '{}' holds a leg of the RAID volume '{}' ({}): clear its first blocks to use it", slot.name,
                    found->superblock->name, found->superblock->uuid.to_string()));
  if (!mutated(Mutation::old_epoch) && found->epoch() > volume.epoch())
    co_return Error(Errc::conflict,
                    fmt::format("device '{}' was written in epoch {} of {}, which is in epoch {} here: only "
                                "diskengine_raid_assemble under a later one can use it",
                                slot.name, found->epoch(), volume.name(), volume.epoch()));
  if (volume.has_superblock()) Volume::note_found(slot, *found);
  co_return Result<void>{};
}

Task<Result<void>> RaidManager::add_base(std::string raid_name, std::string device_name) {
  const std::shared_ptr<Volume> volume = find(raid_name);
  if (volume == nullptr || volume->deleting())
    co_return Error(Errc::no_device, fmt::format("there is no RAID volume '{}'", raid_name));
  for (const auto& slot : volume->slots())
    if (slot->role == SlotRole::rebuilding ||
        (volume->state() == VolumeState::online && slot->role == SlotRole::attached))
      co_return Error(Errc::permission_denied,
                      fmt::format("{}: a rebuild onto '{}' is under way; add '{}' when it is done", raid_name,
                                  slot->name, device_name));
  const Result<std::shared_ptr<Device>> device = registry_.find(device_name);
  Volume::Slot* slot = nullptr;
  for (const auto& candidate : volume->slots()) {
    const bool awaited =
        device && ((candidate->role == SlotRole::expected && answers_to(**device, *candidate)) ||
                   (candidate->role == SlotRole::empty && !candidate->recorded_uuid.is_nil() &&
                    candidate->recorded_uuid == (*device)->info().uuid));  // or it comes back to its place
    if (awaited || (candidate->role == SlotRole::empty && (slot == nullptr || slot->role == SlotRole::empty))) {
      if (slot == nullptr || awaited) slot = candidate.get();
    }
  }
  if (slot == nullptr)
    co_return Error(Errc::invalid_argument,
                    fmt::format("{}: no free slot for '{}': remove a base device first", raid_name, device_name));
  CO_TRY(device);
  const SlotRole role_before = slot->role;
  CO_TRY(volume->attach(*slot, *device));
  const uint64_t attachment = slot->attachments;
  const Result<void> fit = co_await check_superblock(*volume, *slot);
  if (!fit) {
    if (slot->attachments == attachment && slot->present()) volume->detach(*slot, role_before);
    co_return fit;
  }
  volume->start_next_rebuild();
  Result<void> outcome = co_await volume->go_online_if_complete();
  co_return outcome;
}

Task<Result<void>> RaidManager::remove_base(std::string device_name) {
  const Result<std::shared_ptr<Device>> device = registry_.find(device_name);
  CO_TRY(device);
  const std::vector<std::shared_ptr<Volume>> candidates = volumes_;
  for (const std::shared_ptr<Volume>& volume : candidates) {
    Volume::Slot* slot = volume->slot_of_device(**device);
    if (slot == nullptr || slot->excluding) continue;
    const std::weak_ptr<Leg> leg = slot->leg;
    const bool online = volume->state() == VolumeState::online;
    const auto in_sync = std::count_if(volume->slots().begin(), volume->slots().end(), [](const auto& other) {
      return other->role == SlotRole::in_sync && !other->excluding;
    });
    if (!online) {
      volume->detach(*slot, SlotRole::expected);
      slot->reason = "removed on request";
    } else if (slot->role == SlotRole::in_sync && in_sync == 1) {
      const Result<void> outcome = co_await volume->shut_down(false);
      co_return outcome;
    } else {
      const Result<void> outcome = co_await volume->exclude(*slot, spec::RaidBaseState::missing, "removed on request");
      CO_TRY(outcome);
    }
    co_await volume->wait_for_drain(leg);
    co_return Result<void>{};
  }
  co_return Error(Errc::no_device, fmt::format("device '{}' is in no RAID volume", device_name));
}

Result<void> RaidManager::set_options(RaidOptions options) {
  if (options.process_window_size_kb == 0 || options.process_window_size_kb > kWindowKbMax)
    return Error(Errc::invalid_argument, fmt::format("process_window_size_kb is {}, not 1 to {}",
                                                     options.process_window_size_kb, kWindowKbMax));
  if (options.no_leg_timeout_sec > kNoLegTimeoutSecMax)
    return Error(Errc::invalid_argument,
                 fmt::format("no_leg_timeout_sec is {}, not 0 to {}", options.no_leg_timeout_sec, kNoLegTimeoutSecMax));
  options_ = options;
  return {};
}

std::vector<std::string> RaidManager::config_calls() const {
  std::vector<std::string> calls;
  calls.push_back(fmt::format(
      R"({{"method":"bdev_raid_set_options","params":{{"process_window_size_kb":{},"process_max_bandwidth_mb_sec":{},)"
      R"("no_leg_timeout_sec":{}}}}})",
      options_.process_window_size_kb, options_.process_max_bandwidth_mb_sec, options_.no_leg_timeout_sec));
  for (const auto& volume : volumes_) {
    if (volume->state() != VolumeState::configuring) continue;
    std::string call = volume->config_json();
    if (!call.empty()) calls.push_back(std::move(call));
  }
  return calls;
}

void RaidManager::end_waits() {
  for (const auto& volume : volumes_) volume->end_waits();
}

Task<void> RaidManager::stop() {
  events_.close();
  OneShot<bool> examined(registry_.main_reactor());
  examinations_.close([&examined] { examined.set(true); });
  co_await examined;
  while (!volumes_.empty()) {
    const std::shared_ptr<Volume> volume = volumes_.back();
    if (volume->deleting()) {
      co_await sleep_for(registry_.main_reactor(), 1'000'000);
      continue;
    }
    const Result<void> outcome = co_await volume->shut_down(false);
    if (!outcome) LOG_WARN("raid", "{}: {}", volume->name(), outcome.error().message());
  }
}

// --- Devices that appear
// -----------------------------------------------------------------------------------------------

void RaidManager::on_examine(const std::shared_ptr<Device>& device) {
  if (dynamic_cast<RaidDevice*>(device.get()) != nullptr || !device->claimed_by().empty()) return;
  if (device->info().read_only || examinations_.closed()) return;
  spawn(examine(device));
}

Task<void> RaidManager::examine(std::shared_ptr<Device> device) {
  const Gate::Pass pass(examinations_);
  if (!pass || device->removed() || !device->claimed_by().empty()) co_return;
  Result<std::unique_ptr<Channel>> channel = device->open_channel(registry_.main_reactor());
  if (!channel) co_return;
  Result<LegContents> found = co_await read_leg(**channel);
  close_when_idle(std::move(channel).value());
  if (device->removed() || !device->claimed_by().empty()) co_return;
  if (found && found->superblock) {
    co_await examine_superblock(device, std::move(found).value());
    co_return;
  }
  if (!found) LOG_WARN("raid", "{}", found.error().message());
  co_await join_by_name(device);
}

// A device without superblock may be what a volume without superblock waits for.
Task<void> RaidManager::join_by_name(std::shared_ptr<Device> device) {
  const std::vector<std::shared_ptr<Volume>> candidates = volumes_;
  for (const std::shared_ptr<Volume>& volume : candidates) {
    if (volume->state() != VolumeState::configuring || volume->deleting() || volume->creating()) continue;
    if (volume->sequence() != 0) continue;  // found by its superblocks: only those count
    for (const auto& slot : volume->slots()) {
      if (slot->role != SlotRole::expected || slot->present() || !answers_to(*device, *slot)) continue;
      Result<void> joined = volume->attach(*slot, device);
      if (joined) joined = co_await volume->go_online_if_complete();
      if (!joined) LOG_WARN("raid", "{}: {}", volume->name(), joined.error().message());
      co_return;
    }
  }
}

Task<void> RaidManager::examine_superblock(std::shared_ptr<Device> device, LegContents contents) {
  const spec::RaidSuperblock superblock = *contents.superblock;
  const DeviceInfo& info = device->info();
  const auto record = std::find_if(superblock.base_bdevs.begin(), superblock.base_bdevs.end(),
                                   [&](const spec::RaidBaseDisk& disk) { return disk.uuid == info.uuid; });
  std::string why;
  if (superblock.block_size != info.block_size) why = "its block size is another";
  if (superblock.uuid.is_nil() || superblock.level != spec::kRaidLevel1 || superblock.num_base_bdevs > kLegsMax)
    why = fmt::format("it is not a mirror of up to {} legs", kLegsMax);
  if (record == superblock.base_bdevs.end()) why = "it does not name this device";
  std::shared_ptr<Volume> volume = find(superblock.uuid);
  if (volume == nullptr && find(superblock.name) != nullptr) why = "another RAID volume has its name";
  if (volume != nullptr && (volume->deleting() || !volume->has_superblock()))
    why = "the volume is there in another form";
  if ((volume != nullptr && volume->creating()) ||
      std::find(assembling_.begin(), assembling_.end(), superblock.name) != assembling_.end())
    why = "the volume is just being put together";
  const bool newer = volume != nullptr && superblock.seq_number > volume->sequence();
  if (newer && volume->state() == VolumeState::online) why = "it is newer than that of the volume which is online";
  if (!why.empty()) {
    LOG_WARN("raid", "device '{}': its superblock of RAID volume '{}' is not used: {}", info.name, superblock.name,
             why);
    set_aside(device);
    co_return;
  }

  const bool renewed = newer || volume == nullptr;
  const bool was_online = volume != nullptr && volume->state() == VolumeState::online;
  if (newer) {
    // What was assembled so far follows an older superblock: begin anew by this one.
    for (const auto& slot : volume->slots())
      if (slot->present()) set_aside(slot->leg->device_ref());
    const Result<void> undone = co_await volume->shut_down(false);
    if (!undone) LOG_WARN("raid", "{}", undone.error().message());
    volume = find(superblock.uuid);
  }
  if (volume == nullptr) {
    volume = make_volume(superblock.name, superblock.uuid, true, superblock.num_base_bdevs);
    volume->expect_from(superblock);
  }
  const unsigned slot_index = record->slot;
  co_await rejoin(volume, device, slot_index, std::move(contents));
  const bool came_online = !was_online && volume->state() == VolumeState::online;
  if (renewed || came_online) co_await examine_set_aside();
}

void RaidManager::set_aside(const std::shared_ptr<Device>& device) {
  std::erase_if(set_aside_, [&](const auto& other) { return other.expired() || other.lock() == device; });
  set_aside_.push_back(device);
}

// What had no place in a volume may have one now that the volume is another, or online.
Task<void> RaidManager::examine_set_aside() {
  const std::vector<std::weak_ptr<Device>> before = std::exchange(set_aside_, {});
  for (const std::weak_ptr<Device>& one : before) {
    std::shared_ptr<Device> device = one.lock();
    if (device != nullptr) co_await examine(std::move(device));
  }
}

// `device` has a superblock of `volume`: it is a leg that is awaited, or one that left and is to be rebuilt.
Task<void> RaidManager::rejoin(std::shared_ptr<Volume> volume, std::shared_ptr<Device> device, unsigned slot_index,
                               LegContents contents) {
  if (slot_index >= volume->slots().size() || !device->claimed_by().empty() || device->removed()) co_return;
  Volume::Slot& slot = *volume->slots()[slot_index];
  const bool awaited = volume->state() == VolumeState::configuring && slot.role == SlotRole::expected &&
                       slot.uuid == device->info().uuid;
  // Who keeps the record of a volume's legs also says when one comes back.
  const bool returns = volume->state() == VolumeState::online && slot.role == SlotRole::empty &&
                       slot.recorded_uuid == device->info().uuid && !volume->managed();
  if (slot.present() || (!awaited && !returns)) {
    LOG_INFO("raid", "{}: device '{}' is not an active leg", volume->name(), device->name());
    set_aside(device);
    co_return;
  }
  Result<void> joined = volume->attach(slot, device);
  if (joined) {
    Volume::note_found(slot, contents);
    volume->start_next_rebuild();
    joined = co_await volume->go_online_if_complete();
  }
  if (!joined) LOG_WARN("raid", "{}: {}", volume->name(), joined.error().message());
}

}  // namespace diskengine::raid
