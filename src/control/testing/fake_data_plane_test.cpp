#include "control/testing/fake_data_plane.h"

#include <algorithm>
#include <boost/json.hpp>
#include <functional>
#include <mutex>

#include "control/dataplane/json_read.h"
#include "control/testing/fake_state.h"

namespace diskengine::control {
namespace {

namespace json = boost::json;
using namespace json_read;

std::string endpoint(const json::value& address) { return text(address, "traddr") + ":" + text(address, "trsvcid"); }

}  // namespace

namespace {

const std::set<std::string> kObservers = {
    "spdk_get_version",          "bdev_get_bdevs",      "nvmf_get_transports",   "nvmf_get_subsystems",
    "bdev_nvme_get_controllers", "bdev_raid_get_bdevs", "vhost_get_controllers", "bdev_lvol_get_lvstores",
    "bdev_wait_for_examine",     "rpc_get_methods"};

// Methods that not every data plane has.
const std::vector<std::string> kAbilities = {"diskengine_raid_set_epoch", "diskengine_raid_confirm_exclusion",
                                             "diskengine_raid_fence",     "diskengine_raid_wait_events",
                                             "diskengine_raid_assemble",  "diskengine_nvmf_subsystem_set_epoch"};

}  // namespace

FakeSubsystem& FakeDataPlane::State::subsystem(const json::value& params) {
  const auto found = subsystems.find(text(params, "nqn"));
  if (found == subsystems.end()) throw RpcFailure{-32603, "Unable to find subsystem"};
  return found->second;
}

const FakeSubsystem* FakeDataPlane::State::reach(const FakeController& controller) const {
  const auto target = fabric->listeners.find(controller.address + ":" + controller.port);
  if (target == fabric->listeners.end()) return nullptr;
  const State& there = *target->second->state_;
  const auto found = there.subsystems.find(controller.nqn);
  if (found == there.subsystems.end() || !found->second.hosts.contains(controller.host)) return nullptr;
  return found->second.bdev.empty() ? nullptr : &found->second;
}

void FakeDataPlane::State::add_bdev(const std::string& name, const std::string& product, const json::value& params) {
  if (bdevs.contains(name)) throw RpcFailure{-17, "File exists"};
  FakeBdev bdev;
  bdev.product = product;
  bdev.block_size = integer(params, "block_size");
  bdev.num_blocks = integer(params, "num_blocks");
  bdevs[name] = bdev;
}

void FakeDataPlane::State::remove_bdev(const std::string& name) {
  if (bdevs.erase(name) == 0) throw RpcFailure{-19, "No such device"};
  for (auto& [nqn, subsystem] : subsystems)
    if (subsystem.bdev == name) subsystem.bdev.clear();
  for (auto& [raid_name, raid] : raids)
    for (std::string& leg : raid.legs)
      if (leg == name) leg.clear();
  for (auto& [ctrlr, bdev] : vhosts)
    if (bdev == name) bdev.clear();
}

void FakeDataPlane::State::attach(const json::value& params) {
  const std::string name = text(params, "name");
  if (controllers.contains(name)) throw RpcFailure{-114, "A controller named " + name + " already exists"};
  const FakeController controller{.address = text(params, "traddr"),
                                  .port = text(params, "trsvcid"),
                                  .nqn = text(params, "subnqn"),
                                  .host = text(params, "hostnqn"),
                                  .connected = true};
  if (!fabric->listeners.contains(controller.address + ":" + controller.port))
    throw RpcFailure{-111, "Connection refused"};
  const FakeSubsystem* target = reach(controller);
  if (target == nullptr) throw RpcFailure{-5, "Input/output error"};
  const State& there = *fabric->listeners.at(controller.address + ":" + controller.port)->state_;
  const FakeBdev& backing = there.bdevs.at(target->bdev);
  controllers[name] = controller;
  FakeBdev bdev = backing;
  bdev.product = "NVMe disk";
  bdev.uuid = target->ns_uuid;
  bdevs[name + "n1"] = bdev;
}

void FakeDataPlane::State::create_file_bdev(const std::string& method, const json::value& params) {
  const std::string name = text(params, "name");
  const std::string path = text(params, "filename");
  // The size of the real file, as a real data plane would see it.
  FILE* file = std::fopen(path.c_str(), "rb");
  if (file == nullptr) throw RpcFailure{-2, "No such file or directory"};
  std::fseek(file, 0, SEEK_END);
  const int64_t bytes = std::ftell(file);
  std::fclose(file);
  add_bdev(name, method == "bdev_aio_create" ? "AIO disk" : "URING bdev", params);
  bdevs.at(name).num_blocks = bytes / bdevs.at(name).block_size;
  disks[name] = path;
  if (stored.contains(path)) show_lvols(name);
}

// The lvols of the store on a disk as bdevs, as examination finds them.
void FakeDataPlane::State::show_lvols(const std::string& disk_bdev) {
  const FakeLvolStore& store = stored.at(disks.at(disk_bdev));
  for (const auto& [name, lvol] : store.lvols)
    bdevs[lvol.uuid] = FakeBdev{.product = "Logical Volume",
                                .uuid = lvol.uuid,
                                .num_blocks = lvol.num_blocks,
                                .block_size = bdevs.at(disk_bdev).block_size,
                                .claimed_by = {},
                                .alias = store.name + "/" + name};
}

void FakeDataPlane::State::create_store(const json::value& params) {
  const std::string bdev = text(params, "bdev_name");
  if (!bdevs.contains(bdev)) throw RpcFailure{-19, "No such device"};
  if (stored.contains(disks.at(bdev))) throw RpcFailure{-17, "File exists"};
  FakeLvolStore store;
  store.name = text(params, "lvs_name");
  store.cluster_bytes = integer(params, "cluster_sz");
  store.total_clusters = bdevs.at(bdev).num_blocks * bdevs.at(bdev).block_size / store.cluster_bytes - 1;
  stored[disks.at(bdev)] = store;
}

void FakeDataPlane::State::create_lvol(const json::value& params) {
  const auto disk = std::find_if(disks.begin(), disks.end(), [&](const auto& entry) {
    return stored.contains(entry.second) && stored.at(entry.second).name == text(params, "lvs_name");
  });
  if (disk == disks.end()) throw RpcFailure{-19, "No such device"};
  FakeLvolStore& store = stored.at(disk->second);
  const std::string name = text(params, "lvol_name");
  if (store.lvols.contains(name)) throw RpcFailure{-17, "lvol with name " + name + " already exists"};
  const std::string uuid = "00000000-0000-4000-8000-" + std::to_string(100000000000 + ++fabric->uuids_made);
  store.lvols[name] = {.uuid = uuid,
                       .num_blocks = (integer(params, "size_in_mib") << 20) / bdevs.at(disk->first).block_size};
  show_lvols(disk->first);
  reply = uuid;
}

void FakeDataPlane::State::delete_lvol(const std::string& alias) {
  for (auto& [path, store] : stored)
    for (const auto& [name, lvol] : store.lvols)
      if (store.name + "/" + name == alias) {
        remove_bdev(lvol.uuid);
        store.lvols.erase(name);
        return;
      }
  throw RpcFailure{-19, "No such device"};
}

int64_t& FakeDataPlane::State::kept_epoch(const std::string& uuid) {
  for (auto& [path, store] : stored)
    for (const auto& [name, lvol] : store.lvols)
      if (lvol.uuid == uuid) return store.epochs[uuid];
  throw RpcFailure{-19, "No such device"};
}

// True if the method was one of bdev_lvol_*.
bool FakeDataPlane::State::change_lvols(const std::string& method, const json::value& params) {
  if (method == "bdev_lvol_create_lvstore")
    create_store(params);
  else if (method == "bdev_lvol_create")
    create_lvol(params);
  else if (method == "bdev_lvol_delete")
    delete_lvol(text(params, "name"));
  else
    return false;
  return true;
}

void FakeDataPlane::State::change_target(const std::string& method, const json::value& params) {
  const std::string nqn = text(params, "nqn");
  if (change_lvols(method, params)) return;
  if (method == "bdev_uring_create" || method == "bdev_aio_create") {
    create_file_bdev(method, params);
  } else if (method == "nvmf_create_transport") {
    if (has_tcp) throw RpcFailure{-32603, "Transport type 'TCP' already exists"};
    has_tcp = true;
  } else if (method == "nvmf_create_subsystem") {
    if (!subsystems.try_emplace(nqn).second) throw RpcFailure{-32603, "Unable to create subsystem " + nqn};
  } else if (method == "nvmf_delete_subsystem") {
    subsystem(params);
    subsystems.erase(nqn);
  } else if (method == "nvmf_subsystem_add_ns") {
    const json::value& ns = *member(params, "namespace");
    if (!bdevs.contains(text(ns, "bdev_name"))) throw RpcFailure{-32602, "Invalid parameters"};
    subsystem(params).bdev = text(ns, "bdev_name");
    subsystem(params).ns_uuid = text(ns, "uuid");
    subsystem(params).epoch = kept_epoch(text(ns, "bdev_name"));
  } else if (method == "diskengine_nvmf_subsystem_set_epoch") {
    FakeSubsystem& held = subsystem(params);
    if (integer(params, "epoch") < held.epoch) throw RpcFailure{-116, "a later epoch began"};
    held.epoch = kept_epoch(held.bdev) = integer(params, "epoch");
  } else if (method == "nvmf_subsystem_remove_ns") {
    subsystem(params).bdev.clear();
  } else if (method == "nvmf_subsystem_add_listener") {
    if (!has_tcp) throw RpcFailure{-32602, "Invalid parameters"};
    const std::string at = endpoint(*member(params, "listen_address"));
    subsystem(params).listeners.push_back(at);
    fabric->listeners[at] = self;
  } else if (method == "nvmf_subsystem_add_host") {
    const std::string host = text(params, "host");
    const int64_t epoch = subsystem(params).epoch;
    if (epoch != 0 && !host.ends_with(":" + std::to_string(epoch)))
      throw RpcFailure{-32603, "the subsystem is held by another epoch"};
    subsystem(params).hosts.insert(host);
  } else if (method == "nvmf_subsystem_remove_host") {
    const std::string host = text(params, "host");
    const bool was_connected = json::serialize(controllers_on(nqn)).find('"' + host + '"') != std::string::npos;
    if (subsystem(params).hosts.erase(host) == 0) throw RpcFailure{-32603, "Internal error"};
    if (was_connected && held_hosts.contains(host)) {
      subsystem(params).draining.insert(host);
      throw RpcFailure{-32603, "Timeout reached during host removal"};
    }
  } else {
    throw RpcFailure{-32601, "Method not found"};
  }
}

void FakeDataPlane::State::change_compute(const std::string& method, const json::value& params) {
  const std::string name = text(params, "name");
  if (change_raids(method, params)) return;
  if (method == "bdev_nvme_attach_controller") {
    attach(params);
  } else if (method == "bdev_nvme_detach_controller") {
    if (controllers.erase(name) == 0) throw RpcFailure{-19, "No such device"};
    remove_bdev(name + "n1");
  } else if (method == "bdev_null_create" || method == "bdev_malloc_create") {
    add_bdev(name, "Null disk", params);
  } else if (method == "bdev_null_delete" || method == "bdev_malloc_delete") {
    remove_bdev(name);
  } else if (method == "vhost_create_blk_controller") {
    const std::string ctrlr = text(params, "ctrlr");
    if (vhosts.contains(ctrlr)) throw RpcFailure{-32602, "File exists"};
    if (!bdevs.contains(text(params, "dev_name"))) throw RpcFailure{-32602, "No such device"};
    vhosts[ctrlr] = text(params, "dev_name");
  } else if (method == "vhost_delete_controller") {
    if (vhosts.erase(text(params, "ctrlr")) == 0) throw RpcFailure{-32602, "No such device"};
  } else {
    change_target(method, params);
  }
}

json::value FakeDataPlane::State::controllers_on(const std::string& nqn) const {
  json::array list;
  const auto found = subsystems.find(nqn);
  if (found == subsystems.end()) throw RpcFailure{-32602, "Invalid parameters"};
  for (const FakeDataPlane* plane : fabric->planes)
    for (const auto& [name, controller] : plane->state_->controllers)
      if (controller.connected && reach(controller) == &found->second)
        list.emplace_back(json::object{{"hostnqn", controller.host}});
  for (const std::string& host : found->second.draining) list.emplace_back(json::object{{"hostnqn", host}});
  return list;
}

json::value FakeDataPlane::State::observe(const std::string& method) const {
  json::array list;
  if (method == "spdk_get_version") return {{"version", "fake"}};
  if (method == "bdev_wait_for_examine") return true;
  if (method == "rpc_get_methods") {
    for (const std::string& name : kAbilities)
      if (!lacking.contains(name)) list.emplace_back(name);
    return list;
  }
  if (method == "bdev_lvol_get_lvstores") {
    for (const auto& [bdev, path] : disks)
      if (const auto found = stored.find(path); found != stored.end())
        list.emplace_back(json::object{{"name", found->second.name},
                                       {"base_bdev", bdev},
                                       {"total_data_clusters", found->second.total_clusters},
                                       {"cluster_size", found->second.cluster_bytes},
                                       {"frozen_reason", found->second.frozen_reason},
                                       {"block_size", bdevs.at(bdev).block_size}});
  } else if (method == "bdev_get_bdevs") {
    for (const auto& [name, bdev] : bdevs)
      list.emplace_back(json::object{{"name", name},
                                     {"aliases", bdev.alias.empty() ? json::array() : json::array{bdev.alias}},
                                     {"uuid", bdev.uuid},
                                     {"product_name", bdev.product},
                                     {"num_blocks", bdev.num_blocks},
                                     {"block_size", bdev.block_size}});
  } else if (method == "nvmf_get_transports" && has_tcp) {
    list.emplace_back(json::object{{"trtype", "TCP"}});
  } else if (method == "nvmf_get_subsystems") {
    for (const auto& [nqn, subsystem] : subsystems) {
      json::array hosts, namespaces, addresses;
      for (const std::string& host : subsystem.hosts) hosts.emplace_back(json::object{{"nqn", host}});
      if (!subsystem.bdev.empty()) namespaces.emplace_back(json::object{{"nsid", 1}, {"bdev_name", subsystem.bdev}});
      for (const std::string& at : subsystem.listeners) {
        const size_t colon = at.rfind(':');
        addresses.push_back({{"trtype", "TCP"}, {"traddr", at.substr(0, colon)}, {"trsvcid", at.substr(colon + 1)}});
      }
      list.emplace_back(json::object{{"nqn", nqn},
                                     {"allow_any_host", false},
                                     {"epoch", subsystem.epoch},
                                     {"hosts", hosts},
                                     {"namespaces", namespaces},
                                     {"listen_addresses", addresses}});
    }
  } else if (method == "bdev_nvme_get_controllers") {
    for (const auto& [name, controller] : controllers) {
      const json::object path{
          {"state", controller.connected && reach(controller) != nullptr ? "enabled" : "reconnect_is_delayed"},
          {"trid",
           {{"trtype", "TCP"},
            {"traddr", controller.address},
            {"trsvcid", controller.port},
            {"subnqn", controller.nqn}}},
          {"host", {{"nqn", controller.host}}}};
      list.emplace_back(json::object{{"name", name}, {"ctrlrs", json::array{path}}});
    }
  } else if (method == "bdev_raid_get_bdevs") {
    for (const auto& [name, mirror] : raids) list.push_back(raid_json(name, mirror));
  } else if (method == "vhost_get_controllers") {
    for (const auto& [name, bdev] : vhosts)
      list.emplace_back(json::object{
          {"ctrlr", name},
          {"socket", "/tmp/" + name},
          {"backend_specific", {{"block", {{"bdev", bdev.empty() ? json::value(nullptr) : json::value(bdev)}}}}}});
  }
  return list;
}

json::value FakeDataPlane::State::handle(const std::string& method, const json::value& params) {
  if (method == "diskengine_raid_wait_events") return wait_events(params);
  const std::lock_guard lock(fabric->mutex);
  if (lacking.contains(method)) throw RpcFailure{-32601, "Method not found"};
  if (const auto failure = failures.find(method); failure != failures.end()) {
    const RpcFailure thrown = failure->second;
    failures.erase(failure);
    throw thrown;
  }
  if (kObservers.contains(method)) return observe(method);
  if (method == "bdev_nvme_set_options") return true;
  if (method == "nvmf_subsystem_get_controllers") return controllers_on(text(params, "nqn"));
  reply = true;
  change_compute(method, params);
  std::string object = text(params, "name");
  if (object.empty()) object = text(params, "nqn");
  if (object.empty()) object = text(params, "ctrlr");
  if (object.empty()) object = text(params, "lvol_name");
  if (object.empty()) object = text(params, "base_bdev");
  changes.push_back(object.empty() ? method : method + " " + object);
  return reply;
}

void FakeDataPlane::State::serve_connection(client::UnixStream stream) {
  char buffer[65536];
  json::stream_parser parser;
  while (!stopping) {
    const Result<size_t> received = stream.read_some(buffer, sizeof(buffer), client::Deadline::after_ms(20));
    if (!received && received.error().code() == Errc::timed_out) continue;
    if (!received || *received == 0) return;
    parser.write(buffer, *received);
    if (!parser.done()) continue;
    const json::value request = parser.release();
    parser.reset();
    json::object answer{{"jsonrpc", "2.0"}, {"id", request.at("id")}};
    try {
      const json::value* params = member(request, "params");
      answer["result"] = handle(text(request, "method"), params != nullptr ? *params : json::value());
    } catch (const RpcFailure& failure) {
      answer["error"] = {{"code", failure.code}, {"message", failure.message}};
    }
    if (!stream.write_all(json::serialize(answer), client::Deadline::after_ms(5000))) return;
  }
}

// One connection at a time is all a node's loops need; each test's client has one.
void FakeDataPlane::State::serve() {
  std::vector<std::thread> connections;
  while (!stopping) {
    Result<client::UnixStream> accepted = listener->accept(20);
    if (!accepted) continue;
    connections.emplace_back([this, stream = std::make_shared<client::UnixStream>(std::move(*accepted))] {
      serve_connection(std::move(*stream));
    });
  }
  for (std::thread& connection : connections) connection.join();
}

FakeDataPlane::FakeDataPlane(std::string socket_path, std::shared_ptr<FakeFabric> fabric)
    : state_(std::make_unique<State>()) {
  state_->socket_path = std::move(socket_path);
  state_->fabric = std::move(fabric);
  state_->self = this;
  const std::lock_guard lock(state_->fabric->mutex);
  state_->fabric->planes.push_back(this);
}

FakeDataPlane::~FakeDataPlane() {
  stop();
  const std::lock_guard lock(state_->fabric->mutex);
  std::erase(state_->fabric->planes, this);
}

void FakeDataPlane::start() {
  Result<client::UnixListener> listener = client::UnixListener::listen(state_->socket_path);
  DE_ASSERT(listener.has_value());
  state_->listener.emplace(std::move(*listener));
  state_->stopping = false;
  ++state_->starts;
  state_->thread = std::thread([this] { state_->serve(); });
}

void FakeDataPlane::stop() {
  if (!state_->thread.joinable()) return;
  state_->stopping = true;
  state_->thread.join();
  state_->listener.reset();
  const std::lock_guard lock(state_->fabric->mutex);
  std::erase_if(state_->fabric->listeners, [&](const auto& entry) { return entry.second == this; });
  for (auto& [path, store] : state_->stored) store.frozen_reason.clear();
  state_->bdevs.clear();
  state_->disks.clear();
  state_->subsystems.clear();
  state_->controllers.clear();
  state_->raids.clear();
  state_->vhosts.clear();
  state_->has_tcp = false;
  state_->events.clear();
}

void FakeDataPlane::fail_next(const std::string& method, int code, const std::string& message) {
  const std::lock_guard lock(state_->fabric->mutex);
  state_->failures[method] = RpcFailure{code, message};
}

void FakeDataPlane::lose_disks() {
  const std::lock_guard lock(state_->fabric->mutex);
  state_->stored.clear();
}

void FakeDataPlane::freeze_stores(const std::string& reason) {
  const std::lock_guard lock(state_->fabric->mutex);
  for (auto& [path, store] : state_->stored) store.frozen_reason = reason;
}

void FakeDataPlane::lose_lvols() {
  const std::lock_guard lock(state_->fabric->mutex);
  for (auto& [path, store] : state_->stored) store.lvols.clear();
}

void FakeDataPlane::put_foreign_store(const std::string& path) {
  const std::lock_guard lock(state_->fabric->mutex);
  FakeLvolStore& store = state_->stored[path];
  store.name = "lvs_of_others";
  store.cluster_bytes = 1 << 20;
  store.total_clusters = 8;
}

void FakeDataPlane::lack(const std::string& method) {
  const std::lock_guard lock(state_->fabric->mutex);
  state_->lacking.insert(method);
}

void FakeDataPlane::hold_io_of(const std::string& host) {
  const std::lock_guard lock(state_->fabric->mutex);
  state_->held_hosts.insert(host);
}

void FakeDataPlane::let_drain() {
  const std::lock_guard lock(state_->fabric->mutex);
  state_->held_hosts.clear();
  for (auto& [nqn, subsystem] : state_->subsystems) subsystem.draining.clear();
}

void FakeDataPlane::drop_lost_legs() {
  const std::lock_guard lock(state_->fabric->mutex);
  for (auto& [name, controller] : state_->controllers) {
    if (state_->reach(controller) != nullptr) continue;
    controller.connected = false;
    for (auto& [raid_name, raid] : state_->raids) {
      const bool is_last =
          std::count(raid.legs.begin(), raid.legs.end(), "") + 1 >= static_cast<ptrdiff_t>(raid.legs.size());
      for (const std::string& leg : std::vector<std::string>(raid.legs))
        if (leg == name + "n1" && !is_last) state_->leave_raid(raid_name, leg);
      if (raid.process_target == name + "n1") raid.process_target.clear();
    }
  }
}

void FakeDataPlane::give_up_lost_controllers() {
  const std::lock_guard lock(state_->fabric->mutex);
  std::vector<std::string> lost;
  for (const auto& [name, controller] : state_->controllers)
    if (state_->reach(controller) == nullptr) lost.push_back(name);
  for (const std::string& name : lost) {
    state_->controllers.erase(name);
    state_->remove_bdev(name + "n1");
  }
  for (const auto& [name, raid] : state_->raids)
    if (std::all_of(raid.legs.begin(), raid.legs.end(), [](const std::string& leg) { return leg.empty(); }))
      state_->remove_bdev(name);
}

void FakeDataPlane::reconnect() {
  const std::lock_guard lock(state_->fabric->mutex);
  for (auto& [name, controller] : state_->controllers)
    if (state_->reach(controller) != nullptr) controller.connected = true;
}

void FakeDataPlane::rebuild_to(int64_t percent) {
  const std::lock_guard lock(state_->fabric->mutex);
  for (auto& [name, raid] : state_->raids) {
    raid.percent = percent;
    if (percent >= 100) raid.process_target.clear();
  }
}

std::vector<std::string> FakeDataPlane::changes() const {
  const std::lock_guard lock(state_->fabric->mutex);
  return state_->changes;
}

void FakeDataPlane::forget_changes() {
  const std::lock_guard lock(state_->fabric->mutex);
  state_->changes.clear();
}

std::string FakeDataPlane::ask(const std::string& method) const {
  const std::lock_guard lock(state_->fabric->mutex);
  return json::serialize(state_->observe(method));
}

}  // namespace diskengine::control
