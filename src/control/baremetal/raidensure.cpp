#include "control/baremetal/raidensure.h"

#include <fmt/format.h>

#include "control/naming.h"

namespace diskengine::control {
namespace {

RaidPlan step_plan(RaidStep step, std::string bdev = {}) {
  RaidPlan plan;
  plan.step = step;
  plan.bdev = std::move(bdev);
  return plan;
}

RaidPlan wait_plan(std::string_view state, std::string reason) {
  RaidPlan plan;
  plan.status = make_status(state, std::move(reason));
  return plan;
}

// A stand-in bdev that no mirror uses any more, or an empty name.
std::string idle_stand_in(const AttachmentWish& wish, const ComputeView& view, const RaidView* raid) {
  for (const LegWish& leg : wish.legs) {
    std::string name = stand_in_name(wish.volume_id, leg.slot);
    if (view.bdev(name) != nullptr && (raid == nullptr || raid->leg(name) == nullptr)) return name;
  }
  return {};
}

RaidPlan plan_removal(const AttachmentWish& wish, const ComputeView& view) {
  const RaidView* raid = view.raid(wish.raid_name);
  if (raid != nullptr) {
    if (must_be_fenced(wish, *raid)) return step_plan(RaidStep::fence);
    if (view.vhost(wish.vhost_name) != nullptr)
      return wait_plan(state::kDeleting, fmt::format("waiting for {} to go", wish.vhost_name));
    return step_plan(RaidStep::delete_raid);
  }
  const std::string left_over = idle_stand_in(wish, view, raid);
  if (!left_over.empty()) return step_plan(RaidStep::delete_stand_in, left_over);
  return {};
}

RaidPlan plan_existing(const AttachmentWish& wish, const ComputeView& view, const RaidView& raid) {
  if (raid.epoch > wish.epoch)
    return wait_plan(
        state::kFailed,
        fmt::format("{} is held by epoch {}, the database has {}: it has lost what was in it, and nothing is "
                    "done with this volume before it is restored",
                    wish.raid_name, raid.epoch, wish.epoch));
  // Its superblocks were found, and it waits to be put together as the database says.
  if (wish.superblock && raid.state == "configuring") return {};
  // A mirror that lost all its legs, or one whose leg went away while it was put together, does not heal, nor does one
  // that was fenced, or stands under an earlier epoch: make it anew.
  const bool is_over = raid.is_fenced || (raid.epoch != 0 && raid.epoch != wish.epoch);
  if (raid.state != "online" || is_over) return step_plan(RaidStep::delete_raid);
  for (const LegWish& leg : wish.legs) {
    const std::string name = stand_in_name(wish.volume_id, leg.slot);
    if (raid.leg(name) != nullptr) return step_plan(RaidStep::remove_stand_in, name);
  }
  const std::string left_over = idle_stand_in(wish, view, &raid);
  if (!left_over.empty()) return step_plan(RaidStep::delete_stand_in, left_over);
  const bool is_held = raid.epoch == wish.epoch && raid.is_confirmed;
  if (view.abilities.holds_writes && !is_held) return step_plan(RaidStep::set_epoch);
  RaidPlan plan;
  plan.online = true;
  return plan;
}

// Why the mirror cannot be put together from this leg, or empty.
std::string size_trouble(const AttachmentWish& wish, const LegWish& leg, const ComputeView& view) {
  const BdevView* bdev = view.bdev(leg.bdev_name);
  if (bdev == nullptr ||
      (bdev->block_size == wish.block_size && bdev->num_blocks * bdev->block_size >= wish.replica_bytes))
    return {};
  return fmt::format(
      "{} shows {} blocks of {} bytes, the volume needs {} bytes in blocks of {}; its lvol is not the "
      "one that was made for it",
      leg.describe(), bdev->num_blocks, bdev->block_size, wish.replica_bytes, wish.block_size);
}

RaidPlan plan_creation(const AttachmentWish& wish, const ComputeView& view) {
  RaidPlan plan;
  if (wish.superblock) {
    if (!view.abilities.assembles)
      return wait_plan(
          state::kFailed,
          fmt::format("volume {} has superblocks, and this node's data plane has no diskengine_raid_assemble: "
                      "attach it on a node with diskengine-io",
                      wish.volume_name));
    plan.step = RaidStep::assemble;
    for (const LegWish& leg : wish.legs)
      if (leg.in_sync && leg_usable(leg, view)) plan.legs.push_back(leg.bdev_name);
    return plan;
  }
  plan.step = RaidStep::create;
  for (const LegWish& leg : wish.legs) {
    if (leg.in_sync && leg_usable(leg, view)) {
      plan.legs.push_back(leg.bdev_name);
      continue;
    }
    const std::string stand_in = stand_in_name(wish.volume_id, leg.slot);
    if (view.bdev(stand_in) == nullptr) return step_plan(RaidStep::create_stand_in, stand_in);
    plan.legs.push_back(stand_in);
  }
  return plan;
}

Result<void> run_step(LoopContext& context, const AttachmentWish& wish, const RaidPlan& plan) {
  DataPlane& data_plane = context.data_plane;
  switch (plan.step) {
    case RaidStep::exclude_missing: {
      TRY(context.store.change_in_sync({.volume_id = wish.volume_id,
                                        .epoch = wish.epoch,
                                        .version = wish.in_sync_version,
                                        .expected = wish.in_sync,
                                        .next = plan.in_sync}));
      return {};
    }
    case RaidStep::set_epoch:
      return data_plane.set_raid_epoch(wish.raid_name, wish.epoch);
    case RaidStep::fence:
      return data_plane.fence_raid(wish.raid_name, wish.volume_epoch);
    case RaidStep::create_stand_in:
      return data_plane.create_stand_in(
          {.name = plan.bdev, .num_blocks = wish.size_bytes / wish.block_size, .block_size = wish.block_size});
    case RaidStep::create: {
      // The last look: only under the epoch we hold, and only from the set that the plan was made from.
      TRY_ASSIGN(const bool is_held,
                 context.store.is_held(
                     {.volume_id = wish.volume_id, .epoch = wish.epoch, .writer = wish.id, .in_sync = wish.in_sync}));
      return is_held ? data_plane.create_raid1(wish.raid_name, plan.legs) : Result<void>();
    }
    case RaidStep::assemble: {
      TRY_ASSIGN(const bool is_held,
                 context.store.is_held(
                     {.volume_id = wish.volume_id, .epoch = wish.epoch, .writer = wish.id, .in_sync = wish.in_sync}));
      if (!is_held) return {};
      return data_plane.assemble_raid({.name = wish.raid_name,
                                       .uuid = wish.volume_uuid,
                                       .epoch = wish.epoch,
                                       .legs = plan.legs,
                                       .places = static_cast<int64_t>(wish.legs.size())});
    }
    case RaidStep::remove_stand_in:
      return data_plane.remove_leg(plan.bdev);
    case RaidStep::delete_stand_in:
      return data_plane.delete_stand_in(plan.bdev);
    case RaidStep::delete_raid:
      return data_plane.delete_raid(wish.raid_name);
    case RaidStep::none:
      break;
  }
  return {};
}

}  // namespace

bool must_be_fenced(const AttachmentWish& wish, const RaidView& raid) {
  return raid.state == "online" && wish.volume_epoch > raid.epoch && raid.epoch != 0 && !raid.is_fenced;
}

RaidPlan plan_raid(const AttachmentWish& wish, const ComputeView& view, int64_t waited_ms, const LoopLimits& limits) {
  if (!wish.wanted) return plan_removal(wish, view);
  if (const RaidView* raid = view.raid(wish.raid_name)) {
    RaidPlan existing = plan_existing(wish, view, *raid);
    if (existing != RaidPlan{}) return existing;
  }

  std::vector<int64_t> present;
  std::string missing;
  bool all_admitted = true;
  for (const LegWish& leg : wish.legs) {
    if (!leg.in_sync) continue;
    if (leg_usable(leg, view)) {
      const std::string trouble = size_trouble(wish, leg, view);
      if (!trouble.empty()) return wait_plan(state::kFailed, trouble);
      present.push_back(leg.replica_id);
    } else {
      missing += (missing.empty() ? "" : "; ") + leg_trouble(leg, view);
      all_admitted = all_admitted && leg.admitted;
    }
  }
  if (missing.empty()) return plan_creation(wish, view);
  if (present.empty() && !all_admitted) return wait_plan(state::kWaiting, missing);
  if (present.empty()) return wait_plan(state::kDown, "no replica with current data is reachable: " + missing);
  if (waited_ms < limits.leg_grace_ms)
    return wait_plan(state::kWaiting, fmt::format("{}; starting without it in {} s", missing,
                                                  (limits.leg_grace_ms - waited_ms + 999) / 1000));
  RaidPlan plan = step_plan(RaidStep::exclude_missing);
  plan.in_sync = present;
  return plan;
}

Result<RaidOutcome> ensure_raid(LoopContext& context, const AttachmentWish& wish, const ComputeView& view,
                                const std::string& connection_trouble) {
  const int64_t now_ms = context.environment.monotonic_ms();
  std::map<int64_t, int64_t>& waits = context.memory.raid_waits_since_ms;
  const auto waiting = waits.find(wish.id);
  const int64_t waited_ms = waiting == waits.end() ? 0 : now_ms - waiting->second;

  RaidPlan plan = plan_raid(wish, view, waited_ms, context.limits);
  if (plan.step == RaidStep::none && !plan.online && wish.wanted) {
    waits.try_emplace(wish.id, now_ms);
  } else {
    waits.erase(wish.id);
  }
  if (plan.step != RaidStep::none) {
    TRY_ASSIGN(const int taken, take_step(context, Kind::attachment, wish.id, "mirror " + wish.raid_name,
                                          [&] { return run_step(context, wish, plan); }));
    return RaidOutcome{.steps = taken, .online = false};
  }
  if (!plan.online && !plan.status.state.empty()) {
    if (!connection_trouble.empty() && plan.status.reason.find(connection_trouble) == std::string::npos)
      plan.status.reason += " (" + connection_trouble + ")";
    TRY(context.store.set_status(Kind::attachment, wish.id, plan.status));
  }
  return RaidOutcome{.steps = 0, .online = plan.online};
}

}  // namespace diskengine::control
