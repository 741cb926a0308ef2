#include "control/diagnose/observe_path.h"

#include <algorithm>
#include <boost/json.hpp>
#include <map>

#include "control/dataplane/json_read.h"
#include "control/diagnose/counters.h"

namespace diskengine::control {
namespace {

namespace json = boost::json;
using namespace json_read;

// Everything that is looked at twice.
struct Look {
  std::map<std::string, NodeCounters> nodes;
  std::map<int64_t, QueueFacts> queues;
};

// The answer, or null when it was an error.
json::value ask(Asker& asker, const std::string& node, const char* method, const json::object& params) {
  Result<json::value> answer = asker.ask(node, method, params);
  return answer ? *answer : json::value(nullptr);
}

const json::value* first(const json::value& answer) {
  const json::array* array = answer.if_array();
  return array != nullptr && !array->empty() ? &array->front() : nullptr;
}

std::vector<std::string> bdevs_of(const ExpectedPath& path, const std::string& node) {
  std::vector<std::string> bdevs;
  if (path.attached && node == path.compute_node) {
    bdevs.push_back(path.raid);
    for (const ExpectedReplica& replica : path.replicas) bdevs.push_back(replica.base_bdev);
  }
  for (const ExpectedReplica& replica : path.replicas) {
    if (replica.node != node) continue;
    bdevs.push_back(replica.lvol);
    bdevs.push_back(replica.disk_bdev);
  }
  return bdevs;
}

json::value vhost_controllers(const ExpectedPath& path, Asker& asker) {
  return ask(asker, path.compute_node, "vhost_get_controllers", {{"name", path.vhost}});
}

Look look(const ExpectedPath& path, Asker& asker) {
  Look found;
  for (const ExpectedNode& node : path.nodes)
    if (asker.reach(node.name).reach == Reach::answers)
      found.nodes[node.name] = look_at_counters(asker, node.name, bdevs_of(path, node.name));
  if (!path.attached) return found;
  const json::value controllers = vhost_controllers(path, asker);
  const json::value* controller = first(controllers);
  if (controller == nullptr) return found;
  for_each(member(*controller, "sessions"), [&](const json::value& session) {
    for_each(member(session, "queues"), [&](const json::value& queue) {
      found.queues[integer(queue, "index")] = {.index = integer(queue, "index"),
                                               .inflight = integer(queue, "inflight_task_cnt"),
                                               .waiting = integer(queue, "waiting"),
                                               .unseen = integer(queue, "unseen"),
                                               .completed = integer(queue, "completed"),
                                               .notified = integer(queue, "notified"),
                                               .broken = boolean(queue, "broken")};
    });
  });
  return found;
}

VhostFacts vhost_facts(const ExpectedPath& path, Asker& asker, const Look& before, const Look& after) {
  VhostFacts facts;
  const json::value controllers = vhost_controllers(path, asker);
  const json::value* controller = first(controllers);
  if (controller == nullptr) return facts;
  facts.exists = true;
  const json::value* backend = member(*controller, "backend_specific");
  const json::value* block = backend != nullptr ? member(*backend, "block") : nullptr;
  facts.tells_bdev = block != nullptr && member(*block, "bdev") != nullptr;
  if (facts.tells_bdev) facts.bdev = text(*block, "bdev");
  const json::value* sessions = member(*controller, "sessions");
  facts.tells_sessions = sessions != nullptr && sessions->is_array();
  facts.connected = facts.tells_sessions && !sessions->get_array().empty();
  for (const auto& [index, now] : after.queues) {
    QueueFacts queue = now;
    const auto then = before.queues.find(index);
    // A queue that began between the looks has stood still for no time.
    queue.completed = then != before.queues.end() ? now.completed - then->second.completed : now.completed;
    queue.waiting = then != before.queues.end() ? std::min(now.waiting, then->second.waiting) : 0;
    queue.unseen = then != before.queues.end() ? std::min(now.unseen, then->second.unseen) : 0;
    facts.queues.push_back(queue);
  }
  return facts;
}

void read_leg(const json::value& raid, const ExpectedReplica& replica, LegFacts* leg) {
  for_each(member(raid, "base_bdevs_list"), [&](const json::value& one) {
    if (text(one, "name") != replica.base_bdev) return;
    leg->in_mirror = boolean(one, "is_configured");
    leg->state = text(one, "state");
    leg->reason = text(one, "reason");
  });
}

void observe_raid(const ExpectedPath& path, Asker& asker, Facts* facts) {
  const json::value raids = ask(asker, path.compute_node, "bdev_raid_get_bdevs", {{"category", "all"}});
  for_each(&raids, [&](const json::value& raid) {
    if (text(raid, "name") != path.raid) return;
    RaidFacts& found = facts->raid;
    found.exists = true;
    found.state = text(raid, "state");
    found.fenced = boolean(raid, "fenced");
    if (const json::value* held = member(raid, "held_writes")) found.held_writes = integer(*held, "now");
    for_each(member(raid, "exclusions_wanted"), [&](const json::value& wanted) {
      found.exclusions_wanted +=
          (found.exclusions_wanted.empty() ? "" : "; ") + text(wanted, "leg") + ": " + text(wanted, "reason");
    });
    if (const json::value* waiting = member(raid, "waiting"); waiting != nullptr && waiting->is_object()) {
      found.waiting = true;
      found.waited_ms = integer(*waiting, "for_ms");
      found.wait_limit_s = integer(*waiting, "limit_sec");
      found.gave_up = boolean(*waiting, "gave_up");
    }
    found.stopped = boolean(raid, "stopped");
    found.reason = text(raid, "reason");
    if (const json::value* process = member(raid, "process"); process != nullptr && process->is_object()) {
      found.rebuild_target = text(*process, "target");
      if (const json::value* progress = member(*process, "progress"))
        found.rebuild_percent = integer(*progress, "percent");
    }
    for (ReplicaFacts& replica : facts->replicas) read_leg(raid, replica.expected, &replica.leg);
  });
}

void observe_connection(const ExpectedPath& path, Asker& asker, ReplicaFacts* replica) {
  LegFacts& leg = replica->leg;
  const std::string& node = path.compute_node;
  const json::value controllers =
      ask(asker, node, "bdev_nvme_get_controllers", {{"name", replica->expected.controller}});
  if (const json::value* controller = first(controllers)) {
    leg.controller = true;
    for_each(member(*controller, "ctrlrs"), [&](const json::value& one) {
      leg.controller_state = text(one, "state");
      leg.controller_reason = text(one, "reason");
      if (const json::value* trid = member(one, "trid"))
        leg.where = text(*trid, "traddr") + ":" + text(*trid, "trsvcid");
      if (const json::value* host = member(one, "host")) leg.host_nqn = text(*host, "nqn");
    });
  }
  const json::value paths = ask(asker, node, "bdev_nvme_get_io_paths", {{"name", replica->expected.base_bdev}});
  for_each(member(paths, "poll_groups"), [&](const json::value& group) {
    for_each(member(group, "io_paths"), [&](const json::value& one) {
      ++leg.paths;
      if (!boolean(one, "connected")) ++leg.lost_paths;
    });
  });
}

void read_subsystem(const json::value& subsystem, const ExpectedPath& path, const ExpectedReplica& replica,
                    ExportFacts* facts) {
  facts->subsystem = true;
  facts->any_host = boolean(subsystem, "allow_any_host");
  const ExpectedNode* node = path.node(replica.node);
  for_each(member(subsystem, "listen_addresses"), [&](const json::value& address) {
    facts->listener = facts->listener || (node != nullptr && text(address, "traddr") == node->address &&
                                          text(address, "trsvcid") == node->port);
  });
  for_each(member(subsystem, "hosts"), [&](const json::value& host) {
    if (text(host, "nqn") == path.host_nqn)
      facts->admitted = true;
    else
      facts->other_hosts += (facts->other_hosts.empty() ? "" : " ") + text(host, "nqn");
  });
  for_each(member(subsystem, "namespaces"), [&](const json::value& ns) {
    const std::string bdev = text(ns, "bdev_name");
    facts->namespaces += (facts->namespaces.empty() ? "" : " ") + bdev;
    facts->ns_is_lvol = facts->ns_is_lvol || bdev == replica.lvol || bdev == replica.lvol_alias;
  });
}

void observe_export(const ExpectedPath& path, Asker& asker, ReplicaFacts* replica) {
  const ExpectedReplica& expected = replica->expected;
  ExportFacts& facts = replica->exported;
  const json::value transports = ask(asker, expected.node, "nvmf_get_transports", {});
  for_each(&transports,
           [&](const json::value& one) { facts.transport = facts.transport || text(one, "trtype") == "TCP"; });
  const json::value subsystems = ask(asker, expected.node, "nvmf_get_subsystems", {{"nqn", expected.nqn}});
  if (const json::value* subsystem = first(subsystems)) read_subsystem(*subsystem, path, expected, &facts);
  const json::value controllers = ask(asker, expected.node, "nvmf_subsystem_get_controllers", {{"nqn", expected.nqn}});
  for_each(&controllers, [&](const json::value& one) {
    const std::string host = text(one, "hostnqn");
    if (host == path.host_nqn)
      facts.connected = true;
    else
      facts.other_connected += (facts.other_connected.empty() ? "" : " ") + host;
  });
  const json::value stores = ask(asker, expected.node, "bdev_lvol_get_lvstores", {{"lvs_name", expected.store}});
  if (const json::value* store = first(stores)) {
    facts.store = true;
    facts.free_clusters = integer(*store, "free_clusters");
    facts.total_clusters = integer(*store, "total_data_clusters");
    facts.frozen = text(*store, "frozen_reason");
  }
  const json::value damaged = ask(asker, expected.node, "diskengine_lvol_get_damaged", {});
  for_each(&damaged, [&](const json::value& one) {
    if (text(one, "uuid") == expected.lvol) facts.damage = text(one, "reason");
  });
}

NodeFacts node_facts(const ExpectedNode& node, Asker& asker, const Look& before, const Look& after, int64_t now_ms) {
  NodeFacts facts;
  facts.expected = node;
  facts.reach = asker.reach(node.name);
  if (node.seen_ms > 0) facts.seen_age_ms = std::max<int64_t>(0, now_ms - node.seen_ms);
  const auto then = before.nodes.find(node.name);
  const auto now = after.nodes.find(node.name);
  if (then == before.nodes.end() || now == after.nodes.end()) return facts;
  std::tie(facts.busiest_share, facts.busiest_name) = busiest_between(then->second, now->second);
  facts.ages_known = now->second.ages_known;
  return facts;
}

Flow flow_of(const Look& before, const Look& after, const std::string& node, const std::string& bdev) {
  const auto now = after.nodes.find(node);
  if (now == after.nodes.end()) return {};
  const auto then = before.nodes.find(node);
  return flow_between(then != before.nodes.end() ? then->second : NodeCounters(), now->second, bdev);
}

}  // namespace

Facts observe_path(const ExpectedPath& path, Asker& asker, Environment& environment, int64_t window_ms) {
  Facts facts;
  facts.path = path;
  facts.window_ms = window_ms;
  for (const ExpectedReplica& replica : path.replicas)
    facts.replicas.push_back({.expected = replica, .leg = {}, .exported = {}});
  const Look before = look(path, asker);
  environment.pause_ms(window_ms);
  const Look after = look(path, asker);
  if (path.attached) {
    facts.vhost = vhost_facts(path, asker, before, after);
    observe_raid(path, asker, &facts);
    facts.raid.flow = flow_of(before, after, path.compute_node, path.raid);
  }
  for (ReplicaFacts& replica : facts.replicas) {
    const ExpectedReplica& expected = replica.expected;
    if (path.attached) observe_connection(path, asker, &replica);
    observe_export(path, asker, &replica);
    replica.leg.base = flow_of(before, after, path.compute_node, expected.base_bdev);
    replica.exported.lvol = flow_of(before, after, expected.node, expected.lvol);
    replica.exported.disk = flow_of(before, after, expected.node, expected.disk_bdev);
  }
  for (const ExpectedNode& node : path.nodes)
    facts.nodes.push_back(node_facts(node, asker, before, after, environment.unix_ms()));
  return facts;
}

}  // namespace diskengine::control
