#include "control/baremetal/exclusions.h"

#include <fmt/format.h>

#include <algorithm>

#include "base/log.h"
#include "control/naming.h"

namespace diskengine::control {
namespace {

constexpr int kTries = 4;  // of a compare-and-set that others were quicker with; then it is pending

bool contains(const std::vector<std::string>& list, const std::string& item) {
  return std::find(list.begin(), list.end(), item) != list.end();
}

const Volume* volume_of(const Graph& graph, const RaidView& raid) {
  for (const Volume& volume : graph.volumes)
    if (raid_bdev_name(volume.id) == raid.name) return &volume;
  return nullptr;
}

// Which replicas remain when the wanted legs have left. A leg that came back and is not recorded yet counts only when
// no other is left: then it is what the mirror goes on with.
std::vector<int64_t> remaining_replicas(const Graph& graph, const Volume& volume, const RaidView& raid) {
  std::vector<int64_t> recorded;
  std::vector<int64_t> in_mirror;
  for (const VolumeLvolMapping* replica : graph.replicas_of(volume.id)) {
    const std::string leg_name = base_bdev_name_from_nqn(replica->nqn);
    if (contains(raid.exclusions_wanted, leg_name)) continue;
    if (std::find(volume.in_sync.begin(), volume.in_sync.end(), replica->id) != volume.in_sync.end())
      recorded.push_back(replica->id);
    const RaidLegView* leg = raid.leg(leg_name);
    const bool is_current = leg != nullptr && leg->holds_everything() && raid.process_target != leg_name;
    if (is_current && replica->fenced_epoch == volume.epoch) in_mirror.push_back(replica->id);
  }
  return recorded.empty() ? in_mirror : recorded;
}

bool is_silent(const Error& error) { return error.code() == Errc::unreachable || error.code() == Errc::timed_out; }

// Confirms every leg of the plan; empty, or why one was refused.
Result<std::string> confirm(DataPlane& data_plane, const RaidView& raid, const ExclusionPlan& plan) {
  for (const std::string& leg : plan.legs) {
    const Result<void> confirmed = data_plane.confirm_exclusion(raid.name, raid.epoch, leg);
    if (confirmed || confirmed.error().code() == Errc::no_device) continue;
    if (is_silent(confirmed.error())) return confirmed.error();
    return fmt::format("{}: {}", raid.name, confirmed.error().message());
  }
  LOG_INFO("control", "{}: the exclusion of {} is on record (replicas {} remain) and confirmed", raid.name,
           fmt::join(plan.legs, ", "), fmt::join(plan.change.next, ", "));
  return std::string();
}

Result<std::string> fence(DataPlane& data_plane, const RaidView& raid, int64_t later_epoch) {
  LOG_WARN("control", "{}: epoch {} is over, {} began: its writer is stopped", raid.name, raid.epoch, later_epoch);
  const Result<void> fenced = data_plane.fence_raid(raid.name, later_epoch);
  if (fenced || fenced.error().code() == Errc::no_device) return std::string();
  if (is_silent(fenced.error())) return fenced.error();
  return fmt::format("{}: {}", raid.name, fenced.error().message());
}

// Empty when nothing of this mirror waits any more; else why it does.
Result<std::string> settle(Store& store, DataPlane& data_plane, const RaidView& raid, int* steps) {
  std::string trouble;
  for (int i = 0; i < kTries; ++i) {
    const Result<Graph> graph = store.load_graph();
    if (!graph) return fmt::format("{} waits for an exclusion: {}", raid.name, graph.error().message());
    const ExclusionPlan plan = plan_exclusion(*graph, raid);
    if (plan.step == ExclusionStep::none) return plan.trouble;
    if (plan.step == ExclusionStep::fence) {
      ++*steps;
      return fence(data_plane, raid, plan.later_epoch);
    }
    const Result<bool> is_recorded = store.change_in_sync(plan.change);
    if (is_recorded && *is_recorded) {
      ++*steps;
      return confirm(data_plane, raid, plan);
    }
    // Lost to another decision, or nobody knows: what the row says now decides.
    trouble = fmt::format("{} waits for an exclusion to be recorded: {}", raid.name,
                          is_recorded ? "others decide about the same set" : is_recorded.error().message());
  }
  return trouble;
}

}  // namespace

ExclusionPlan plan_exclusion(const Graph& graph, const RaidView& raid) {
  ExclusionPlan plan;
  if (raid.exclusions_wanted.empty() || raid.epoch == 0 || raid.is_fenced) return plan;
  const Volume* volume = volume_of(graph, raid);
  if (volume == nullptr) return plan;  // somebody else's
  if (volume->epoch > raid.epoch) {
    plan.step = ExclusionStep::fence;
    plan.later_epoch = volume->epoch;
    return plan;
  }
  if (volume->epoch < raid.epoch) {
    plan.trouble = fmt::format("{} waits for an exclusion in epoch {}, the database has epoch {}: nothing is decided",
                               raid.name, raid.epoch, volume->epoch);
    return plan;
  }
  std::vector<int64_t> next = remaining_replicas(graph, *volume, raid);
  if (next.empty()) {
    plan.trouble = fmt::format("{} waits for the exclusion of its last replica: nothing is decided", raid.name);
    return plan;
  }
  plan.step = ExclusionStep::exclude;
  plan.change = {.volume_id = volume->id,
                 .epoch = volume->epoch,
                 .version = volume->in_sync_version,
                 .expected = volume->in_sync,
                 .next = std::move(next)};
  plan.legs = raid.exclusions_wanted;
  return plan;
}

Result<ExclusionOutcome> settle_exclusions(Store& store, DataPlane& data_plane, const std::vector<RaidView>& raids) {
  ExclusionOutcome outcome;
  for (const RaidView& raid : raids) {
    if (raid.exclusions_wanted.empty() || raid.is_fenced) continue;
    TRY_ASSIGN(std::string trouble, settle(store, data_plane, raid, &outcome.steps));
    if (trouble.empty()) continue;
    ++outcome.pending;
    outcome.trouble = std::move(trouble);
  }
  return outcome;
}

}  // namespace diskengine::control
