#include "control/api/recovery.h"

#include <fmt/chrono.h>
#include <fmt/format.h>

#include <algorithm>

namespace diskengine::control {
namespace {

bool is_in_sync(const Volume& volume, const VolumeLvolMapping& replica) {
  return std::find(volume.in_sync.begin(), volume.in_sync.end(), replica.id) != volume.in_sync.end();
}

constexpr int64_t kSilentMs = 30'000;  // a node that was not seen for so long is taken for gone

// Its node says so, or has not been heard of: then nobody is there to say it.
bool is_away(const Graph& graph, const VolumeLvolMapping& replica, int64_t now_ms) {
  const Node* node = graph.node_of(replica);
  const bool is_silent = node == nullptr || now_ms - node->seen_ms > kSilentMs;
  return is_silent || replica.status.state == state::kDown || replica.status.state == state::kFailed;
}

std::string named(const Graph& graph, const VolumeLvolMapping& replica) {
  const Node* node = graph.node_of(replica);
  return fmt::format("replica {} on {}", replica.id, node != nullptr ? node->name : "?");
}

std::string loss(const VolumeLvolMapping& replica, int64_t now_ms) {
  if (replica.left_ms == 0) return "what was acknowledged to the guest since it left the others, nobody knows when";
  return fmt::format("what was acknowledged to the guest after {:%Y-%m-%dT%H:%M:%SZ}, {} s ago",
                     fmt::gmtime(static_cast<std::time_t>(replica.left_ms / 1000)), (now_ms - replica.left_ms) / 1000);
}

Result<const VolumeLvolMapping*> choose(const Graph& graph, const Volume& volume, int64_t wanted, int64_t now_ms) {
  std::vector<const VolumeLvolMapping*> candidates;
  std::string list;
  for (const VolumeLvolMapping* replica : graph.replicas_of(volume.id)) {
    const Lvol* lvol = graph.lvol(replica->lvol_id);
    if (is_in_sync(volume, *replica) || is_away(graph, *replica, now_ms) || lvol == nullptr || !lvol->provisioned)
      continue;
    if (replica->id == wanted) return replica;
    candidates.push_back(replica);
    list += (list.empty() ? "" : ", ") + named(graph, *replica);
  }
  if (wanted != 0)
    return Error(Errc::invalid_argument,
                 fmt::format("replica {} is not one that volume {} can go on with; those are: {}", wanted, volume.name,
                             list.empty() ? "none" : list));
  if (candidates.empty())
    return Error(Errc::conflict, fmt::format("no other replica of volume {} is reachable: start the storage nodes that "
                                             "`diskengine volume show {}` names",
                                             volume.name, volume.name));
  if (candidates.size() > 1)
    return Error(Errc::invalid_argument, "choose one of them with --replica, they may differ: " + list);
  return candidates[0];
}

}  // namespace

Result<RecoveryPlan> plan_recovery(const Graph& graph, const Volume& volume, const RecoveryRequest& request,
                                   int64_t now_ms) {
  if (!volume.wanted) return Error(Errc::conflict, fmt::format("volume {} is being deleted", volume.name));
  for (const VolumeLvolMapping* replica : graph.replicas_of(volume.id))
    if (is_in_sync(volume, *replica) && !is_away(graph, *replica, now_ms))
      return Error(Errc::conflict,
                   fmt::format("{} holds the current data of volume {} and is {}: nothing has to be lost",
                               named(graph, *replica), volume.name, replica->status.state));
  TRY_ASSIGN(const VolumeLvolMapping* const chosen, choose(graph, volume, request.replica_id, now_ms));
  RecoveryPlan plan;
  const std::string lost = loss(*chosen, now_ms);
  plan.steps.push_back(fmt::format("volume {} goes on with {} alone, under epoch {}: {} is lost", volume.name,
                                   named(graph, *chosen), volume.epoch + 1, lost));
  for (const VolumeLvolMapping* replica : graph.replicas_of(volume.id))
    if (replica != chosen)
      plan.steps.push_back(fmt::format("{} is written over with it once it is reachable", named(graph, *replica)));
  if (volume.writer != 0)
    plan.steps.push_back("the guest's disk fails what it has under way, and goes on with that data");
  plan.recovery = {.volume_id = volume.id,
                   .epoch = volume.epoch,
                   .version = volume.in_sync_version,
                   .replica_id = chosen->id,
                   .lost = fmt::format("{} counts instead of {}, by an operator's word: {} is lost",
                                       named(graph, *chosen), fmt::join(volume.in_sync, ", "), lost)};
  return plan;
}

}  // namespace diskengine::control
