#include <set>

#include "control/dataplane/data_plane.h"
#include "control/dataplane/json_read.h"

namespace diskengine::control {
namespace {

namespace json = boost::json;
using namespace json_read;

SubsystemView subsystem_of(const json::value& value) {
  SubsystemView view;
  view.nqn = text(value, "nqn");
  view.allow_any_host = boolean(value, "allow_any_host");
  view.epoch = integer(value, "epoch");
  for_each(member(value, "namespaces"), [&](const json::value& ns) {
    view.namespaces.push_back({.nsid = integer(ns, "nsid"), .bdev_name = text(ns, "bdev_name")});
  });
  for_each(member(value, "listen_addresses"), [&](const json::value& address) {
    view.listeners.push_back(
        {.trtype = text(address, "trtype"), .traddr = text(address, "traddr"), .trsvcid = text(address, "trsvcid")});
  });
  for_each(member(value, "hosts"), [&](const json::value& host) { view.hosts.push_back(text(host, "nqn")); });
  return view;
}

ControllerView controller_of(const json::value& value) {
  ControllerView view;
  view.name = text(value, "name");
  // One controller has one path in a first cut; with several the first one that works speaks for all.
  for_each(member(value, "ctrlrs"), [&](const json::value& path) {
    if (view.state == "enabled") return;
    view.state = text(path, "state");
    if (const json::value* trid = member(path, "trid")) {
      view.traddr = text(*trid, "traddr");
      view.trsvcid = text(*trid, "trsvcid");
      view.subnqn = text(*trid, "subnqn");
    }
    if (const json::value* host = member(path, "host")) view.hostnqn = text(*host, "nqn");
  });
  return view;
}

RaidView raid_of(const json::value& value) {
  RaidView view;
  view.name = text(value, "name");
  view.state = text(value, "state");
  for_each(member(value, "base_bdevs_list"), [&](const json::value& leg) {
    view.legs.push_back(
        {.name = text(leg, "name"), .configured = boolean(leg, "is_configured"), .state = text(leg, "state")});
  });
  view.epoch = integer(value, "epoch");
  view.is_confirmed = boolean(value, "confirms_exclusions");
  view.is_fenced = boolean(value, "fenced");
  for_each(member(value, "exclusions_wanted"),
           [&](const json::value& wanted) { view.exclusions_wanted.push_back(text(wanted, "leg")); });
  if (const json::value* waiting = member(value, "waiting")) {
    view.is_waiting = true;
    view.waiting_since_unix_ms = integer(*waiting, "since_unix_ms");
    view.waiting_limit_s = integer(*waiting, "limit_sec");
    view.has_given_up = boolean(*waiting, "gave_up");
  }
  view.is_stopped = boolean(value, "stopped");
  if (view.is_stopped) view.stop_reason = text(value, "reason");
  if (const json::value* process = member(value, "process")) {
    view.process_type = text(*process, "type");
    view.process_target = text(*process, "target");
    if (const json::value* progress = member(*process, "progress"))
      view.process_percent = integer(*progress, "percent");
  }
  return view;
}

VhostView vhost_of(const json::value& value) {
  VhostView view;
  view.name = text(value, "ctrlr");
  view.socket = text(value, "socket");
  const json::value* backend = member(value, "backend_specific");
  const json::value* block = backend != nullptr ? member(*backend, "block") : nullptr;
  if (block != nullptr && member(*block, "bdev") != nullptr) view.bdev_name = text(*block, "bdev");
  return view;
}

}  // namespace

Result<std::string> DataPlane::version() {
  TRY_ASSIGN(const json::value answer, call("spdk_get_version", nullptr));
  return text(answer, "version");
}

Result<Abilities> DataPlane::abilities() {
  TRY_ASSIGN(const json::value answer, call("rpc_get_methods", nullptr));
  std::set<std::string> methods;
  for_each(&answer, [&](const json::value& method) {
    if (const json::string* name = method.if_string()) methods.emplace(*name);
  });
  Abilities abilities;
  abilities.holds_writes = methods.contains("diskengine_raid_set_epoch") &&
                           methods.contains("diskengine_raid_confirm_exclusion") &&
                           methods.contains("diskengine_raid_fence") && methods.contains("diskengine_raid_wait_events");
  abilities.keeps_epochs = methods.contains("diskengine_nvmf_subsystem_set_epoch");
  abilities.assembles = abilities.holds_writes && methods.contains("diskengine_raid_assemble");
  return abilities;
}

Result<std::vector<RaidView>> DataPlane::raids() {
  const Result<json::value> answer = call("bdev_raid_get_bdevs", json::object{{"category", "all"}});
  std::vector<RaidView> views;
  if (!answer && answer.error().code() == Errc::not_supported) return views;
  TRY(answer);
  for_each(&*answer, [&](const json::value& entry) { views.push_back(raid_of(entry)); });
  return views;
}

Result<RaidEvents> DataPlane::wait_raid_events(int64_t after, int64_t timeout_ms) {
  TRY_ASSIGN(const json::value answer,
             call("diskengine_raid_wait_events", json::object{{"after", after}, {"timeout_ms", timeout_ms}}));
  RaidEvents events{.instance = text(answer, "instance"),
                    .last_id = integer(answer, "last_id"),
                    .is_lost = boolean(answer, "lost"),
                    .exclusions = {}};
  for_each(member(answer, "events"), [&](const json::value& event) {
    if (text(event, "type") == "exclusion_wanted")
      events.exclusions.push_back(
          {.raid = text(event, "volume"), .epoch = integer(event, "epoch"), .leg = text(event, "leg")});
  });
  return events;
}

Result<std::vector<BdevView>> DataPlane::bdevs() {
  TRY_ASSIGN(const json::value answer, call("bdev_get_bdevs", nullptr));
  std::vector<BdevView> views;
  for_each(&answer, [&](const json::value& bdev) {
    BdevView& view = views.emplace_back();
    view = {.name = text(bdev, "name"),
            .aliases = {},
            .uuid = text(bdev, "uuid"),
            .product_name = text(bdev, "product_name"),
            .num_blocks = integer(bdev, "num_blocks"),
            .block_size = integer(bdev, "block_size")};
    for_each(member(bdev, "aliases"), [&](const json::value& alias) {
      if (const json::string* name = alias.if_string()) view.aliases.emplace_back(*name);
    });
  });
  return views;
}

Result<TargetView> DataPlane::observe_target() {
  TargetView view;
  // A disk that is still being looked at would seem to have no store.
  TRY(call("bdev_wait_for_examine", nullptr));  // SPDK refuses even empty parameters
  TRY_ASSIGN(view.abilities, abilities());
  TRY_ASSIGN(view.bdevs, bdevs());
  TRY_ASSIGN(view.raids, raids());
  TRY_ASSIGN(const json::value stores, call("bdev_lvol_get_lvstores", nullptr));
  for_each(&stores, [&](const json::value& store) {
    view.lvol_stores.push_back({.name = text(store, "name"),
                                .base_bdev = text(store, "base_bdev"),
                                .total_bytes = integer(store, "total_data_clusters") * integer(store, "cluster_size"),
                                .block_size = integer(store, "block_size"),
                                .frozen_reason = text(store, "frozen_reason")});
  });
  TRY_ASSIGN(const json::value transports, call("nvmf_get_transports", nullptr));
  for_each(&transports, [&](const json::value& transport) { view.transports.push_back(text(transport, "trtype")); });
  TRY_ASSIGN(const json::value subsystems, call("nvmf_get_subsystems", nullptr));
  for_each(&subsystems, [&](const json::value& subsystem) { view.subsystems.push_back(subsystem_of(subsystem)); });
  return view;
}

Result<std::vector<std::string>> DataPlane::connected_hosts(const std::string& nqn) {
  TRY_ASSIGN(const json::value answer, call("nvmf_subsystem_get_controllers", json::object{{"nqn", nqn}}));
  std::vector<std::string> hosts;
  for_each(&answer, [&](const json::value& controller) { hosts.push_back(text(controller, "hostnqn")); });
  return hosts;
}

Result<ComputeView> DataPlane::observe_compute() {
  ComputeView view;
  TRY_ASSIGN(view.abilities, abilities());
  TRY_ASSIGN(view.bdevs, bdevs());
  TRY_ASSIGN(const json::value controllers, call("bdev_nvme_get_controllers", nullptr));
  for_each(&controllers, [&](const json::value& entry) { view.controllers.push_back(controller_of(entry)); });
  TRY_ASSIGN(view.raids, raids());
  TRY_ASSIGN(const json::value vhosts, call("vhost_get_controllers", nullptr));
  for_each(&vhosts, [&](const json::value& entry) { view.vhosts.push_back(vhost_of(entry)); });
  return view;
}

}  // namespace diskengine::control
