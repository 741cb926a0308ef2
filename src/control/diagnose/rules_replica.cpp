// One replica, from the mirror's leg to the disk: the deepest fact that explains the ones above it is the cause.
#include <fmt/format.h>

#include "control/diagnose/rpc_command.h"
#include "control/diagnose/rules.h"

namespace diskengine::control {
namespace {

namespace json = boost::json;

struct Where {
  const Facts& facts;
  const ReplicaFacts& replica;
  std::vector<Cause>& causes;

  const ExpectedReplica& expected() const { return replica.expected; }
  const ExportFacts& exported() const { return replica.exported; }

  Cause& add(const char* layer, const char* code, Certainty certainty, std::string summary, std::string evidence) {
    causes.push_back({.layer = layer,
                      .code = code,
                      .node = expected().node,
                      .object = expected().nqn,
                      .certainty = certainty,
                      .impact = Impact::redundancy,
                      .summary = std::move(summary),
                      .evidence = {std::move(evidence)},
                      .next = {}});
    return causes.back();
  }
  std::string ask(const char* method, const json::object& params) const {
    return rpc_command(expected().node, method, params);
  }
  // Whether the compute node has trouble with the leg, which is what makes a find below it matter now.
  bool leg_is_lost() const {
    const LegFacts& leg = replica.leg;
    return !leg.in_mirror || !leg.controller || leg.controller_state != "enabled" || leg.lost_paths > 0 ||
           !leg.base.exists;
  }
};

// The disk and its store. True if something is missing, so that what stands on it needs no cause of its own.
bool add_disk_and_store(Where& at) {
  const ExportFacts& exported = at.exported();
  const ExpectedReplica& expected = at.expected();
  if (!exported.disk.exists) {
    Cause& cause = at.add(
        "disk", "disk-missing", Certainty::certain,
        fmt::format("the disk {} ({}) is not there on {}", expected.disk_bdev, expected.disk_path, expected.node),
        fmt::format("{} knows no bdev {}", expected.node, expected.disk_bdev));
    cause.object = expected.disk_bdev;
    cause.next = "diskengine disk list";
    return true;
  }
  if (!exported.store) {
    Cause& cause = at.add("lvol", "store-missing", Certainty::certain,
                          fmt::format("the lvol store {} is not loaded from {}", expected.store, expected.disk_bdev),
                          fmt::format("the disk is there; {} knows no store {}", expected.node, expected.store));
    cause.object = expected.store;
    cause.next = fmt::format("diskengine store check {}", expected.disk_id);
    return true;
  }
  return false;
}

// The lvol in its store. True if it is missing.
bool add_lvol(Where& at) {
  const ExportFacts& exported = at.exported();
  const ExpectedReplica& expected = at.expected();
  if (exported.lvol.exists) return false;
  const bool is_damaged = !exported.damage.empty();
  Cause& cause = at.add("lvol", is_damaged ? "lvol-damaged" : "lvol-missing", Certainty::certain,
                        is_damaged ? fmt::format("the lvol {} is damaged: {}", expected.lvol, exported.damage)
                                   : fmt::format("the lvol {} is not in its store", expected.lvol),
                        fmt::format("the store {} is loaded; there is no bdev {}", expected.store, expected.lvol));
  cause.object = expected.lvol;
  cause.next = fmt::format("diskengine store check {}", expected.disk_id);
  return true;
}

std::string lvol_is_there(const Where& at) {
  return at.exported().lvol.exists ? fmt::format("the lvol {} exists, so there is storage", at.expected().lvol)
                                   : std::string("its lvol is not there either");
}

// The export as such. True if the initiator cannot get through it.
bool add_export(Where& at) {
  const ExportFacts& exported = at.exported();
  const ExpectedReplica& expected = at.expected();
  const json::object nqn{{"nqn", expected.nqn}};
  if (!exported.subsystem) {
    Cause& cause = at.add("target", "not-exported", Certainty::certain,
                          fmt::format("{} is not exported: there is no subsystem of its NQN", describe(at.replica)),
                          lvol_is_there(at));
    cause.next = at.ask("nvmf_get_subsystems", nqn);
    return true;
  }
  if (!exported.listener) {
    Cause& cause =
        at.add("target", "listener-missing", Certainty::certain,
               fmt::format("the export of {} does not listen where the initiator connects", describe(at.replica)),
               "its subsystem exists; healthy storage behind a broken export");
    cause.next = at.ask("nvmf_subsystem_get_listeners", nqn);
    return true;
  }
  if (exported.namespaces.empty() || (exported.lvol.exists && !exported.ns_is_lvol)) {
    const bool is_empty = exported.namespaces.empty();
    if (is_empty && !exported.lvol.exists) return true;  // the lvol is the cause
    Cause& cause =
        at.add("target", is_empty ? "namespace-missing" : "namespace-wrong", Certainty::certain,
               fmt::format("the export of {} {}", describe(at.replica),
                           is_empty ? "has no namespace" : fmt::format("shows {}, not its lvol", exported.namespaces)),
               lvol_is_there(at));
    cause.next = at.ask("nvmf_get_subsystems", nqn);
    return true;
  }
  if (at.facts.path.attached && !exported.admitted && !exported.any_host) {
    Cause& cause =
        at.add("target", "host-not-admitted", Certainty::certain,
               fmt::format("the export of {} does not admit the current writer", describe(at.replica)),
               fmt::format("its host list has {}, the writer is {}",
                           exported.other_hosts.empty() ? "nobody" : exported.other_hosts, at.facts.path.host_nqn));
    cause.next = at.ask("nvmf_get_subsystems", nqn);
    return true;
  }
  return false;
}

void add_strangers(Where& at) {
  const ExportFacts& exported = at.exported();
  if (exported.other_connected.empty() && !exported.any_host) return;
  Cause& cause = at.add("target", "stranger-admitted", Certainty::likely,
                        fmt::format("the export of {} lets a host in that must not write", describe(at.replica)),
                        exported.any_host ? std::string("it admits any host")
                                          : "connected besides the writer: " + exported.other_connected);
  cause.next = at.ask("nvmf_subsystem_get_controllers", {{"nqn", at.expected().nqn}});
}

void add_space(Where& at) {
  const ExportFacts& exported = at.exported();
  if (!exported.store) return;
  // A disk that fails writes freezes its store: add_storage_io() has that.
  if (!exported.frozen.empty() && exported.disk.total_errors == 0) {
    Cause& cause =
        at.add("lvol", "store-frozen", Certainty::certain,
               fmt::format("the metadata of store {} cannot be written", at.expected().store), exported.frozen);
    cause.object = at.expected().store;
    cause.next = fmt::format("diskengine store check {}; if it is sound, start the data plane of {} anew",
                             at.expected().disk_id, at.expected().node);
  }
  if (exported.free_clusters > 0) return;
  const bool hurts = exported.lvol.total_errors > 0 || exported.lvol.oldest_us >= kStuckUs;
  Cause& cause = at.add("lvol", "store-full", hurts ? Certainty::certain : Certainty::likely,
                        fmt::format("the lvol store {} is full", at.expected().store),
                        fmt::format("0 of {} clusters are free; {} I/Os of the lvol have failed",
                                    exported.total_clusters, exported.lvol.total_errors));
  cause.object = at.expected().store;
  cause.next = at.ask("bdev_lvol_get_lvols", {{"lvs_name", at.expected().store}}) +
               "  # delete what is not needed, or grow the disk";
}

// Requests that stand still or fail, from the disk upwards. True if the leg's trouble is explained.
bool add_storage_io(Where& at) {
  const ExportFacts& exported = at.exported();
  const ExpectedReplica& expected = at.expected();
  const json::object disk{{"name", expected.disk_bdev}};
  const bool has_time = !is_saturated(at.facts, expected.node);
  if (has_time && stands_still(exported.disk)) {
    Cause& cause = at.add(
        "disk", "disk-stuck", Certainty::certain,
        fmt::format("the disk {} holds requests and does not complete them", expected.disk_bdev),
        fmt::format("{} outstanding, the oldest for {} ms", exported.disk.outstanding, exported.disk.oldest_us / 1000));
    cause.object = expected.disk_bdev;
    cause.next = at.ask("diskengine_outstanding", disk);
    return true;
  }
  const bool matters = at.leg_is_lost() || !exported.frozen.empty();
  const bool fails = exported.disk.errors > 0 || (exported.disk.total_errors > 0 && matters);
  if (fails) {
    Cause& cause = at.add("disk", "disk-errors", exported.disk.errors > 0 ? Certainty::certain : Certainty::likely,
                          fmt::format("the disk {} fails I/O", expected.disk_bdev),
                          fmt::format("{} errors during {} ms, {} in all", exported.disk.errors, at.facts.window_ms,
                                      exported.disk.total_errors));
    if (!exported.frozen.empty()) cause.evidence.push_back("its store cannot write its metadata: " + exported.frozen);
    cause.object = expected.disk_bdev;
    cause.next = at.ask("bdev_get_iostat", {{"names", json::array{expected.disk_bdev}}});
    return true;
  }
  if (exported.free_clusters == 0 && exported.store) return true;  // add_space has it
  if (has_time && stands_still(exported.lvol) && exported.disk.outstanding == 0) {
    Cause& cause = at.add(
        "lvol", "lvol-stuck", Certainty::likely,
        fmt::format("the lvol {} holds requests, its disk has none", expected.lvol),
        fmt::format("{} outstanding, the oldest for {} ms", exported.lvol.outstanding, exported.lvol.oldest_us / 1000));
    cause.object = expected.lvol;
    cause.next = at.ask("diskengine_outstanding", {{"name", expected.lvol}});
    return true;
  }
  return false;
}

// The compute node's end, once the storage node shows nothing that would explain it.
void add_connection(Where& at, bool storage_is_known) {
  const LegFacts& leg = at.replica.leg;
  const ExpectedReplica& expected = at.expected();
  const std::string& compute = at.facts.path.compute_node;
  const std::string controllers = rpc_command(compute, "bdev_nvme_get_controllers", {{"name", expected.controller}});
  const auto here = [&](Cause& cause) -> Cause& {
    cause.node = compute;
    cause.object = expected.controller;
    cause.next = controllers;
    return cause;
  };
  if (!leg.controller) {
    const bool is_ready = at.facts.path.attachment_state == "ready" || at.facts.path.attachment_state == "degraded";
    here(
        at.add("initiator", "controller-missing", storage_is_known ? Certainty::certain : Certainty::likely,
               fmt::format("{} is not connected: there is no controller {}", describe(at.replica), expected.controller),
               storage_is_known ? "its export is there and admits the writer"
                                : "its storage node could not be asked from here"));
    if (!is_ready) at.causes.back().certainty = Certainty::likely;
    return;
  }
  if (!leg.host_nqn.empty() && leg.host_nqn != at.facts.path.host_nqn) {
    here(at.add("initiator", "wrong-host", Certainty::certain,
                fmt::format("{} is connected as a former writer", describe(at.replica)),
                fmt::format("as {}, not {}", leg.host_nqn, at.facts.path.host_nqn)));
    return;
  }
  if (leg.controller_state != "enabled" || leg.lost_paths > 0) {
    Cause& cause = here(at.add(
        "network", "path-down", storage_is_known ? Certainty::likely : Certainty::possible,
        fmt::format("the path to {} is down", describe(at.replica)),
        fmt::format("the controller is {}{}{}; {} of {} I/O paths are lost", leg.controller_state,
                    leg.controller_reason.empty() ? "" : ": ", leg.controller_reason, leg.lost_paths, leg.paths)));
    cause.evidence.push_back(storage_is_known
                                 ? "the storage node answers, exports the lvol, listens and admits the writer: what is "
                                   "left is the network between them"
                                 : "the storage node could not be asked from here");
    return;
  }
  if (stands_still(leg.base) && storage_is_known && at.exported().lvol.outstanding == 0) {
    Cause& cause =
        here(at.add("network", "path-dead", Certainty::likely,
                    fmt::format("the path to {} is dead although its controller is enabled", describe(at.replica)),
                    fmt::format("{} requests are outstanding on it, the oldest for {} ms", leg.base.outstanding,
                                leg.base.oldest_us / 1000)));
    cause.evidence.push_back(
        "the lvol at the other end has nothing to do: the requests, or their answers, are on the way");
    return;
  }
  if (stands_still(leg.base) && !storage_is_known) {
    here(at.add("network", "path-dead", Certainty::possible,
                fmt::format("{} does not answer although its controller is enabled", describe(at.replica)),
                fmt::format("the oldest request has waited {} ms; the storage node could not be asked from here",
                            leg.base.oldest_us / 1000)));
    return;
  }
  if (!leg.base.exists) {
    here(at.add("initiator", "namespace-not-seen", Certainty::likely,
                fmt::format("the controller of {} is enabled and shows no namespace", describe(at.replica)),
                fmt::format("there is no bdev {}", expected.base_bdev)));
  }
}

void add_leg_out(Where& at) {
  const LegFacts& leg = at.replica.leg;
  if (!at.facts.raid.exists || leg.in_mirror || at.facts.raid.rebuild_target == at.expected().base_bdev) return;
  Cause& cause = at.add("raid", "leg-out", Certainty::certain,
                        fmt::format("the mirror is online without {}: it hides a bad replica", describe(at.replica)),
                        fmt::format("the leg is {}{}{}", leg.state.empty() ? "not in the mirror" : leg.state,
                                    leg.reason.empty() ? "" : ": ", leg.reason));
  cause.node = at.facts.path.compute_node;
  cause.object = at.facts.path.raid;
  cause.next = rpc_command(at.facts.path.compute_node, "bdev_raid_get_bdevs", {{"category", "all"}});
}

}  // namespace

bool is_known(const Facts& facts, const ReplicaFacts& replica) { return facts.answers(replica.expected.node); }

void add_replica_causes(const Facts& facts, const ReplicaFacts& replica, std::vector<Cause>* causes) {
  Where at{facts, replica, *causes};
  const NodeFacts* node = facts.node(replica.expected.node);
  const bool is_dead = node != nullptr && (node->reach.reach == Reach::closed || node->reach.reach == Reach::silent);
  const bool known = is_known(facts, replica);
  bool explained = is_dead;
  if (known) {
    const bool no_store = add_disk_and_store(at);
    const bool no_lvol = no_store || add_lvol(at);
    const bool no_export = add_export(at);
    add_strangers(at);
    add_space(at);
    explained = no_lvol || no_export || add_storage_io(at);
  }
  if (!facts.path.attached || !facts.answers(facts.path.compute_node)) return;
  const size_t before = causes->size();
  if (!explained) add_connection(at, known);
  explained = explained || causes->size() > before;
  if (!explained) add_leg_out(at);
}

}  // namespace diskengine::control
