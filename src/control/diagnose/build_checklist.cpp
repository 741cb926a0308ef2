// What each object of the path is proved by, and how the answer is judged.
#include <fmt/format.h>

#include <algorithm>
#include <boost/json.hpp>

#include "control/dataplane/json_read.h"
#include "control/diagnose/checklist.h"
#include "control/sizes.h"

namespace diskengine::control {
namespace {

namespace json = boost::json;
using namespace json_read;

Finding pass(std::string evidence) { return {Verdict::pass, std::move(evidence)}; }
Finding warn(std::string evidence) { return {Verdict::warn, std::move(evidence)}; }
Finding fail(std::string evidence) { return {Verdict::fail, std::move(evidence)}; }

// The element of an answer whose `key` is `name`, or nullptr.
const json::value* element(const json::value& answer, std::string_view key, std::string_view name) {
  const json::value* found = nullptr;
  for_each(&answer, [&](const json::value& one) {
    if (text(one, key) == name) found = &one;
  });
  return found;
}

const json::value* only(const json::value& answer) {
  const json::array* array = answer.if_array();
  return array != nullptr && !array->empty() ? &array->front() : nullptr;
}

std::string or_none(const std::string& text) { return text.empty() ? "none" : text; }

// --- compute node ---------------------------------------------------------------------------------------------------

Finding judge_vhost(const json::value& answer, const ExpectedPath& path) {
  const json::value* controller = only(answer);
  if (controller == nullptr) return fail("there is no such controller");
  const json::value* backend = member(*controller, "backend_specific");
  const json::value* block = backend != nullptr ? member(*backend, "block") : nullptr;
  const json::value* bdev = block != nullptr ? member(*block, "bdev") : nullptr;
  if (bdev != nullptr && text(*block, "bdev") != path.raid)
    return fail(fmt::format("it exposes {}, not {}", or_none(text(*block, "bdev")), path.raid));
  const std::string socket = text(*controller, "socket");
  if (!socket.empty() && socket != path.socket)
    return fail(fmt::format("its socket is {}; the VM was given {}", socket, path.socket));
  const json::value* sessions = member(*controller, "sessions");
  const bool connected = sessions != nullptr && sessions->is_array() && !sessions->get_array().empty();
  const std::string offers = bdev != nullptr ? fmt::format("exposes {} at {}", path.raid, socket) : "it is there";
  if (sessions != nullptr && !connected) return warn(offers + "; no VM is connected to it");
  std::string broken;
  for_each(sessions, [&](const json::value& session) {
    for_each(member(session, "queues"), [&](const json::value& queue) {
      if (boolean(queue, "broken")) broken += fmt::format(" {}", integer(queue, "index"));
    });
  });
  if (!broken.empty()) return fail(fmt::format("{}; broken queues:{}", offers, broken));
  return pass(offers + (connected ? "; a VM is connected" : ""));
}

Finding judge_raid(const json::value& answer, const ExpectedPath& path) {
  const json::value* raid = element(answer, "name", path.raid);
  if (raid == nullptr) return fail("there is no such RAID bdev");
  const std::string state = text(*raid, "state");
  if (state != "online") return fail(fmt::format("it is {}, not online", state));
  if (boolean(*raid, "fenced")) return fail("its writer was stopped for good: a later epoch began");
  std::string legs;
  std::string amiss;
  for (const ExpectedReplica& replica : path.replicas) {
    const json::value* list = member(*raid, "base_bdevs_list");
    const json::value* leg = list != nullptr ? element(*list, "name", replica.base_bdev) : nullptr;
    const bool here = leg != nullptr && boolean(*leg, "is_configured");
    (here ? legs : amiss) += fmt::format(" {}", replica.base_bdev);
  }
  const json::value* process = member(*raid, "process");
  if (process != nullptr) {
    const json::value* progress = member(*process, "progress");
    amiss += fmt::format(" (rebuilding {}: {} %)", text(*process, "target"),
                         progress != nullptr ? integer(*progress, "percent") : 0);
  }
  if (!amiss.empty()) return warn(fmt::format("online with{}; degraded, not current:{}", or_none(legs), amiss));
  return pass("online with" + legs);
}

Finding judge_size(const json::value& answer, const ExpectedPath& path) {
  const json::value* bdev = only(answer);
  if (bdev == nullptr) return fail("there is no such bdev");
  const int64_t bytes = integer(*bdev, "num_blocks") * integer(*bdev, "block_size");
  if (integer(*bdev, "block_size") != path.block_size || bytes < path.size_bytes)
    return fail(fmt::format("{} blocks of {} bytes, the volume needs {} bytes in blocks of {}",
                            integer(*bdev, "num_blocks"), integer(*bdev, "block_size"), path.size_bytes,
                            path.block_size));
  return pass(fmt::format("{} in blocks of {}", format_size(bytes), path.block_size));
}

Finding judge_controller(const json::value& answer, const ExpectedPath& path, const ExpectedReplica& replica) {
  const json::value* controller = only(answer);
  const json::value* paths = controller != nullptr ? member(*controller, "ctrlrs") : nullptr;
  const json::value* first = paths != nullptr ? only(*paths) : nullptr;
  if (first == nullptr) return fail("there is no such controller");
  const std::string state = text(*first, "state");
  const std::string reason = text(*first, "reason");
  if (state != "enabled") return fail(fmt::format("it is {}{}{}", state, reason.empty() ? "" : ": ", reason));
  const json::value* trid = member(*first, "trid");
  const ExpectedNode* node = path.node(replica.node);
  if (trid != nullptr && node != nullptr) {
    const std::string where = text(*trid, "traddr") + ":" + text(*trid, "trsvcid");
    if (where != node->address + ":" + node->port)
      return fail(
          fmt::format("it is connected to {}, {} exports at {}:{}", where, node->name, node->address, node->port));
    if (!text(*trid, "subnqn").empty() && text(*trid, "subnqn") != replica.nqn)
      return fail(fmt::format("it is connected to {}", text(*trid, "subnqn")));
  }
  const json::value* host = member(*first, "host");
  const std::string host_nqn = host != nullptr ? text(*host, "nqn") : std::string();
  if (!host_nqn.empty() && host_nqn != path.host_nqn)
    return fail(fmt::format("it connects as {}, the attachment is {}", host_nqn, path.host_nqn));
  return pass("enabled" + (trid != nullptr
                               ? fmt::format(", connected to {}:{}", text(*trid, "traddr"), text(*trid, "trsvcid"))
                               : std::string()));
}

Finding judge_io_paths(const json::value& answer) {
  int64_t connected = 0;
  int64_t lost = 0;
  for_each(member(answer, "poll_groups"), [&](const json::value& group) {
    for_each(member(group, "io_paths"),
             [&](const json::value& path) { ++(boolean(path, "connected") ? connected : lost); });
  });
  if (connected + lost == 0) return warn("nothing has it open, so there is no I/O path");
  if (lost > 0) return fail(fmt::format("{} of {} I/O paths are not connected", lost, connected + lost));
  return pass(fmt::format("{} I/O paths, all connected", connected));
}

void add_compute_checks(const ExpectedPath& path, std::vector<Check>* checks) {
  const std::string& node = path.compute_node;
  checks->push_back({"vhost",
                     node,
                     path.vhost,
                     "the VM's disk: a vhost-user-blk controller on the mirror",
                     "vhost_get_controllers",
                     {{"name", path.vhost}},
                     [path](const json::value& answer) { return judge_vhost(answer, path); }});
  checks->push_back({"raid",
                     node,
                     path.raid,
                     "the mirror is online with every replica",
                     "bdev_raid_get_bdevs",
                     {{"category", "all"}},
                     [path](const json::value& answer) { return judge_raid(answer, path); }});
  for (const ExpectedReplica& replica : path.replicas) {
    checks->push_back({"initiator",
                       node,
                       replica.base_bdev,
                       "the mirror's leg has the volume's size",
                       "bdev_get_bdevs",
                       {{"name", replica.base_bdev}},
                       [path](const json::value& answer) { return judge_size(answer, path); }});
    checks->push_back({"initiator",
                       node,
                       replica.controller,
                       "the NVMe controller is connected to the replica's export as the current writer",
                       "bdev_nvme_get_controllers",
                       {{"name", replica.controller}},
                       [path, replica](const json::value& answer) { return judge_controller(answer, path, replica); }});
    checks->push_back({"initiator",
                       node,
                       replica.base_bdev,
                       "every I/O path of the leg is connected",
                       "bdev_nvme_get_io_paths",
                       {{"name", replica.base_bdev}},
                       judge_io_paths});
  }
}

// --- storage nodes --------------------------------------------------------------------------------------------------

Finding judge_subsystem(const json::value& answer) {
  return only(answer) != nullptr ? pass("it exists") : fail("there is no such subsystem: the replica is not exported");
}

Finding judge_listener(const json::value& answer, const ExpectedNode& node) {
  std::string found;
  bool listens = false;
  for_each(&answer, [&](const json::value& listener) {
    const json::value* address = member(listener, "address");
    if (address == nullptr) return;
    listens = listens || (text(*address, "traddr") == node.address && text(*address, "trsvcid") == node.port);
    found += fmt::format(" {} {}:{}", text(*address, "trtype"), text(*address, "traddr"), text(*address, "trsvcid"));
  });
  if (!listens) return fail(fmt::format("no listener at {}:{}; there are:{}", node.address, node.port, or_none(found)));
  return pass("listens at" + found);
}

Finding judge_hosts(const json::value& answer, const std::string& wanted) {
  const json::value* subsystem = only(answer);
  if (subsystem == nullptr) return fail("there is no such subsystem");
  if (boolean(*subsystem, "allow_any_host")) return fail("it admits any host: a former writer is not cut off");
  std::string others;
  bool admitted = false;
  for_each(member(*subsystem, "hosts"), [&](const json::value& host) {
    if (text(host, "nqn") == wanted)
      admitted = true;
    else
      others += " " + text(host, "nqn");
  });
  if (!others.empty()) return fail("it admits hosts that must not write:" + others);
  if (wanted.empty()) return pass("it admits nobody: the volume is not attached");
  return admitted ? pass("it admits exactly the current writer") : fail(fmt::format("it does not admit {}", wanted));
}

Finding judge_namespace(const json::value& answer, const ExpectedReplica& replica) {
  const json::value* subsystem = only(answer);
  if (subsystem == nullptr) return fail("there is no such subsystem");
  std::string found;
  bool exported = false;
  for_each(member(*subsystem, "namespaces"), [&](const json::value& ns) {
    const std::string bdev = text(ns, "bdev_name");
    exported = exported || bdev == replica.lvol || bdev == replica.lvol_alias;
    found += fmt::format(" {}={}", integer(ns, "nsid"), bdev);
  });
  if (!exported) return fail(fmt::format("no namespace is backed by the lvol; there are:{}", or_none(found)));
  return pass("namespace" + found);
}

Finding judge_connected(const json::value& answer, const std::string& wanted) {
  std::string others;
  int64_t ours = 0;
  for_each(&answer, [&](const json::value& controller) {
    if (text(controller, "hostnqn") == wanted)
      ++ours;
    else
      others += " " + text(controller, "hostnqn");
  });
  if (!others.empty()) return fail("hosts that must not write are connected:" + others);
  if (wanted.empty()) return pass("nobody is connected: the volume is not attached");
  return ours > 0 ? pass("the current writer is connected") : fail(fmt::format("{} is not connected", wanted));
}

Finding judge_lvol(const json::value& answer, const ExpectedReplica& replica, int64_t size_bytes) {
  const json::value* bdev = only(answer);
  if (bdev == nullptr) return fail("there is no such lvol");
  const json::value* aliases = member(*bdev, "aliases");
  bool named = false;
  for_each(aliases, [&](const json::value& alias) { named = named || alias == json::value(replica.lvol_alias); });
  if (!named) return fail(fmt::format("it is not {}", replica.lvol_alias));
  const int64_t bytes = integer(*bdev, "num_blocks") * integer(*bdev, "block_size");
  if (bytes < size_bytes)
    return fail(fmt::format("{}, the volume needs {}", format_size(bytes), format_size(size_bytes)));
  return pass(fmt::format("{} of {}", replica.lvol_alias, format_size(bytes)));
}

Finding judge_store(const json::value& answer, const ExpectedReplica& replica) {
  const json::value* store = only(answer);
  if (store == nullptr) return fail("there is no such lvol store");
  if (text(*store, "base_bdev") != replica.disk_bdev)
    return fail(fmt::format("it is on {}, not on {}", text(*store, "base_bdev"), replica.disk_bdev));
  const std::string frozen = text(*store, "frozen_reason");
  if (!frozen.empty()) return fail("its metadata cannot be written: " + frozen);
  const int64_t free = integer(*store, "free_clusters");
  const int64_t total = integer(*store, "total_data_clusters");
  const std::string room = fmt::format("on {}, {} of {} clusters free", replica.disk_bdev, free, total);
  if (free == 0) return fail(room + ": a write to a new place fails or waits");
  if (integer(*store, "damaged_lvols") > 0)
    return warn(fmt::format("{}; {} of its lvols are damaged", room, integer(*store, "damaged_lvols")));
  return free < total / 10 ? warn(room) : pass(room);
}

Finding judge_disk(const json::value& answer) {
  const json::value* bdev = only(answer);
  if (bdev == nullptr) return fail("there is no such disk");
  return pass(fmt::format("{}, {} blocks of {} bytes", text(*bdev, "product_name"), integer(*bdev, "num_blocks"),
                          integer(*bdev, "block_size")));
}

void add_replica_checks(const ExpectedPath& path, const ExpectedReplica& replica, std::vector<Check>* checks) {
  const std::string& node = replica.node;
  const std::string host = path.attached ? path.host_nqn : std::string();
  const json::object nqn{{"nqn", replica.nqn}};
  checks->push_back(
      {"target", node, replica.nqn, "the replica's subsystem exists", "nvmf_get_subsystems", nqn, judge_subsystem});
  if (const ExpectedNode* known = path.node(node))
    checks->push_back({"target", node, fmt::format("{}:{}", known->address, known->port),
                       "the subsystem listens where the initiator connects", "nvmf_subsystem_get_listeners", nqn,
                       [known = *known](const json::value& answer) { return judge_listener(answer, known); }});
  checks->push_back({"target", node, host.empty() ? "no host" : host, "the export admits exactly the current writer",
                     "nvmf_get_subsystems", nqn,
                     [host](const json::value& answer) { return judge_hosts(answer, host); }});
  checks->push_back({"target", node, or_none(replica.lvol), "the namespace is backed by the replica's lvol",
                     "nvmf_get_subsystems", nqn,
                     [replica](const json::value& answer) { return judge_namespace(answer, replica); }});
  checks->push_back({"target", node, host.empty() ? "no host" : host, "nobody but the writer is connected",
                     "nvmf_subsystem_get_controllers", nqn,
                     [host](const json::value& answer) { return judge_connected(answer, host); }});
  checks->push_back(
      {"lvol",
       node,
       or_none(replica.lvol),
       "the lvol exists with the volume's size",
       "bdev_get_bdevs",
       {{"name", replica.lvol}},
       [replica, size = path.size_bytes](const json::value& answer) { return judge_lvol(answer, replica, size); }});
  checks->push_back({"lvol",
                     node,
                     or_none(replica.store),
                     "the lvol store is loaded and has room",
                     "bdev_lvol_get_lvstores",
                     {{"lvs_name", replica.store}},
                     [replica](const json::value& answer) { return judge_store(answer, replica); }});
  checks->push_back({"disk",
                     node,
                     replica.disk_bdev,
                     fmt::format("the physical disk {} is attached", replica.disk_controller),
                     "bdev_get_bdevs",
                     {{"name", replica.disk_bdev}},
                     judge_disk});
}

}  // namespace

std::vector<Check> build_checklist(const ExpectedPath& path) {
  std::vector<Check> checks;
  if (path.attached) add_compute_checks(path, &checks);
  for (const ExpectedReplica& replica : path.replicas) add_replica_checks(path, replica, &checks);
  return checks;
}

}  // namespace diskengine::control
