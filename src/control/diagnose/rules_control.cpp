// Whether the control plane made the graph, and still looks after it.
#include <fmt/format.h>

#include "control/diagnose/rules.h"
#include "control/sizes.h"

namespace diskengine::control {
namespace {

bool is_on_the_way(const std::string& state) {
  return state == "new" || state == "waiting" || state == "working" || state == "down" || state == "deleting";
}

void add_attachment_cause(const Facts& facts, std::vector<Cause>* causes) {
  const ExpectedPath& path = facts.path;
  if (!path.attached) {
    causes->push_back({.layer = "control-plane",
                       .code = "not-attached",
                       .node = {},
                       .object = path.volume,
                       .certainty = Certainty::certain,
                       .impact = Impact::outage,
                       .summary = fmt::format("volume {} is not attached: no VM can see it", path.volume),
                       .evidence = {fmt::format("the volume is {}; it has no attachment", path.volume_state)},
                       .next = fmt::format("diskengine attachment create {}", path.volume)});
    return;
  }
  if (path.attachment_epoch != path.epoch) {
    causes->push_back({.layer = "control-plane",
                       .code = "epoch-lost",
                       .node = path.compute_node,
                       .object = path.vhost,
                       .certainty = Certainty::certain,
                       .impact = Impact::outage,
                       .summary = "the volume was given to another attachment: this one may not write any more",
                       .evidence = {fmt::format("the volume has epoch {}, attachment {} has {}", path.epoch,
                                                path.attachment_id, path.attachment_epoch)},
                       .next = fmt::format("diskengine attachment delete {}", path.attachment_id)});
    return;
  }
  if (!is_on_the_way(path.attachment_state)) return;
  // What it waits for, if that is known, is a cause of its own; alone this is the whole story.
  const bool is_made = facts.raid.waiting || facts.raid.stopped;
  causes->push_back(
      {.layer = "control-plane",
       .code = "not-ready",
       .node = path.compute_node,
       .object = path.vhost,
       .certainty = is_made ? Certainty::possible : Certainty::likely,
       .impact = Impact::outage,
       .summary = "the disk is not ready yet: a VM that was started before it sees no disk, or a failed one",
       .evidence = {fmt::format("attachment {} is {}: {}", path.attachment_id, path.attachment_state,
                                path.attachment_reason)},
       .next = fmt::format("diskengine attachment wait {} --for usable", path.volume)});
}

void add_loop_cause(const NodeFacts& node, std::vector<Cause>* causes) {
  const bool looked_at = node.reach.reach == Reach::answers;
  if (!looked_at || node.seen_age_ms < kLoopStoppedMs) return;
  const bool is_sure = node.seen_age_ms >= kLoopSurelyStoppedMs;
  causes->push_back(
      {.layer = "control-plane",
       .code = "loop-stopped",
       .node = node.expected.name,
       .object = "diskengine serve",
       .certainty = is_sure ? Certainty::certain : Certainty::likely,
       .impact = Impact::none,
       .summary = fmt::format("the control plane's loop of {} does not look at it: nothing is repaired there",
                              node.expected.name),
       .evidence = {fmt::format("its data plane answers here, and the control plane last saw it {} ago",
                                format_duration(node.seen_age_ms))},
       .next = fmt::format("look after `diskengine serve` of node {}: is it running, does it reach the database?",
                           node.expected.name)});
}

void add_node_down(const Facts& facts, const NodeFacts& node, std::vector<Cause>* causes) {
  const Reach reach = node.reach.reach;
  if (reach != Reach::closed && reach != Reach::silent) return;
  const bool is_compute = facts.path.attached && node.expected.name == facts.path.compute_node;
  const bool is_silent = reach == Reach::silent;
  causes->push_back(
      {.layer = is_compute ? "vhost" : "target",
       .code = is_silent ? "data-plane-silent" : "data-plane-down",
       .node = node.expected.name,
       .object = node.expected.rpc_socket,
       .certainty = is_silent ? Certainty::likely : Certainty::certain,
       .impact = is_compute ? Impact::outage : Impact::redundancy,
       .summary = is_silent ? fmt::format("the data plane of {} is there and does not answer: stopped, hanging, or "
                                          "without time for it",
                                          node.expected.name)
                            : fmt::format("the data plane of {} is not running", node.expected.name),
       .evidence = {node.reach.detail},
       .next = is_silent ? fmt::format("look at diskengine-io of {}: its state (ps), its stack (gdb -p), its log; then "
                                       "restart it",
                                       node.expected.name)
                         : fmt::format("diskengine-io -r {}", node.expected.rpc_socket)});
}

}  // namespace

void add_control_plane_causes(const Facts& facts, std::vector<Cause>* causes) {
  for (const NodeFacts& node : facts.nodes) {
    add_node_down(facts, node, causes);
    add_loop_cause(node, causes);
  }
  add_attachment_cause(facts, causes);
}

}  // namespace diskengine::control
