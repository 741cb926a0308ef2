// Where the time goes while I/O moves: the mirror's mean latency, split along the path.
#include <fmt/format.h>

#include <algorithm>

#include "control/diagnose/rpc_command.h"
#include "control/diagnose/rules.h"

namespace diskengine::control {
namespace {

const ReplicaFacts* slowest(const Facts& facts) {
  const ReplicaFacts* found = nullptr;
  for (const ReplicaFacts& replica : facts.replicas)
    if (replica.leg.base.completed > 0 && (found == nullptr || replica.leg.base.mean_us > found->leg.base.mean_us))
      found = &replica;
  return found;
}

double other_leg_us(const Facts& facts, const ReplicaFacts& slow) {
  double fastest = 0;
  for (const ReplicaFacts& replica : facts.replicas)
    if (&replica != &slow && replica.leg.base.completed > 0)
      fastest = fastest == 0 ? replica.leg.base.mean_us : std::min(fastest, replica.leg.base.mean_us);
  return fastest;
}

struct Slow {
  const Facts& facts;
  const ReplicaFacts& replica;
  std::vector<Cause>& causes;

  void add(const char* layer, const char* code, const std::string& node, const std::string& object, Certainty certainty,
           std::string summary, double stage_us) const {
    const double other_us = other_leg_us(facts, replica);
    Cause cause{.layer = layer,
                .code = code,
                .node = node,
                .object = object,
                .certainty = certainty,
                .impact = Impact::slow,
                .summary = std::move(summary),
                .evidence = {fmt::format("of {:.1f} ms that the mirror takes, {:.1f} ms are spent here",
                                         facts.raid.flow.mean_us / 1000, stage_us / 1000)},
                .next = rpc_command(node, "bdev_get_iostat", {{"names", boost::json::array{object}}})};
    if (other_us > 0)
      cause.evidence.push_back(fmt::format("this leg takes {:.1f} ms, the fastest other one {:.1f} ms",
                                           replica.leg.base.mean_us / 1000, other_us / 1000));
    causes.push_back(std::move(cause));
  }
};

// A reactor without time makes every device on it look slow, each more than the one below it.
bool add_saturated(const Facts& facts, const std::string& node, const char* layer, std::vector<Cause>* causes) {
  if (!is_saturated(facts, node)) return false;
  const NodeFacts* found = facts.node(node);
  causes->push_back({.layer = layer,
                     .code = "reactor-saturated",
                     .node = node,
                     .object = found->busiest_name,
                     .certainty = Certainty::likely,
                     .impact = Impact::slow,
                     .summary = fmt::format("a reactor of {} has no time left: {} works {:.0f} % of the time", node,
                                            found->busiest_name, found->busiest_share * 100),
                     .evidence = {is_stuck(facts) ? std::string("nothing completed meanwhile")
                                                  : fmt::format("the mirror takes {:.1f} ms for each I/O",
                                                                facts.raid.flow.mean_us / 1000)},
                     .next = rpc_command(node, "thread_get_pollers", {})});
  return true;
}

void add_leg_stages(const Slow& slow, double mirror_us) {
  const ReplicaFacts& replica = slow.replica;
  const std::string& node = replica.expected.node;
  const double leg_us = replica.leg.base.mean_us;
  if (!is_known(slow.facts, replica) || replica.exported.lvol.completed == 0) {
    slow.add("target", "leg-slow", slow.facts.path.compute_node, replica.expected.base_bdev, Certainty::possible,
             fmt::format("{} answers slowly; its storage node could not be asked where", describe(replica)), leg_us);
    return;
  }
  const double lvol_us = replica.exported.lvol.mean_us;
  const double disk_us = std::min(replica.exported.disk.mean_us, lvol_us);
  const double other_us = other_leg_us(slow.facts, replica);
  const bool stands_out = other_us > 0 && leg_us >= other_us * kOtherLegFactor;
  // A slow disk also makes the lvol above it slow, by the metadata that first writes wait for.
  if (disk_us >= mirror_us * kMajorShare || disk_us >= kSlowUs) {
    slow.add("disk", "disk-slow", node, replica.expected.disk_bdev, stands_out ? Certainty::certain : Certainty::likely,
             fmt::format("the disk {} of {} is slow", replica.expected.disk_bdev, node), disk_us);
  } else if (lvol_us - disk_us >= mirror_us * kMajorShare) {
    slow.add("lvol", "lvol-slow", node, replica.expected.lvol, Certainty::likely,
             fmt::format("the lvol {} is slow, its disk is not: first writes, copies from a snapshot, or metadata",
                         replica.expected.lvol),
             lvol_us - disk_us);
  } else if (leg_us - lvol_us >= mirror_us * kMajorShare) {
    // Neither end sees it: it is what is left when both are well, and a machine without CPU time looks the same.
    slow.add("network", "network-slow", node, replica.expected.lvol, Certainty::possible,
             fmt::format("between the compute node and {}: the network, or too little CPU time at an end",
                         describe(replica)),
             leg_us - lvol_us);
  }
}

}  // namespace

void add_latency_causes(const Facts& facts, std::vector<Cause>* causes) {
  const Flow& mirror = facts.raid.flow;
  const bool is_slow = mirror.completed > 0 && mirror.mean_us >= kSlowUs;
  if (!is_slow && !is_stuck(facts)) return;
  bool saturated = add_saturated(facts, facts.path.compute_node, "vhost", causes);
  for (const NodeFacts& node : facts.nodes)
    if (node.expected.name != facts.path.compute_node)
      saturated = add_saturated(facts, node.expected.name, "target", causes) || saturated;
  const ReplicaFacts* leg = slowest(facts);
  if (saturated || !is_slow || leg == nullptr) return;
  const Slow slow{facts, *leg, *causes};
  const double own_us = mirror.mean_us - leg->leg.base.mean_us;
  if (own_us < mirror.mean_us * kMajorShare) {
    add_leg_stages(slow, mirror.mean_us);
    return;
  }
  const bool rebuilds = !facts.raid.rebuild_target.empty();
  slow.add(
      "raid", "mirror-slow", facts.path.compute_node, facts.path.raid,
      rebuilds ? Certainty::likely : Certainty::possible,
      rebuilds ? "writes wait within the mirror for ranges that a rebuild copies" : "writes wait within the mirror",
      own_us);
}

}  // namespace diskengine::control
