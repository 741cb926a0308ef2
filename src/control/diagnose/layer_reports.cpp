// One line for each layer of the path, from the guest to the disks.
#include <fmt/format.h>

#include <algorithm>

#include "control/diagnose/rules.h"

namespace diskengine::control {
namespace {

std::string flow_text(const Flow& flow) {
  if (flow.completed == 0 && flow.outstanding == 0) return "idle";
  std::string text = fmt::format("{} I/Os", flow.completed);
  if (flow.completed > 0) text += fmt::format(", {:.2f} ms each", flow.mean_us / 1000);
  if (flow.outstanding > 0)
    text += fmt::format(", {} outstanding, the oldest for {} ms", flow.outstanding, flow.oldest_us / 1000);
  if (flow.errors > 0) text += fmt::format(", {} errors", flow.errors);
  return text;
}

class Reporter {
 public:
  Reporter(const Facts& facts, const std::vector<Cause>& causes) : facts_(facts), causes_(causes) {}

  void add(const std::string& layer, const std::string& node, bool is_ok, std::string text) {
    const NodeFacts* asked = facts_.node(node);
    if (asked != nullptr && asked->reach.reach == Reach::elsewhere) {
      lines_.push_back({layer, node, LayerState::unknown, asked->reach.detail});
      return;
    }
    if (!facts_.answers(node)) {
      lines_.push_back({layer, node, LayerState::amiss, fmt::format("the data plane of {} does not answer", node)});
      return;
    }
    const bool blamed = std::any_of(causes_.begin(), causes_.end(), [&](const Cause& cause) {
      return cause.layer == layer && cause.node == node && cause.certainty != Certainty::possible;
    });
    lines_.push_back({layer, node, is_ok && !blamed ? LayerState::ok : LayerState::amiss, std::move(text)});
  }
  void add_guest() {
    const bool is_known = facts_.answers(facts_.path.compute_node) && facts_.vhost.tells_sessions;
    lines_.push_back({"guest", facts_.path.compute_node,
                      !is_known                ? LayerState::unknown
                      : facts_.vhost.connected ? LayerState::ok
                                               : LayerState::amiss,
                      !is_known                ? "cannot be told from here"
                      : facts_.vhost.connected ? "connected"
                                               : "no VM is connected"});
  }
  std::vector<LayerReport> take() { return std::move(lines_); }

 private:
  const Facts& facts_;
  const std::vector<Cause>& causes_;
  std::vector<LayerReport> lines_;
};

std::string queues_text(const VhostFacts& vhost) {
  int64_t completed = 0, inflight = 0, waiting = 0, unseen = 0;
  for (const QueueFacts& queue : vhost.queues) {
    completed += queue.completed;
    inflight += queue.inflight;
    waiting += queue.waiting;
    unseen += queue.unseen;
  }
  std::string text = fmt::format("{} queues, {} completed, {} in flight", vhost.queues.size(), completed, inflight);
  if (waiting > 0) text += fmt::format(", {} not taken", waiting);
  if (unseen > 0) text += fmt::format(", {} completions not looked at", unseen);
  return text;
}

void report_replica(const Facts& facts, const ReplicaFacts& replica, Reporter* reporter) {
  const LegFacts& leg = replica.leg;
  const ExportFacts& exported = replica.exported;
  const std::string& node = replica.expected.node;
  const std::string name = describe(replica) + ": ";
  if (facts.path.attached)
    reporter->add("initiator", facts.path.compute_node, leg.controller_state == "enabled" && leg.lost_paths == 0,
                  name + (leg.controller ? leg.controller_state + ", " : "not connected, ") + flow_text(leg.base));
  const bool reachable = exported.subsystem && exported.listener && exported.ns_is_lvol &&
                         (exported.admitted || exported.any_host || !facts.path.attached);
  std::string lacks;
  if (!exported.subsystem) lacks += " subsystem";
  if (!exported.listener) lacks += " listener";
  if (!exported.ns_is_lvol) lacks += " namespace";
  if (facts.path.attached && !exported.admitted) lacks += " admission";
  reporter->add("target", node, reachable,
                name + (reachable ? fmt::format("exported, {}",
                                                exported.connected ? "the writer is connected" : "nobody is connected")
                                  : "lacks" + lacks));
  reporter->add("lvol", node, exported.lvol.exists && exported.free_clusters > 0,
                name + (exported.lvol.exists ? fmt::format("{}; {} of {} clusters free", flow_text(exported.lvol),
                                                           exported.free_clusters, exported.total_clusters)
                                             : "there is no lvol"));
  reporter->add("disk", node, exported.disk.exists,
                name + (exported.disk.exists ? replica.expected.disk_bdev + ", " + flow_text(exported.disk)
                                             : "there is no " + replica.expected.disk_bdev));
}

}  // namespace

std::vector<LayerReport> layer_reports(const Facts& facts, const std::vector<Cause>& causes) {
  Reporter reporter(facts, causes);
  if (facts.path.attached) {
    const std::string& node = facts.path.compute_node;
    reporter.add_guest();
    reporter.add("vhost", node, facts.vhost.exists,
                 facts.vhost.exists ? queues_text(facts.vhost) : facts.path.vhost + " does not exist");
    const auto current = std::count_if(facts.replicas.begin(), facts.replicas.end(), [&](const ReplicaFacts& replica) {
      return replica.leg.in_mirror && facts.raid.rebuild_target != replica.expected.base_bdev;
    });
    reporter.add("raid", node,
                 facts.raid.state == "online" && current == static_cast<std::ptrdiff_t>(facts.replicas.size()),
                 facts.raid.exists ? fmt::format("{}, {} of {} legs, {}", facts.raid.state, current,
                                                 facts.replicas.size(), flow_text(facts.raid.flow))
                                   : facts.path.raid + " does not exist");
  }
  for (const ReplicaFacts& replica : facts.replicas) report_replica(facts, replica, &reporter);
  return reporter.take();
}

}  // namespace diskengine::control
