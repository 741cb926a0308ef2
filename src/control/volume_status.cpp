#include "control/volume_status.h"

#include <fmt/format.h>

#include <algorithm>

namespace diskengine::control {
namespace {

Status status_of(std::string_view state, std::string reason) { return {std::string(state), std::move(reason)}; }

struct ReplicaSummary {
  size_t total = 0;
  size_t ready = 0;
  size_t broken = 0;  // down or failed, not just on the way
  std::string troubles;
};

ReplicaSummary summarise(const Graph& graph, const Volume& volume) {
  ReplicaSummary summary;
  for (const VolumeLvolMapping* replica : graph.replicas_of(volume.id)) {
    ++summary.total;
    if (replica->status.state == state::kReady) {
      ++summary.ready;
      continue;
    }
    if (replica->status.state == state::kDown || replica->status.state == state::kFailed) ++summary.broken;
    const Node* node = graph.node_of(*replica);
    if (!summary.troubles.empty()) summary.troubles += "; ";
    summary.troubles += fmt::format("replica {} on {} is {}: {}", replica->id, node != nullptr ? node->name : "?",
                                    replica->status.state, replica->status.reason);
  }
  return summary;
}

bool all_provisioned(const Graph& graph, const Volume& volume) {
  const auto replicas = graph.replicas_of(volume.id);
  return std::all_of(replicas.begin(), replicas.end(), [&](const VolumeLvolMapping* replica) {
    const Lvol* lvol = graph.lvol(replica->lvol_id);
    return lvol != nullptr && lvol->provisioned;
  });
}

}  // namespace

Status volume_status(const Graph& graph, const Volume& volume) {
  const ReplicaSummary summary = summarise(graph, volume);
  if (!volume.wanted)
    return status_of(state::kDeleting, fmt::format("{} of its replicas are still to be removed", summary.total));
  const bool is_new = volume.epoch == 0 && summary.broken == 0 && summary.ready < summary.total;
  if (is_new || !all_provisioned(graph, volume))
    return status_of(state::kWorking, "making its replicas: " + summary.troubles);

  const VolumeVmMapping* attachment = graph.attachment_of(volume.id);
  const bool is_used = attachment != nullptr && attachment->wanted;
  if (is_used && (attachment->status.state == state::kRebuilding || attachment->status.state == state::kDown))
    return status_of(attachment->status.state,
                     fmt::format("attachment {}: {}", attachment->id, attachment->status.reason));
  if (summary.ready == 0) return status_of(state::kDown, summary.troubles);
  if (summary.ready < summary.total) return status_of(state::kDegraded, summary.troubles);
  if (volume.in_sync.size() < summary.total)
    return status_of(
        state::kDegraded,
        fmt::format("{} of {} replicas hold the current data; {}", volume.in_sync.size(), summary.total,
                    is_used ? "the others are rebuilt" : "the others are rebuilt when it is attached again"));
  return status_of(state::kReady, {});
}

}  // namespace diskengine::control
