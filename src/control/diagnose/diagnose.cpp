#include "control/diagnose/diagnose.h"

#include <fmt/format.h>

#include <algorithm>

#include "control/diagnose/rules.h"

namespace diskengine::control {
namespace {

namespace json = boost::json;

bool leg_exists(const ReplicaFacts& replica) { return replica.leg.controller && replica.leg.base.exists; }

bool export_exists(const ReplicaFacts& replica) {
  const ExportFacts& exported = replica.exported;
  return exported.subsystem && exported.listener && exported.ns_is_lvol && exported.lvol.exists && exported.store &&
         exported.disk.exists;
}

bool graph_exists(const Facts& facts) {
  if (!facts.path.attached) return false;
  bool exists = true;
  if (facts.answers(facts.path.compute_node)) {
    exists = facts.vhost.exists && facts.raid.exists;
    for (const ReplicaFacts& replica : facts.replicas) exists = exists && leg_exists(replica);
  }
  for (const ReplicaFacts& replica : facts.replicas)
    if (is_known(facts, replica)) exists = exists && export_exists(replica);
  for (const NodeFacts& node : facts.nodes)
    exists = exists && node.reach.reach != Reach::closed && node.reach.reach != Reach::silent;
  return exists;
}

std::string headline_of(const Facts& facts, const Diagnosis& diagnosis) {
  if (!diagnosis.graph_exists)
    return "The graph is not complete: begin with the control plane, which makes it (diskengine status).";
  const Flow& mirror = facts.raid.flow;
  const bool asked = facts.answers(facts.path.compute_node);
  if (!asked) return "What could be asked of the graph exists; the compute node could not be asked from here.";
  if (is_stuck(facts)) return "The graph exists and I/O stands still in it: this is the data path.";
  if (mirror.errors > 0) return "The graph exists and I/O fails: this is the data path.";
  if (mirror.completed > 0 && mirror.mean_us >= kSlowUs)
    return "The graph exists and I/O is slow: this is the data path.";
  if (!diagnosis.causes.empty()) return "The graph exists; what is amiss in it is below.";
  return mirror.completed > 0 ? "The graph exists and I/O moves through it."
                              : "The graph exists; the guest asks for nothing at the moment.";
}

// What is already being looked after, goes on by itself once another is mended, or hurts nobody yet: never the one to
// act on while there is another.
bool is_background(const Cause& cause) {
  return cause.impact == Impact::none || cause.code == "rebuilding" || cause.code == "mirror-waiting";
}

// Certain before likely, what hurts more before what hurts less, and otherwise in the order of the path.
void rank(std::vector<Cause>* causes) {
  std::stable_sort(causes->begin(), causes->end(), [](const Cause& a, const Cause& b) {
    if (is_background(a) != is_background(b)) return is_background(b);
    if (a.certainty != b.certainty) return a.certainty > b.certainty;
    return a.impact > b.impact;
  });
}

// What is only the consequence of something deeper that is certain: said there, not as a cause beside it.
void drop_consequences(std::vector<Cause>* causes) {
  const auto is_root = [](const Cause& cause) {
    return cause.certainty == Certainty::certain && cause.impact >= Impact::redundancy && !is_background(cause);
  };
  if (std::none_of(causes->begin(), causes->end(), is_root)) return;
  std::erase_if(*causes, [](const Cause& cause) { return cause.certainty == Certainty::possible; });
}

json::array texts(const std::vector<std::string>& list) { return json::array(list.begin(), list.end()); }

}  // namespace

std::string_view name_of(Certainty certainty) noexcept {
  switch (certainty) {
    case Certainty::possible:
      return "possible";
    case Certainty::likely:
      return "likely";
    case Certainty::certain:
      return "certain";
  }
  return "?";
}

std::string_view name_of(Impact impact) noexcept {
  switch (impact) {
    case Impact::none:
      return "none";
    case Impact::slow:
      return "slow";
    case Impact::redundancy:
      return "redundancy";
    case Impact::outage:
      return "outage";
  }
  return "?";
}

std::string_view name_of(LayerState state) noexcept {
  switch (state) {
    case LayerState::ok:
      return "ok";
    case LayerState::amiss:
      return "amiss";
    case LayerState::unknown:
      return "unknown";
  }
  return "?";
}

Diagnosis diagnose(const Facts& facts) {
  Diagnosis diagnosis;
  std::vector<Cause>& causes = diagnosis.causes;
  add_vhost_causes(facts, &causes);
  add_raid_causes(facts, &causes);
  for (const ReplicaFacts& replica : facts.replicas) add_replica_causes(facts, replica, &causes);
  add_latency_causes(facts, &causes);
  add_control_plane_causes(facts, &causes);
  drop_consequences(&causes);
  rank(&causes);
  diagnosis.graph_exists = graph_exists(facts);
  diagnosis.layers = layer_reports(facts, causes);
  diagnosis.headline = headline_of(facts, diagnosis);
  return diagnosis;
}

json::object encode(const Diagnosis& diagnosis) {
  json::array layers;
  for (const LayerReport& layer : diagnosis.layers)
    layers.push_back(
        {{"layer", layer.layer}, {"node", layer.node}, {"state", name_of(layer.state)}, {"text", layer.text}});
  json::array causes;
  for (const Cause& cause : diagnosis.causes)
    causes.push_back({{"layer", cause.layer},
                      {"code", cause.code},
                      {"node", cause.node},
                      {"object", cause.object},
                      {"certainty", name_of(cause.certainty)},
                      {"impact", name_of(cause.impact)},
                      {"summary", cause.summary},
                      {"evidence", texts(cause.evidence)},
                      {"next", cause.next}});
  return {{"graph_exists", diagnosis.graph_exists},
          {"headline", diagnosis.headline},
          {"layers", std::move(layers)},
          {"causes", std::move(causes)}};
}

}  // namespace diskengine::control
