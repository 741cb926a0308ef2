#include "control/baremetal/baremetal_health.h"

#include <fmt/chrono.h>
#include <fmt/format.h>

#include <ctime>

namespace diskengine::control {
namespace {

bool holds_current_data(const LegWish& leg, const RaidView& raid) {
  const RaidLegView* place = raid.leg(leg.bdev_name);
  return place != nullptr && place->holds_everything() && raid.process_target != leg.bdev_name;
}

void append(std::string* list, const std::string& item) { *list += (list->empty() ? "" : "; ") + item; }

std::string time_of(int64_t unix_ms) {
  return fmt::format("{:%Y-%m-%d %H:%M:%S} UTC", fmt::gmtime(static_cast<std::time_t>(unix_ms / 1000)));
}

// Nothing is done about either here: legs come back by themselves, and what may be lost is for a person to weigh.
std::string why_io_waits(const std::string& volume, const RaidView& raid) {
  if (raid.is_stopped)
    return fmt::format(
        "{} stopped: {}; the guest waits. `diskengine volume resume {}` says what may be missing, and lets it go on",
        raid.name, raid.stop_reason, volume);
  return fmt::format(
      "no replica with the current data can be reached since {}: the guest's I/O {}; bring a storage node "
      "back, or the network to it",
      time_of(raid.waiting_since_unix_ms),
      raid.has_given_up ? fmt::format("waited {} s and fails now", raid.waiting_limit_s)
                        : fmt::format("waits, at most {} s", raid.waiting_limit_s));
}

// Ready, or what is amiss with which leg.
void plan_status(const AttachmentWish& wish, const ComputeView& view, const RaidView& raid, HealthPlan* plan) {
  std::string trouble;
  if (raid.is_stopped || raid.is_waiting) {
    plan->status = make_status(state::kDown, why_io_waits(wish.volume_name, raid));
    return;
  }
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
