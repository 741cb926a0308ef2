#include "rpc/methods_nvmf.h"

#include <fmt/format.h>

#include <algorithm>
#include <boost/json/array.hpp>
#include <cctype>

#include "fabric/rdma/target.h"
#include "fabric/tcp/target.h"
#include "rpc/params.h"

namespace diskengine::rpc {
namespace json = boost::json;

namespace {

using fabric::Address;
using nvmf::Subsystem;
using nvmf::Target;

Fault invalid(const Error& error) { return {kInvalidParams, error.message()}; }
Fault internal(const Error& error) { return {kInternalError, error.message()}; }

Reply done_or(const Result<void>& result, Fault (*fault)(const Error&)) {
  if (!result) return fault(result.error());
  return json::value(true);
}

std::string upper(std::string text) {
  std::transform(text.begin(), text.end(), text.begin(), [](unsigned char c) { return std::toupper(c); });
  return text;
}

std::string hex(std::span<const uint8_t> bytes) {
  std::string text;
  for (const uint8_t byte : bytes) text += fmt::format("{:02X}", byte);
  return text;
}

Result<void> unhex(const std::string& text, const char* what, std::span<uint8_t> out) {
  auto digit = [](char c) {
    const char* digits = "0123456789abcdef";
    const char* at = std::find(digits, digits + 16, static_cast<char>(std::tolower(static_cast<unsigned char>(c))));
    return static_cast<unsigned>(at - digits);
  };
  for (size_t i = 0; i < out.size(); ++i) {
    const unsigned high = digit(text.at(2 * i));
    const unsigned low = digit(text.at(2 * i + 1));
    if (high > 15 || low > 15) return Error(Errc::invalid_argument, fmt::format("Invalid {}", what));
    out[i] = static_cast<uint8_t>(high << 4 | low);
  }
  return {};
}

Result<Address> address_param(const json::object& params) {
  Address address;
  address.type = upper(text_param(params, "trtype"));
  const std::string family = upper(text_param_or(params, "adrfam", "IPv4"));
  if (family != "IPV4" && family != "IPV6")
    return Error(Errc::invalid_argument, fmt::format("adrfam '{}' is not IPv4 or IPv6", family));
  address.family = family == "IPV6" ? "IPv6" : "IPv4";
  address.address = text_param(params, "traddr");
  address.service = text_param_or(params, "trsvcid", "4420");
  return address;
}

json::object address_json(const Address& address) {
  return {
      {"trtype", address.type}, {"adrfam", address.family}, {"traddr", address.address}, {"trsvcid", address.service}};
}

Result<Subsystem*> subsystem_param(Target& target, const json::object& params) {
  const std::string nqn = text_param(params, "nqn");
  Subsystem* subsystem = target.find_subsystem(nqn);
  if (subsystem == nullptr) return Error(Errc::not_found, fmt::format("Subsystem with NQN '{}' not found", nqn));
  return subsystem;
}

// Transports.

using MadeTransport = Result<std::unique_ptr<fabric::TargetTransport>>;

MadeTransport make_tcp(Target& target, const fabric::TargetOptions& options) {
  TRY_ASSIGN(std::unique_ptr<fabric::tcp::TcpTarget> made,
             fabric::tcp::TcpTarget::create(target.reactors(), target, options, target.dma_regions()));
  return std::unique_ptr<fabric::TargetTransport>(std::move(made));
}

MadeTransport make_rdma(Target& target, const fabric::TargetOptions& options) {
  TRY_ASSIGN(std::unique_ptr<fabric::rdma::Verbs> verbs, fabric::rdma::load_verbs());
  TRY_ASSIGN(
      std::unique_ptr<fabric::rdma::RdmaTarget> made,
      fabric::rdma::RdmaTarget::create(std::move(verbs), target.reactors(), target, options, target.dma_regions()));
  return std::unique_ptr<fabric::TargetTransport>(std::move(made));
}

Reply create_transport(Target& target, const json::object& params) {
  const std::string type = upper(text_param(params, "trtype"));
  const bool rdma = type == "RDMA";
  if (type != "TCP" && !rdma) return Fault{kInvalidParams, fmt::format("Invalid transport type '{}'", type)};
  if (bool_param(params, "dif_insert_or_strip"))
    return Fault{kInvalidParams, "protection information is not supported: leave dif_insert_or_strip out"};
  fabric::TargetOptions options;
  options.max_queue_depth = static_cast<uint32_t>(uint_param(params, "max_queue_depth"));
  options.max_io_queues = static_cast<uint32_t>(uint_param(params, "max_io_qpairs_per_ctrlr"));
  options.in_capsule_bytes =
      static_cast<uint32_t>(uint_param_or(params, "in_capsule_data_size", rdma ? 4096 : options.in_capsule_bytes));
  options.max_io_bytes = static_cast<uint32_t>(uint_param(params, "max_io_size"));
  options.max_admin_depth = static_cast<uint32_t>(uint_param(params, "max_aq_depth"));
  if (target.find_transport(type) != nullptr)
    return Fault{kInternalError, fmt::format("Transport type '{}' already exists", type)};
  options.srq_entries = static_cast<uint32_t>(uint_param(params, "max_srq_depth"));
  options.backlog = static_cast<uint32_t>(uint_param(params, "acceptor_backlog"));
  MadeTransport transport = rdma ? make_rdma(target, options) : make_tcp(target, options);
  if (!transport) {
    // The machine's fault, not the caller's.
    const bool missing = transport.error().code() == Errc::not_supported || transport.error().code() == Errc::no_device;
    return missing ? Reply(transport.error()) : Reply(invalid(transport.error()));
  }
  return done_or(target.add_transport(std::move(*transport)), internal);
}

json::object transport_json(const fabric::TargetTransport& transport) {
  const fabric::TargetOptions& o = transport.options();
  json::object object{{"trtype", transport.type()},
                      {"max_queue_depth", o.max_queue_depth},
                      {"max_io_qpairs_per_ctrlr", o.max_io_queues},
                      {"in_capsule_data_size", o.in_capsule_bytes},
                      {"max_io_size", o.max_io_bytes},
                      {"io_unit_size", o.buffer_bytes},
                      {"max_aq_depth", o.max_admin_depth},
                      {"num_shared_buffers", o.buffers},
                      {"dif_insert_or_strip", false},
                      {"zcopy", false},
                      {"abort_timeout_sec", 0},
                      {"kas", nvmf::Controller::kKeepAliveGranularity}};
  if (transport.type() == "RDMA") {
    object["max_srq_depth"] = o.srq_entries;
    object["no_srq"] = false;
    object["acceptor_backlog"] = o.backlog;
    object["no_wr_batching"] = false;
  } else {
    object["c2h_success"] = true;
    object["sock_priority"] = 0;
  }
  return object;
}

Reply get_transports(Target& target, const json::object& params) {
  json::array list;
  const std::string type = upper(text_param_or(params, "trtype", ""));
  for (const auto& transport : target.transports())
    if (type.empty() || transport->type() == type) list.push_back(transport_json(*transport));
  if (!type.empty() && list.empty()) return Error(Errc::no_device, fmt::format("there is no {} transport", type));
  return json::value(std::move(list));
}

// Subsystems.

Reply create_subsystem(Target& target, const json::object& params) {
  if (bool_param(params, "passthrough"))
    return Fault{kInvalidParams, "commands cannot be passed through to a device: leave passthrough out"};
  nvmf::SubsystemOptions options;
  options.nqn = text_param(params, "nqn");
  options.serial_number = text_param(params, "serial_number");
  options.model_number = text_param(params, "model_number");
  options.max_namespaces = static_cast<uint32_t>(uint_param(params, "max_namespaces"));
  options.allow_any_host = bool_param(params, "allow_any_host");
  options.min_cntlid = static_cast<uint16_t>(uint_param(params, "min_cntlid"));
  options.max_cntlid = static_cast<uint16_t>(uint_param(params, "max_cntlid"));
  if (options.min_cntlid == 0 || options.min_cntlid > options.max_cntlid || options.max_cntlid > 0xffef)
    return Fault{kInvalidParams, fmt::format("Invalid cntlid range [{}-{}]", options.min_cntlid, options.max_cntlid)};
  const std::string nqn = options.nqn;
  Result<Subsystem*> created = target.create_subsystem(std::move(options));
  if (!created)
    return Fault{kInternalError, fmt::format("Unable to create subsystem {}: {}", nqn, created.error().message())};
  return json::value(true);
}

Task<Reply> delete_subsystem(Target& target, json::object params) {
  Result<Subsystem*> subsystem = subsystem_param(target, params);
  if (!subsystem) co_return invalid(subsystem.error());
  Task<Result<void>> deleting = target.delete_subsystem((*subsystem)->nqn());
  const Result<void> deleted = co_await deleting;
  co_return done_or(deleted, internal);
}

json::object namespace_json(const nvmf::Namespace& ns) {
  json::object object{{"nsid", ns.nsid()}, {"bdev_name", ns.device().name()}, {"name", ns.device().name()}};
  const nvmf::NamespaceIds& ids = ns.ids();
  if (ids.nguid != decltype(ids.nguid){}) object["nguid"] = hex(ids.nguid);
  if (ids.eui64 != decltype(ids.eui64){}) object["eui64"] = hex(ids.eui64);
  if (!ids.uuid.is_nil()) object["uuid"] = ids.uuid.to_string();
  return object;
}

json::object subsystem_json(const Subsystem& subsystem) {
  json::array addresses;
  for (const Address& address : subsystem.listeners()) addresses.push_back(address_json(address));
  json::array hosts;
  for (const std::string& host : subsystem.hosts()) hosts.push_back(json::object{{"nqn", host}});
  const nvmf::SubsystemOptions& o = subsystem.options();
  json::object object{{"nqn", subsystem.nqn()},
                      {"subtype", subsystem.is_discovery() ? "Discovery" : "NVMe"},
                      {"listen_addresses", std::move(addresses)},
                      {"allow_any_host", o.allow_any_host},
                      {"hosts", std::move(hosts)}};
  if (subsystem.is_discovery()) return object;
  object["serial_number"] = o.serial_number;
  object["model_number"] = o.model_number;
  object["max_namespaces"] = o.max_namespaces;
  object["min_cntlid"] = o.min_cntlid;
  object["max_cntlid"] = o.max_cntlid;
  if (subsystem.epoch() != 0) object["epoch"] = subsystem.epoch();
  json::array namespaces;
  for (const auto& [nsid, ns] : subsystem.namespaces())
    if (!ns->removing) namespaces.push_back(namespace_json(*ns));
  object["namespaces"] = std::move(namespaces);
  return object;
}

Reply get_subsystems(Target& target, const json::object& params) {
  json::array list;
  if (has(params, "nqn")) {
    Result<Subsystem*> subsystem = subsystem_param(target, params);
    if (!subsystem) return invalid(subsystem.error());
    list.push_back(subsystem_json(**subsystem));
  } else {
    for (const Subsystem* subsystem : target.subsystems()) list.push_back(subsystem_json(*subsystem));
  }
  return json::value(std::move(list));
}

// Listeners.

Reply add_listener(Target& target, const json::object& params) {
  Result<Subsystem*> subsystem = subsystem_param(target, params);
  if (!subsystem) return invalid(subsystem.error());
  Result<Address> address = address_param(param(params, "listen_address").as_object());
  if (!address) return invalid(address.error());
  if (bool_param(params, "secure_channel"))
    return Fault{kInvalidParams, "TLS is not supported: leave secure_channel out"};
  return done_or(target.add_listener(**subsystem, *address), invalid);
}

Reply remove_listener(Target& target, const json::object& params) {
  Result<Subsystem*> subsystem = subsystem_param(target, params);
  if (!subsystem) return invalid(subsystem.error());
  Result<Address> address = address_param(param(params, "listen_address").as_object());
  if (!address) return invalid(address.error());
  return done_or(target.remove_listener(**subsystem, *address), invalid);
}

Reply get_listeners(Target& target, const json::object& params) {
  Result<Subsystem*> subsystem = subsystem_param(target, params);
  if (!subsystem) return invalid(subsystem.error());
  json::array list;
  for (const Address& address : (*subsystem)->listeners())
    list.push_back(json::object{{"address", address_json(address)}});
  return json::value(std::move(list));
}

// Namespaces.

Reply add_namespace(Target& target, const json::object& params) {
  Result<Subsystem*> subsystem = subsystem_param(target, params);
  if (!subsystem) return invalid(subsystem.error());
  if ((*subsystem)->is_discovery()) return Fault{kInvalidParams, "the discovery subsystem has no namespaces"};
  const json::object& wish = param(params, "namespace").as_object();
  if (bool_param(wish, "no_auto_visible"))
    return Fault{kInvalidParams, "namespaces are visible to every host of their subsystem: leave no_auto_visible out"};
  nvmf::NamespaceOptions options;
  options.device = text_param(wish, "bdev_name");
  options.nsid = static_cast<uint32_t>(uint_param_or(wish, "nsid", 0));
  if (has(wish, "nguid")) {
    options.nguid_given = true;
    if (const Result<void> read = unhex(text_param(wish, "nguid"), "nguid", options.ids.nguid); !read)
      return invalid(read.error());
  }
  if (has(wish, "eui64")) {
    if (const Result<void> read = unhex(text_param(wish, "eui64"), "eui64", options.ids.eui64); !read)
      return invalid(read.error());
  }
  if (const std::optional<Uuid> uuid = uuid_param(wish, "uuid"); uuid && !uuid->is_nil()) {
    options.uuid_given = true;
    options.ids.uuid = *uuid;
  }
  const Result<uint32_t> nsid = (*subsystem)->add_namespace(std::move(options));
  if (!nsid) return invalid(nsid.error());
  return json::value(*nsid);
}

Task<Reply> remove_namespace(Target& target, json::object params) {
  Result<Subsystem*> subsystem = subsystem_param(target, params);
  if (!subsystem) co_return invalid(subsystem.error());
  const Gate::Pass pass(target.tasks());
  Task<Result<void>> removing = (*subsystem)->remove_namespace(static_cast<uint32_t>(uint_param(params, "nsid")));
  const Result<void> removed = co_await removing;
  co_return done_or(removed, invalid);
}

// Hosts.

Reply add_host(Target& target, const json::object& params) {
  Result<Subsystem*> subsystem = subsystem_param(target, params);
  if (!subsystem) return invalid(subsystem.error());
  for (const char* key : {"psk", "dhchap_key", "dhchap_ctrlr_key"})
    if (has(params, key))
      return Fault{kInvalidParams, fmt::format("authentication is not supported: leave {} out", key)};
  return done_or((*subsystem)->add_host(text_param(params, "host")), internal);
}

Task<Reply> remove_host(Target& target, json::object params) {
  Result<Subsystem*> subsystem = subsystem_param(target, params);
  if (!subsystem) co_return invalid(subsystem.error());
  const Gate::Pass pass(target.tasks());
  const uint64_t timeout_ns = uint_param(params, "timeout_ms") * 1'000'000;
  Task<Result<void>> removing = (*subsystem)->remove_host(text_param(params, "host"), timeout_ns);
  const Result<void> removed = co_await removing;
  co_return done_or(removed, internal);
}

Task<Reply> set_epoch(Target& target, json::object params) {
  Result<Subsystem*> subsystem = subsystem_param(target, params);
  if (!subsystem) co_return invalid(subsystem.error());
  const Gate::Pass pass(target.tasks());
  Task<Result<void>> setting = (*subsystem)->set_epoch(uint_param(params, "epoch"));
  const Result<void> set = co_await setting;
  if (!set) co_return set.error();
  co_return json::value(true);
}

Reply allow_any_host(Target& target, const json::object& params) {
  Result<Subsystem*> subsystem = subsystem_param(target, params);
  if (!subsystem) return invalid(subsystem.error());
  (*subsystem)->set_allow_any_host(bool_param(params, "allow_any_host"));
  return json::value(true);
}

// What is connected.

Reply get_controllers(Target& target, const json::object& params) {
  Result<Subsystem*> subsystem = subsystem_param(target, params);
  if (!subsystem) return invalid(subsystem.error());
  json::array list;
  for (const auto& [id, controller] : (*subsystem)->controllers())
    list.push_back(json::object{{"cntlid", controller->id()},
                                {"cntrltype", controller->type_name()},
                                {"hostnqn", controller->host_nqn()},
                                {"hostid", controller->host_id().to_string()},
                                {"num_io_qpairs", controller->io_queues()}});
  return json::value(std::move(list));
}

json::object queue_json(const nvmf::Controller& controller, const nvmf::QueueRecord& queue) {
  return {{"cntlid", controller.id()},
          {"qid", queue.qid},
          {"state", queue.closed ? "deactivating" : "enabled"},
          {"thread", queue.reactor->name()},
          {"hostnqn", controller.host_nqn()},
          {"listen_address", address_json(queue.listen_address)},
          {"peer_address", address_json(queue.peer_address)}};
}

Reply get_qpairs(Target& target, const json::object& params) {
  Result<Subsystem*> subsystem = subsystem_param(target, params);
  if (!subsystem) return invalid(subsystem.error());
  json::array list;
  for (const auto& [id, controller] : (*subsystem)->controllers())
    for (const nvmf::QueueRecord* queue : controller->queues()) list.push_back(queue_json(*controller, *queue));
  return json::value(std::move(list));
}

json::array devices_json(const std::vector<fabric::TargetDeviceStats>& devices) {
  json::array list;
  for (const fabric::TargetDeviceStats& d : devices)
    list.push_back(json::object{{"name", d.name},
                                {"polls", d.polls},
                                {"idle_polls", d.idle_polls},
                                {"completions", d.completions},
                                {"requests", d.requests},
                                {"pending_data_buffer", d.pending_data_buffer},
                                {"pending_rdma_read", d.pending_rdma_read},
                                {"pending_rdma_send", d.pending_rdma_send},
                                {"total_send_wrs", d.total_send_wrs},
                                {"send_doorbell_updates", d.send_doorbell_updates},
                                {"total_recv_wrs", d.total_recv_wrs},
                                {"recv_doorbell_updates", d.recv_doorbell_updates}});
  return list;
}

json::object group_json(const Target::GroupStats& group) {
  json::array transports;
  for (const auto& [type, stats] : group.transports) {
    json::object transport{{"trtype", type},
                           {"connections", stats.connections},
                           {"protocol_errors", stats.protocol_errors},
                           {"digest_errors", stats.digest_errors},
                           {"pending_data_buffer", stats.waited_for_buffers},
                           {"receive_calls", stats.receive_calls},
                           {"send_calls", stats.send_calls}};
    if (type == "RDMA") transport["devices"] = devices_json(stats.devices);
    transports.push_back(std::move(transport));
  }
  return {{"name", group.name},
          {"admin_qpairs", group.admin_queues},
          {"io_qpairs", group.io_queues},
          {"current_admin_qpairs", group.current_admin_queues},
          {"current_io_qpairs", group.current_io_queues},
          {"pending_bdev_io", group.pending_io},
          {"completed_nvme_io", group.completed_io},
          {"failed_nvme_io", group.failed_io},
          {"transports", std::move(transports)}};
}

Task<Reply> get_stats(Target& target) {
  Task<std::vector<Target::GroupStats>> collecting = target.collect_stats();
  const std::vector<Target::GroupStats> groups = co_await collecting;
  json::array list;
  for (const Target::GroupStats& group : groups) list.push_back(group_json(group));
  co_return json::value(json::object{{"tick_rate", ticks_per_second()},
                                     {"poll_groups", std::move(list)},
                                     {"connects_refused", target.counters().connects_refused},
                                     {"keep_alive_timeouts", target.counters().keep_alive_timeouts}});
}

// Referrals.

Result<nvmf::Referral> referral_param(const json::object& params) {
  nvmf::Referral referral;
  TRY_ASSIGN(referral.address, address_param(param(params, "address").as_object()));
  referral.subsystem_nqn = text_param_or(params, "subnqn", spec::kDiscoveryNqn);
  referral.secure_channel = bool_param_or(params, "secure_channel", false);
  return referral;
}

Reply add_referral(Target& target, const json::object& params) {
  const Result<nvmf::Referral> referral = referral_param(params);
  if (!referral) return invalid(referral.error());
  return done_or(target.add_referral(*referral), internal);
}

Reply remove_referral(Target& target, const json::object& params) {
  const Result<nvmf::Referral> referral = referral_param(params);
  if (!referral) return invalid(referral.error());
  return done_or(target.remove_referral(*referral), internal);
}

Reply get_referrals(Target& target, const json::object&) {
  json::array list;
  for (const nvmf::Referral& referral : target.referrals())
    list.push_back(json::object{{"address", address_json(referral.address)},
                                {"secure_channel", referral.secure_channel},
                                {"subnqn", referral.subsystem_nqn}});
  return json::value(std::move(list));
}

Reply set_max_subsystems(Target& target, const json::object& params) {
  const Result<void> set = target.set_max_subsystems(static_cast<uint32_t>(uint_param(params, "max_subsystems")));
  if (!set) return set.error();
  return json::value(true);
}

Reply set_config(Target&, const json::object&) { return json::value(true); }

using Plain = Reply (*)(Target&, const json::object&);
using Slow = Task<Reply> (*)(Target&, json::object);

Task<Reply> run_plain(Plain method, Target& target, json::object params) { co_return method(target, params); }

}  // namespace

void add_nvmf_methods(MethodTable& methods, nvmf::Target& target) {
  auto plain = [&](const char* name, Plain method) {
    methods.add(name, [&target, method](json::object params) { return run_plain(method, target, std::move(params)); });
  };
  auto slow = [&](const char* name, Slow method) {
    methods.add(name, [&target, method](json::object params) { return method(target, std::move(params)); });
  };
  plain("nvmf_create_transport", create_transport);
  plain("nvmf_get_transports", get_transports);
  plain("nvmf_create_subsystem", create_subsystem);
  slow("nvmf_delete_subsystem", delete_subsystem);
  plain("nvmf_get_subsystems", get_subsystems);
  plain("nvmf_set_max_subsystems", set_max_subsystems);
  plain("nvmf_set_config", set_config);
  plain("nvmf_subsystem_add_listener", add_listener);
  plain("nvmf_subsystem_remove_listener", remove_listener);
  plain("nvmf_subsystem_get_listeners", get_listeners);
  plain("nvmf_subsystem_add_ns", add_namespace);
  slow("nvmf_subsystem_remove_ns", remove_namespace);
  plain("nvmf_subsystem_add_host", add_host);
  slow("nvmf_subsystem_remove_host", remove_host);
  slow("diskengine_nvmf_subsystem_set_epoch", set_epoch);
  plain("nvmf_subsystem_allow_any_host", allow_any_host);
  plain("nvmf_subsystem_get_controllers", get_controllers);
  plain("nvmf_subsystem_get_qpairs", get_qpairs);
  methods.add("nvmf_get_stats", [&target](const json::object&) { return get_stats(target); });
  plain("nvmf_discovery_add_referral", add_referral);
  plain("nvmf_discovery_remove_referral", remove_referral);
  plain("nvmf_discovery_get_referrals", get_referrals);
}

}  // namespace diskengine::rpc
