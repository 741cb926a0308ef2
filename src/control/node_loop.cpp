#include "control/node_loop.h"

#include <fmt/format.h>

#include <utility>

#include "base/log.h"
#include "control/baremetal/attach.h"
#include "control/baremetal/baremetal_health.h"
#include "control/baremetal/exclusions.h"
#include "control/baremetal/nvme_attach.h"
#include "control/baremetal/raidensure.h"
#include "control/storagenode/disk_init.h"
#include "control/storagenode/nvmeofexport.h"
#include "control/storagenode/provisionlvol.h"
#include "control/volume_status.h"

namespace diskengine::control {
namespace {

constexpr int kMaxPassesPerRun = 64;           // then the other nodes and a stop request get their turn
constexpr int64_t kSeenRecordEveryMs = 5'000;  // how fresh nodes.seen_ms is kept
constexpr int kRpcTimeoutMs = 15'000;

}  // namespace

NodeLoop::NodeLoop(Store& store, Environment& environment, const Node& node, const LoopLimits& limits)
    : store_(store),
      environment_(environment),
      limits_(limits),
      memory_(limits),
      node_id_(node.id),
      name_(node.name),
      is_storage_(node.role == kRoleStorage),
      rpc_socket_(node.rpc_socket),
      data_plane_(client::JsonRpcClient({.socket_path = node.rpc_socket, .timeout_ms = kRpcTimeoutMs})) {}

NodeLoop::~NodeLoop() = default;

LoopContext NodeLoop::context() {
  return LoopContext{.store = store_,
                     .data_plane = data_plane_,
                     .environment = environment_,
                     .limits = limits_,
                     .memory = memory_,
                     .node_id = node_id_};
}

Result<int> NodeLoop::run() {
  int total = 0;
  for (int i = 0; i < kMaxPassesPerRun; ++i) {
    if (may_go_on_ && !may_go_on_()) return total;
    Result<int> steps = pass();
    if (!steps && !data_plane_.failed_with(steps.error())) return steps;  // the database's trouble
    TRY(record_volume_statuses());
    if (!steps) {
      TRY(record_node_down(steps.error()));
      return total;
    }
    total += *steps;
    if (*steps == 0) break;
  }
  TRY(record_node_answers());
  return total;
}

Result<int> NodeLoop::pass() { return is_storage_ ? storage_pass() : compute_pass(); }

Result<int> NodeLoop::initialise_disks(const TargetView& view) {
  LoopContext loop = context();
  TRY_ASSIGN(const Graph graph, store_.load_graph());
  int steps = 0;
  for (const Disk& disk : graph.disks) {
    if (disk.node_id != node_id_) continue;
    TRY_ASSIGN(const int taken, initialise_disk(loop, disk, view));
    steps += taken;
  }
  return steps;
}

Result<int> NodeLoop::storage_pass() {
  LoopContext loop = context();
  TRY_ASSIGN(const TargetView view, data_plane_.observe_target());
  TRY_ASSIGN(int steps, initialise_disks(view));
  if (steps > 0) return steps;                         // what is on the disk shows in the next observation
  TRY_ASSIGN(const Graph graph, store_.load_graph());  // with the disks as they were just found
  for (const Lvol& lvol : graph.lvols) {
    const Disk* disk = graph.disk(lvol.disk_id);
    if (disk == nullptr || disk->node_id != node_id_) continue;
    TRY_ASSIGN(const int taken, provision_lvol(loop, graph, view, lvol));
    steps += taken;
  }
  if (steps > 0) return steps;  // the exports are planned from the lvols' new states
  return reconcile_exports(loop, graph, view);
}

Result<int> NodeLoop::compute_pass() {
  TRY_ASSIGN(const Graph graph, store_.load_graph());
  TRY_ASSIGN(const ComputeView view, data_plane_.observe_compute());
  TRY(record_abilities(graph, view.abilities));
  TRY_ASSIGN(const ExclusionOutcome settled, settle_exclusions(store_, data_plane_, view.raids));
  if (settled.steps > 0) return settled.steps;  // the graph and the mirrors have changed
  int steps = 0;
  for (const VolumeVmMapping& attachment : graph.attachments) {
    if (attachment.node_id != node_id_) continue;
    TRY_ASSIGN(const int taken, attachment.wanted && !attachment_wish(graph, attachment).lost_epoch
                                    ? attachment_pass(graph, attachment, view)
                                    : detachment_pass(graph, attachment, view));
    steps += taken;
  }
  TRY_ASSIGN(const int cleared, stray_pass(graph, view));
  return steps + cleared;
}

// Volumes that were given to another node while this one could not be reached.
Result<int> NodeLoop::stray_pass(const Graph& graph, const ComputeView& view) {
  int steps = 0;
  for (const Volume& volume : graph.volumes) {
    const VolumeVmMapping* attachment = graph.attachment_of(volume.id);
    if (attachment != nullptr && attachment->node_id == node_id_) continue;
    const std::optional<AttachmentWish> stray = stray_wish(graph, volume, view);
    if (!stray) continue;
    std::string trouble;
    TRY_ASSIGN(const int taken, take_apart(*stray, view, &trouble));
    steps += taken;
  }
  return steps;
}

Result<int> NodeLoop::attachment_pass(const Graph& graph, const VolumeVmMapping& attachment, const ComputeView& view) {
  LoopContext loop = context();
  const AttachmentWish wish = attachment_wish(graph, attachment);
  std::string trouble;
  TRY_ASSIGN(const int connected, reconcile_nvme_connections(loop, wish, view, &trouble));
  if (connected > 0) return connected;
  TRY_ASSIGN(const RaidOutcome raid, ensure_raid(loop, wish, view, trouble));
  if (raid.steps > 0) return raid.steps;
  TRY_ASSIGN(const int exposed, ensure_vhost(loop, wish, view, raid.online));
  if (exposed > 0 || !raid.online || view.vhost(wish.vhost_name) == nullptr) return exposed;
  return run_health_iteration(loop, wish, view, attachment.rebuild_percent);
}

// From the guest's side inwards: nothing is taken away under something that still uses it. A mirror whose epoch is over
// is fenced before that.
Result<int> NodeLoop::take_apart(const AttachmentWish& wish, const ComputeView& view, std::string* trouble) {
  LoopContext loop = context();
  const RaidView* mirror = view.raid(wish.raid_name);
  if (mirror != nullptr && must_be_fenced(wish, *mirror)) {
    TRY_ASSIGN(const RaidOutcome fenced, ensure_raid(loop, wish, view, *trouble));
    return fenced.steps;
  }
  TRY_ASSIGN(const int hidden, ensure_vhost(loop, wish, view, false));
  if (hidden > 0) return hidden;
  TRY_ASSIGN(const RaidOutcome raid, ensure_raid(loop, wish, view, *trouble));
  if (raid.steps > 0) return raid.steps;
  return reconcile_nvme_connections(loop, wish, view, trouble);
}

Result<int> NodeLoop::detachment_pass(const Graph& graph, const VolumeVmMapping& attachment, const ComputeView& view) {
  AttachmentWish wish = attachment_wish(graph, attachment);
  const bool is_wanted = std::exchange(wish.wanted, false);
  std::string trouble;
  TRY_ASSIGN(const int taken, take_apart(wish, view, &trouble));
  if (taken > 0) return taken;
  bool is_gone = view.vhost(wish.vhost_name) == nullptr && view.raid(wish.raid_name) == nullptr;
  for (const LegWish& leg : wish.legs) is_gone = is_gone && view.controller(leg.controller_name) == nullptr;
  if (is_wanted) {
    // It lost its epoch: whoever took it over writes now, and this one never again.
    TRY(store_.set_status(
        Kind::attachment, wish.id,
        make_status(
            state::kFailed,
            fmt::format("volume {} has epoch {} by now, this attachment {}: it may not write any more; delete it",
                        wish.volume_name, wish.volume_epoch, wish.epoch))));
    return 0;
  }
  if (is_gone) {
    TRY(store_.remove_attachment(wish.id));
    return 1;
  }
  if (!trouble.empty()) TRY(store_.set_status(Kind::attachment, wish.id, make_status(state::kDeleting, trouble)));
  return 0;
}

Result<void> NodeLoop::record_abilities(const Graph& graph, const Abilities& abilities) {
  const Node* node = graph.node(node_id_);
  if (node == nullptr) return {};
  Node now = *node;
  now.holds_writes = abilities.holds_writes;
  now.assembles = abilities.assembles;
  if (node->holds_writes == now.holds_writes && node->assembles == now.assembles) return {};
  if (!abilities.holds_writes)
    LOG_WARN("control",
             "node {}: its data plane has no diskengine_raid_* methods: writes that a failed replica lacks are "
             "acknowledged before that is on record",
             name_);
  return store_.set_node_abilities(now);
}

Result<void> NodeLoop::record_node_answers() {
  TRY_ASSIGN(const bool changed, store_.set_status(Kind::node, node_id_, make_status(state::kReady)));
  if (changed) LOG_INFO("control", "node {}: the data plane at {} answers", name_, rpc_socket_);
  const int64_t now_ms = environment_.monotonic_ms();
  if (seen_recorded_at_ms_ && now_ms - *seen_recorded_at_ms_ < kSeenRecordEveryMs) return {};
  TRY(store_.set_node_seen(node_id_));
  seen_recorded_at_ms_ = now_ms;
  return {};
}

// The node's objects say so too: a person who looks at one of them sees where the trouble is.
Result<void> NodeLoop::record_node_down(const Error& error) {
  const bool is_silent = error.code() == Errc::unreachable || error.code() == Errc::timed_out;
  const std::string reason = is_silent
                                 ? fmt::format("no answer from the data plane of {} ({}); start diskengine-io -r {}",
                                               name_, error.message(), rpc_socket_)
                                 : fmt::format("the data plane of {} cannot be used: {}", name_, error.message());
  const Status down = make_status(state::kDown, reason);
  TRY_ASSIGN(const bool changed, store_.set_status(Kind::node, node_id_, down));
  if (changed) LOG_WARN("control", "{}", reason);
  TRY_ASSIGN(const Graph graph, store_.load_graph());
  for (const VolumeVmMapping& attachment : graph.attachments)
    if (attachment.node_id == node_id_ && attachment.wanted)
      TRY(store_.set_status(Kind::attachment, attachment.id, down));
  for (const Disk& disk : graph.disks)
    if (disk.node_id == node_id_) TRY(store_.set_status(Kind::disk, disk.id, down));
  for (const VolumeLvolMapping& replica : graph.replicas) {
    const Node* node = graph.node_of(replica);
    if (node == nullptr || node->id != node_id_ || replica.status.state == state::kWithdrawn) continue;
    TRY(store_.set_status(Kind::replica, replica.id, down));
    const Lvol* lvol = graph.lvol(replica.lvol_id);
    if (lvol != nullptr && lvol->wanted) TRY(store_.set_status(Kind::lvol, lvol->id, down));
  }
  return record_volume_statuses();
}

Result<void> NodeLoop::record_volume_statuses() {
  TRY_ASSIGN(const Graph graph, store_.load_graph());
  for (const Volume& volume : graph.volumes)
    TRY(store_.set_status(Kind::volume, volume.id, volume_status(graph, volume)));
  return {};
}

}  // namespace diskengine::control
