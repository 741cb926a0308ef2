// Putting a volume together by the record that somebody else keeps of its legs (raid/manager.h: assemble): look at the
// named legs, decide (raid/assembly.h), make way, act.
#include <fmt/format.h>

#include <algorithm>

#include "base/log.h"
#include "raid/manager.h"

namespace diskengine::raid {
namespace {

bool serves_from(const Volume::Slot& slot) { return slot.role == SlotRole::in_sync && !slot.excluding; }

}  // namespace

Result<void> RaidManager::check(const AssembleOptions& options) const {
  const auto invalid = [&](const std::string& why) {
    return Error(Errc::invalid_argument, fmt::format("RAID volume '{}': {}", options.name, why));
  };
  if (options.name.empty() || options.name.size() >= spec::kRaidNameBytes)
    return invalid(fmt::format("a name has 1 to {} bytes", spec::kRaidNameBytes - 1));
  if (options.epoch == 0) return invalid("epochs begin at 1");
  if (options.slots != 0 && (options.slots < kLegsMin || options.slots > kLegsMax))
    return invalid(fmt::format("a mirror has {} to {} legs, not {}", kLegsMin, kLegsMax, options.slots));
  const size_t most = options.slots != 0 ? options.slots : kLegsMax;
  if (options.base_bdevs.empty() || options.base_bdevs.size() > most)
    return invalid(fmt::format("{} base bdevs are named, not 1 to {}", options.base_bdevs.size(), most));
  if (std::find(assembling_.begin(), assembling_.end(), options.name) != assembling_.end())
    return Error(Errc::busy, fmt::format("RAID volume '{}' is just being put together", options.name));
  return {};
}

Task<Result<void>> RaidManager::assemble(AssembleOptions options) {
  CO_TRY(check(options));
  if (const auto volume = find(options.name); volume != nullptr && volume->state() == VolumeState::online) {
    Result<void> same = co_await reassemble(volume, std::move(options));
    co_return same;
  }
  const std::string name = options.name;
  assembling_.push_back(name);
  Result<void> outcome = co_await look_and_assemble(std::move(options));
  std::erase(assembling_, name);
  co_return outcome;
}

Task<Result<void>> RaidManager::look_and_assemble(AssembleOptions options) {
  Result<std::vector<NamedLeg>> legs = co_await look_at(options);
  CO_TRY(legs);
  Result<AssemblyPlan> plan = plan_assembly(options, std::move(legs).value());
  CO_TRY(plan);
  Result<void> outcome = co_await carry_out(std::move(options), std::move(plan).value());
  co_return outcome;
}

// The volume is online: is it what was asked for?
Task<Result<void>> RaidManager::reassemble(std::shared_ptr<Volume> volume, AssembleOptions options) {
  if (!options.uuid.is_nil() && options.uuid != volume->uuid())
    co_return Error(Errc::already_exists, fmt::format("the name '{}' is taken by the RAID volume {}", options.name,
                                                      volume->uuid().to_string()));
  std::vector<const Volume::Slot*> named;
  for (const std::string& name : options.base_bdevs) {
    const Result<std::shared_ptr<Device>> device = registry_.find(name);
    const Volume::Slot* slot = device ? volume->slot_of_device(**device) : nullptr;
    if (slot != nullptr) named.push_back(slot);
  }
  bool same = volume->has_superblock() && named.size() == options.base_bdevs.size();
  for (const auto& slot : volume->slots())
    same = same && (!serves_from(*slot) || std::find(named.begin(), named.end(), slot.get()) != named.end());
  if (!same)
    co_return Error(Errc::already_exists,
                    fmt::format("'{}' is online with other legs than those named: delete it first, or add and remove "
                                "base bdevs",
                                options.name));
  Result<void> set = co_await volume->set_epoch(options.epoch, options.confirm_exclusions);
  co_return set;
}

Task<Result<std::vector<NamedLeg>>> RaidManager::look_at(const AssembleOptions& options) {
  std::vector<NamedLeg> legs;
  for (const std::string& name : options.base_bdevs) {
    const Result<std::shared_ptr<Device>> device = registry_.find(name);
    CO_TRY(device);
    const std::string owner = (*device)->claimed_by();
    const std::shared_ptr<Volume> holder = find(owner);
    const bool waiting = holder != nullptr && owner == options.name && holder->state() == VolumeState::configuring;
    if (!owner.empty() && !waiting)
      co_return Error(Errc::busy, fmt::format("base bdev '{}' is claimed by {}", name, owner));
    for (const NamedLeg& other : legs)
      if (other.device == *device)
        co_return Error(Errc::invalid_argument, fmt::format("base bdev '{}' is named twice", name));
    Result<NamedLeg> leg = co_await look_at(*device);
    if (!leg) co_return leg.error().with_context(fmt::format("base bdev '{}'", name));
    legs.push_back(std::move(leg).value());
  }
  co_return legs;
}

Task<Result<NamedLeg>> RaidManager::look_at(std::shared_ptr<Device> device) {
  Result<std::unique_ptr<Channel>> channel = device->open_channel(registry_.main_reactor());
  CO_TRY(channel);
  Result<LegContents> contents = co_await read_leg(**channel);
  Result<bool> blank = false;
  if (contents && !contents->superblock) blank = co_await is_blank(**channel);
  close_when_idle(std::move(channel).value());
  CO_TRY(contents);
  CO_TRY(blank);
  co_return NamedLeg{.device = std::move(device), .contents = std::move(contents).value(), .blank = *blank};
}

// What examination has put together so far, and waits for more, is given up: returns its legs.
Task<Result<std::vector<std::shared_ptr<Device>>>> RaidManager::make_way(const AssembleOptions& options, Uuid uuid) {
  std::vector<std::shared_ptr<Device>> released;
  const std::shared_ptr<Volume> waiting = find(options.name);
  if (waiting != nullptr) {
    if (waiting->state() != VolumeState::configuring || waiting->creating() ||
        (!uuid.is_nil() && waiting->uuid() != uuid))
      co_return Error(Errc::already_exists, fmt::format("the name '{}' is taken by the RAID volume {}", options.name,
                                                        waiting->uuid().to_string()));
    for (const auto& slot : waiting->slots())
      if (slot->present()) released.push_back(slot->leg->device_ref());
    const Result<void> gone = co_await waiting->shut_down(false);
    CO_TRY(gone);
  }
  co_return released;
}

Task<Result<void>> RaidManager::carry_out(AssembleOptions options, AssemblyPlan plan) {
  const Result<std::vector<std::shared_ptr<Device>>> released = co_await make_way(options, plan.uuid);
  CO_TRY(released);
  Result<void> outcome = co_await bring_online(options, plan);
  if (outcome) co_return outcome;
  std::erase(assembling_, options.name);
  for (const std::shared_ptr<Device>& device : *released) on_examine(device);  // wait as before
  co_return outcome;
}

Task<Result<void>> RaidManager::bring_online(const AssembleOptions& options, const AssemblyPlan& plan) {
  const Uuid uuid = plan.uuid.is_nil() ? random_.uuid() : plan.uuid;
  if (find(options.name) != nullptr || registry_.find(options.name))
    co_return Error(Errc::already_exists, fmt::format("the name '{}' is taken", options.name));
  if (find(uuid) != nullptr || registry_.find(uuid.to_string()))
    co_return Error(Errc::already_exists, fmt::format("the UUID {} is taken", uuid.to_string()));
  const std::shared_ptr<Volume> volume = make_volume(options.name, uuid, true, plan.slots);
  volume->set_creating(true);
  volume->assembled_under(options.epoch, options.confirm_exclusions);
  Result<void> outcome = attach_named(*volume, plan);
  if (outcome) outcome = co_await volume->go_online_if_complete();
  if (outcome && volume->state() != VolumeState::online) {
    outcome = Error(Errc::no_device, fmt::format("{}: a base bdev went away meanwhile", options.name));
    for (const auto& slot : volume->slots())
      if (!slot->present() && slot->attachments > 0)
        outcome = Error(Errc::io_error, fmt::format("{}: slot {}: {}", options.name, slot->index, slot->reason));
  }
  if (!outcome && !volume->deleting()) {
    const Result<void> undone = co_await volume->shut_down(false);
    if (!undone) LOG_WARN("raid", "{}: {}", volume->name(), undone.error().message());
  }
  volume->set_creating(false);
  co_return outcome;
}

Result<void> RaidManager::attach_named(Volume& volume, const AssemblyPlan& plan) {
  std::vector<Uuid> legs;
  for (const NamedLeg& leg : plan.legs) legs.push_back(leg.device->info().uuid);
  if (plan.superblock) {
    volume.expect_only(*plan.superblock, legs, plan.sequence);
  } else {
    for (unsigned i = 0; i < legs.size(); ++i) volume.expect(i, plan.legs[i].device->name(), legs[i]);
  }
  for (const NamedLeg& leg : plan.legs) {
    const auto slot = std::find_if(volume.slots().begin(), volume.slots().end(), [&](const auto& candidate) {
      return candidate->role == SlotRole::expected && candidate->uuid == leg.device->info().uuid;
    });
    if (slot == volume.slots().end())
      return Error(Errc::invalid_argument,
                   fmt::format("'{}' has the UUID of another leg of {}", leg.device->name(), volume.name()));
    TRY(volume.attach(**slot, leg.device));
    Volume::note_found(**slot, leg.contents);
  }
  return {};
}

}  // namespace diskengine::raid
