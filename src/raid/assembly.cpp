#include "raid/assembly.h"

#include <fmt/format.h>

#include <algorithm>
#include <utility>

#include "raid/mutation.h"
#include "raid/view.h"

namespace diskengine::raid {
namespace {

Error refuse(Errc code, const AssembleOptions& options, const std::string& why) {
  return Error(code, fmt::format("RAID volume '{}' cannot be put together: {}", options.name, why));
}

// An epoch counts before a sequence: a writer that was cut off may have gone on to number its own superblocks.
bool newer(const LegContents& a, const LegContents& b) {
  return std::pair(a.epoch(), a.sequence()) > std::pair(b.epoch(), b.sequence());
}

// Whether the leg may be one of this volume at all.
Result<void> check_leg(const AssembleOptions& options, const NamedLeg& leg) {
  const std::string& name = leg.device->name();
  if (leg.device->info().uuid.is_nil())
    return refuse(Errc::invalid_argument, options, fmt::format("'{}' has no UUID for the superblock", name));
  if (leg.device->read_only()) return refuse(Errc::invalid_argument, options, fmt::format("'{}' is read-only", name));
  if (!leg.contents.superblock) {
    if (leg.blank) return {};
    return refuse(Errc::already_exists, options,
                  fmt::format("'{}' holds somebody else's data: name another bdev, or clear its first 128 KiB", name));
  }
  const spec::RaidSuperblock& found = *leg.contents.superblock;
  if (found.name != options.name || (!options.uuid.is_nil() && found.uuid != options.uuid))
    return refuse(
        Errc::already_exists, options,
        fmt::format("'{}' holds a leg of the RAID volume '{}' ({}): name another bdev, or clear its first blocks", name,
                    found.name, found.uuid.to_string()));
  const bool old_epoch = !mutated(Mutation::old_epoch) && leg.contents.epoch() > options.epoch;
  if (old_epoch)
    return refuse(Errc::conflict, options,
                  fmt::format("'{}' was written in epoch {}: epoch {} is over; ask for the volume's epoch again", name,
                              leg.contents.epoch(), options.epoch));
  return {};
}

// Whether the superblock describes something that this mirror can be.
Result<void> check_superblock(const AssembleOptions& options, const spec::RaidSuperblock& superblock) {
  const auto invalid = [&](const std::string& why) { return refuse(Errc::invalid_argument, options, why); };
  if (superblock.uuid.is_nil() || superblock.level != spec::kRaidLevel1 || superblock.num_base_bdevs > kLegsMax)
    return invalid(fmt::format("its superblock is not that of a mirror of up to {} legs", kLegsMax));
  if (options.slots != 0 && options.slots != superblock.num_base_bdevs)
    return invalid(fmt::format("its superblock says {} legs, not {}", superblock.num_base_bdevs, options.slots));
  unsigned seen = 0;
  for (const spec::RaidBaseDisk& record : superblock.base_bdevs) {
    if ((seen & 1u << record.slot) != 0) return invalid(fmt::format("its superblock names slot {} twice", record.slot));
    seen |= 1u << record.slot;
  }
  return {};
}

// Where the superblock has the leg, if it fits there.
Result<const spec::RaidBaseDisk*> place_of(const AssembleOptions& options, const spec::RaidSuperblock& superblock,
                                           const NamedLeg& leg) {
  const DeviceInfo& info = leg.device->info();
  const auto record = std::find_if(superblock.base_bdevs.begin(), superblock.base_bdevs.end(),
                                   [&](const spec::RaidBaseDisk& disk) { return disk.uuid == info.uuid; });
  const auto invalid = [&](const std::string& why) { return refuse(Errc::invalid_argument, options, why); };
  if (record == superblock.base_bdevs.end())
    return invalid(
        fmt::format("the newest superblock does not name '{}' ({}): leave it out, and add it once the volume "
                    "is online",
                    info.name, info.uuid.to_string()));
  if (info.block_size != superblock.block_size)
    return invalid(fmt::format("'{}' has blocks of {} bytes, the volume of {}", info.name, info.block_size,
                               superblock.block_size));
  const uint64_t size = leg.device->size_blocks();
  if (record->data_offset >= size || size - record->data_offset < superblock.raid_size)
    return invalid(fmt::format("'{}' has {} blocks; {} before the data and {} for it are needed", info.name, size,
                               record->data_offset, superblock.raid_size));
  return &*record;
}

// Who is on record as in sync was so by its own superblock at least: then it holds all that was acknowledged, though
// the others may have called it out meanwhile, which never got on record.
Result<void> check_in_sync(const AssembleOptions& options, const AssemblyPlan& plan, const spec::RaidBaseDisk& place,
                           const NamedLeg& leg) {
  const std::string& name = leg.device->name();
  if (!leg.contents.superblock && plan.sequence > kSequenceOfCreation)
    return refuse(
        Errc::conflict, options,
        fmt::format("'{}' holds nothing of it: take it off the record, and add it once the volume is online", name));
  const bool in_sync = !leg.contents.superblock || place.state == spec::RaidBaseState::configured ||
                       leg.contents.configured(leg.device->info().uuid);
  if (in_sync) return {};
  return refuse(
      Errc::conflict, options,
      fmt::format("'{}' is not in sync by the newest superblock (sequence {}) nor by its own ({}): take it off "
                  "the record, and add it once the volume is online",
                  name, plan.superblock->seq_number, leg.contents.sequence()));
}

Result<AssemblyPlan> plan_new(const AssembleOptions& options, std::vector<NamedLeg> legs) {
  if (!options.create)
    return refuse(Errc::not_found, options, "the named base bdevs are blank, and no new volume is to be made");
  AssemblyPlan plan;
  plan.uuid = options.uuid;
  plan.slots = options.slots != 0 ? options.slots : static_cast<unsigned>(legs.size());
  if (plan.slots < kLegsMin)
    return refuse(Errc::invalid_argument, options, fmt::format("a mirror has {} to {} legs", kLegsMin, kLegsMax));
  plan.legs = std::move(legs);
  return plan;
}

}  // namespace

Result<AssemblyPlan> plan_assembly(const AssembleOptions& options, std::vector<NamedLeg> legs) {
  const NamedLeg* newest = nullptr;
  for (const NamedLeg& leg : legs) {
    TRY(check_leg(options, leg));
    if (!leg.contents.superblock) continue;
    if (newest != nullptr && newest->contents.superblock->uuid != leg.contents.superblock->uuid)
      return refuse(Errc::already_exists, options,
                    fmt::format("'{}' and '{}' are legs of two volumes of that name: say which by its uuid",
                                newest->device->name(), leg.device->name()));
    if (newest == nullptr || newer(leg.contents, newest->contents)) newest = &leg;
  }
  if (newest == nullptr) return plan_new(options, std::move(legs));

  AssemblyPlan plan;
  plan.superblock = newest->contents.superblock;
  plan.uuid = plan.superblock->uuid;
  plan.slots = plan.superblock->num_base_bdevs;
  TRY(check_superblock(options, *plan.superblock));
  for (const NamedLeg& leg : legs) plan.sequence = std::max(plan.sequence, leg.contents.sequence());
  for (const NamedLeg& leg : legs) {
    TRY_ASSIGN(const spec::RaidBaseDisk* place, place_of(options, *plan.superblock, leg));
    TRY(check_in_sync(options, plan, *place, leg));
  }
  plan.legs = std::move(legs);
  return plan;
}

}  // namespace diskengine::raid
