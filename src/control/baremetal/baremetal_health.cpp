#include "control/baremetal/baremetal_health.h"

#include <fmt/format.h>

namespace diskengine::control {
namespace {

bool holds_current_data(const LegWish& leg, const RaidView& raid) {
  const RaidLegView* place = raid.leg(leg.bdev_name);
  return place != nullptr && place->holds_everything() && raid.process_target != leg.bdev_name;
}

void append(std::string* list, const std::string& item) { *list += (list->empty() ? "" : "; ") + item; }

// Ready, or what is amiss with which leg.
void plan_status(const AttachmentWish& wish, const ComputeView& view, const RaidView& raid, HealthPlan* plan) {
  std::string trouble;
  for (const LegWish& leg : wish.legs) {
    if (raid.process_target == leg.bdev_name && !leg.bdev_name.empty()) {
      plan->rebuild_percent = raid.process_percent;
      append(&trouble, fmt::format("rebuilding {}: {} %", leg.describe(), raid.process_percent));
    } else if (!leg_usable(leg, view)) {
      append(&trouble, leg_trouble(leg, view));
    } else if (raid.leg(leg.bdev_name) == nullptr) {
      append(&trouble, fmt::format("{} is out of the mirror; it comes back by rebuild", leg.describe()));
    }
  }
  if (trouble.empty()) {
    plan->status = make_status(state::kReady);
  } else {
    plan->status = make_status(plan->rebuild_percent >= 0 ? state::kRebuilding : state::kDegraded, trouble);
  }
}

Result<void> run_step(LoopContext& context, const AttachmentWish& wish, const HealthPlan& plan) {
  if (plan.step == HealthStep::add_leg) return context.data_plane.add_leg(wish.raid_name, plan.bdev);
  TRY(context.store.change_in_sync({.volume_id = wish.volume_id,
                                    .epoch = wish.epoch,
                                    .version = wish.in_sync_version,
                                    .expected = wish.in_sync,
                                    .next = plan.in_sync}));
  return {};
}

}  // namespace

HealthPlan plan_health(const AttachmentWish& wish, const ComputeView& view, const RaidView& raid) {
  HealthPlan plan;
  plan_status(wish, view, raid, &plan);
  for (const LegWish& leg : wish.legs)
    if (holds_current_data(leg, raid)) plan.in_sync.push_back(leg.replica_id);
  // The record comes first: a leg that is about to be written over by a rebuild is no longer in sync.
  if (plan.in_sync != wish.in_sync && !plan.in_sync.empty()) {
    plan.step = HealthStep::record_in_sync;
    return plan;
  }
  if (!raid.process_type.empty()) return plan;
  for (const LegWish& leg : wish.legs) {
    if (raid.leg(leg.bdev_name) != nullptr || !leg_usable(leg, view)) continue;
    plan.step = HealthStep::add_leg;
    plan.bdev = leg.bdev_name;
    return plan;
  }
  return plan;
}

Result<int> run_health_iteration(LoopContext& context, const AttachmentWish& wish, const ComputeView& view,
                                 int64_t recorded_percent) {
  const RaidView* raid = view.raid(wish.raid_name);
  if (raid == nullptr) return 0;
  const HealthPlan plan = plan_health(wish, view, *raid);
  if (plan.rebuild_percent != recorded_percent) TRY(context.store.set_rebuild_percent(wish.id, plan.rebuild_percent));
  TRY(context.store.set_status(Kind::attachment, wish.id, plan.status));
  if (plan.step == HealthStep::none) return 0;
  return take_step(context, Kind::attachment, wish.id, "health " + wish.raid_name,
                   [&] { return run_step(context, wish, plan); });
}

}  // namespace diskengine::control
