#include "rpc/methods_bdev_nvme.h"

#include <fmt/format.h>

#include <algorithm>
#include <boost/json/array.hpp>
#include <boost/json/parse.hpp>
#include <cerrno>

#include "fabric/pcie/pci_device.h"
#include "nvme/discovery.h"
#include "rpc/nvme_health.h"
#include "rpc/params.h"

namespace diskengine::rpc {
namespace json = boost::json;

namespace {

using nvme::Controller;
using nvme::HostManager;

// SPDK's name for an outcome where ours differs: a taken name is EALREADY there.
Reply fault_of(const Error& error) {
  if (error.code() == Errc::already_exists) return Fault{-EALREADY, error.message()};
  return error;
}

Reply done(const Result<void>& outcome) {
  if (!outcome) return fault_of(outcome.error());
  return json::value(true);
}

// --- Parameters -----------------------------------------------------------------------------------------------------

std::string upper(std::string text) {
  std::transform(text.begin(), text.end(), text.begin(), [](unsigned char c) { return std::toupper(c); });
  return text;
}

constexpr char kPcie[] = "PCIe";

// Transport types are written in capitals, all but one.
std::string transport_type(const std::string& text) {
  const std::string type = upper(text);
  return type == upper(kPcie) ? kPcie : type;
}

// The name SPDK prints for an address family, or an empty string if there is no such family.
std::string address_family(const std::string& text) {
  const std::string wanted = upper(text);
  for (const char* known : {"IPv4", "IPv6", "IB", "FC", "INTRA_HOST"})
    if (wanted == upper(known)) return known;
  return {};
}

nvme::LossPolicy loss_policy(const json::object& params, const nvme::LossPolicy& defaults) {
  nvme::LossPolicy loss;
  loss.controller_loss_s =
      static_cast<int32_t>(int_param_or(params, "ctrlr_loss_timeout_sec", defaults.controller_loss_s));
  loss.reconnect_delay_s =
      static_cast<uint32_t>(uint_param_or(params, "reconnect_delay_sec", defaults.reconnect_delay_s));
  loss.fast_io_fail_s =
      static_cast<uint32_t>(uint_param_or(params, "fast_io_fail_timeout_sec", defaults.fast_io_fail_s));
  return loss;
}

// The parameters that attach_controller and start_discovery share.
Result<nvme::ControllerOptions> controller_options(const json::object& params, const HostManager& host) {
  nvme::ControllerOptions options;
  options.name = text_param(params, "name");
  options.address.transport = transport_type(text_param(params, "trtype"));
  options.address.address = text_param(params, "traddr");
  options.host_nqn = text_param_or(params, "hostnqn", "");
  options.loss = loss_policy(params, host.options().loss);
  if (options.address.transport == kPcie) {
    options.address_family.clear();
    if (!options.address.address.starts_with("serial:")) {
      TRY_ASSIGN(options.address.address, fabric::pcie::normal_pci_address(options.address.address));
    }
    return options;
  }
  options.address.service = text_param_or(params, "trsvcid", "4420");
  const std::string family = text_param_or(params, "adrfam", "");
  options.address_family = family.empty() ? (options.address.address.find(':') != std::string::npos ? "IPv6" : "IPv4")
                                          : address_family(family);
  if (options.address_family.empty())
    return Error(Errc::invalid_argument, fmt::format("Failed to parse adrfam: {}", family));
  return options;
}

Task<Reply> attach(HostManager& host, json::object params) {
  Result<nvme::ControllerOptions> parsed = controller_options(params, host);
  if (!parsed) co_return parsed.error();
  nvme::ControllerOptions options = std::move(*parsed);
  options.subsystem_nqn = text_param_or(params, "subnqn", "");
  if (options.subsystem_nqn.empty() && options.address.transport != kPcie)
    co_return Error(Errc::invalid_argument,
                    fmt::format("subnqn must be given for transport type {}", options.address.transport));
  options.address.host_address = text_param_or(params, "hostaddr", "");
  options.address.host_service = text_param_or(params, "hostsvcid", "");
  options.header_digest = bool_param(params, "hdgst");
  options.data_digest = bool_param(params, "ddgst");
  options.connect_timeout_us = uint_param(params, "fabrics_connect_timeout_us");
  options.io_queues = static_cast<uint32_t>(uint_param(params, "num_io_queues"));
  const uint64_t bdevs_max = uint_param(params, "max_bdevs");

  const std::string multipath = text_param(params, "multipath");
  if (Result<std::shared_ptr<Controller>> known = host.find(options.name); known) {
    const nvme::ControllerOptions& other = (*known)->options();
    if (multipath == "disable")
      co_return Fault{-EALREADY,
                      fmt::format("A controller named {} already exists and multipath is disabled", options.name)};
    if (other.address.address == options.address.address && other.address.service == options.address.service &&
        other.address.host_address == options.address.host_address)
      co_return Fault{
          -EALREADY, fmt::format("A controller named {} already exists with the specified network path", options.name)};
    if (other.subsystem_nqn != options.subsystem_nqn)
      co_return Error(Errc::invalid_argument,
                      fmt::format("A controller named {} already exists, but uses a different subnqn ({})",
                                  options.name, other.subsystem_nqn));
    co_return Error(Errc::not_supported,
                    fmt::format("controller {} has a path already; further paths are not supported", options.name));
  }
  const std::string name = options.name;
  Task<Result<std::vector<std::string>>> attaching = host.attach(std::move(options));
  Result<std::vector<std::string>> devices = co_await attaching;
  if (!devices) co_return fault_of(devices.error());
  if (devices->size() > bdevs_max) {
    Task<Result<void>> undoing = host.detach(name, {});
    Result<void> undone = co_await undoing;
    co_return Error(Errc::out_of_range, fmt::format("the controller has {} namespaces, more than max_bdevs {}",
                                                    devices->size(), bdevs_max));
  }
  json::array names;
  for (const std::string& device : *devices) names.emplace_back(device);
  co_return json::value(std::move(names));
}

Task<Reply> detach(HostManager& host, json::object params) {
  nvme::PathFilter filter;
  filter.transport = transport_type(text_param_or(params, "trtype", ""));
  filter.address = text_param_or(params, "traddr", "");
  if (filter.transport == kPcie && !filter.address.empty()) {
    Result<std::string> address = fabric::pcie::normal_pci_address(filter.address);
    if (!address) co_return address.error();
    filter.address = std::move(*address);
  }
  filter.service = text_param_or(params, "trsvcid", "");
  filter.subsystem_nqn = text_param_or(params, "subnqn", "");
  filter.host_address = text_param_or(params, "hostaddr", "");
  filter.host_service = text_param_or(params, "hostsvcid", "");
  Task<Result<void>> detaching = host.detach(text_param(params, "name"), std::move(filter));
  Result<void> detached = co_await detaching;
  co_return done(detached);
}

Task<Reply> set_options(HostManager& host, json::object params) {
  nvme::HostOptions options = host.options();
  const std::string action = text_param_or(params, "action_on_timeout", "");
  if (!action.empty())
    options.action_on_timeout = action == "none"    ? nvme::TimeoutAction::none
                                : action == "reset" ? nvme::TimeoutAction::reset
                                                    : nvme::TimeoutAction::abort;
  options.timeout_us = uint_param_or(params, "timeout_us", options.timeout_us);
  options.timeout_admin_us = uint_param_or(params, "timeout_admin_us", options.timeout_admin_us);
  options.keep_alive_ms = static_cast<uint32_t>(uint_param_or(params, "keep_alive_timeout_ms", options.keep_alive_ms));
  options.io_queue_requests =
      static_cast<uint32_t>(uint_param_or(params, "io_queue_requests", options.io_queue_requests));
  options.retries = static_cast<int32_t>(int_param_or(params, "bdev_retry_count", options.retries));
  options.loss = loss_policy(params, options.loss);
  co_return done(host.set_options(options));
}

// --- What there is --------------------------------------------------------------------------------------------------

json::value parsed(const std::string& text) { return json::parse(text); }

json::object controller_info(const Controller& controller) {
  const nvme::ControllerOptions& options = controller.options();
  json::object info;
  info["state"] = std::string(controller.state_name());
  if (!controller.reason().empty()) info["reason"] = controller.reason();
  info["trid"] = parsed(nvme::transport_id_json(options));
  info["cntlid"] = controller.limits().controller_id;
  info["host"] = json::object{{"nqn", options.host_nqn},
                              {"addr", options.address.host_address},
                              {"svcid", options.address.host_service},
                              {"no_shn_notification", false}};
  return info;
}

Task<Reply> get_controllers(HostManager& host, json::object params) {
  const std::string name = text_param_or(params, "name", "");
  json::array list;
  for (const auto& controller : host.all()) {
    if (!name.empty() && controller->options().name != name) continue;
    list.emplace_back(
        json::object{{"name", controller->options().name}, {"ctrlrs", json::array{controller_info(*controller)}}});
  }
  if (!name.empty() && list.empty())
    co_return Error(Errc::invalid_argument, fmt::format("Controller {} does not exist", name));
  co_return json::value(std::move(list));
}

Task<Reply> reset(HostManager& host, json::object params) {
  Task<Result<void>> resetting =
      host.reset(text_param(params, "name"), static_cast<uint16_t>(uint_param_or(params, "cntlid", 0)));
  Result<void> outcome = co_await resetting;
  co_return done(outcome);
}

Task<Reply> get_io_paths(HostManager& host, std::vector<Reactor*> reactors, json::object params) {
  const std::string name = text_param_or(params, "name", "");
  json::array groups;
  for (const Reactor* reactor : reactors) {
    json::array paths;
    for (const auto& controller : host.all()) {
      const nvme::ControllerOptions& options = controller->options();
      for (const auto& link : controller->links()) {
        if (&link->reactor != reactor || (!name.empty() && link->device_name != name)) continue;
        paths.emplace_back(json::object{{"bdev_name", link->device_name},
                                        {"cntlid", controller->limits().controller_id},
                                        {"current", true},
                                        {"connected", link->connected},
                                        {"accessible", true},
                                        {"transport", json::object{{"trtype", options.address.transport},
                                                                   {"traddr", options.address.address},
                                                                   {"trsvcid", options.address.service},
                                                                   {"adrfam", options.address_family}}}});
      }
    }
    groups.emplace_back(json::object{{"thread", reactor->name()}, {"io_paths", std::move(paths)}});
  }
  co_return json::value(json::object{{"poll_groups", std::move(groups)}});
}

// The queues of one reactor, added up there.
fabric::HostQueueStats sum_of(const std::vector<std::shared_ptr<nvme::QueueLink>>& links) {
  fabric::HostQueueStats sum;
  for (const auto& link : links) {
    if (link->channel == nullptr) continue;
    const fabric::HostQueueStats one = link->channel->queue_stats();
    sum.polls += one.polls;
    sum.idle_polls += one.idle_polls;
    sum.socket_completions += one.socket_completions;
    sum.nvme_completions += one.nvme_completions;
    sum.queued_requests += one.queued_requests;
    sum.submitted_requests += one.submitted_requests;
    sum.system_calls += one.system_calls;
    sum.direct_requests += one.direct_requests;
  }
  return sum;
}

// The queues on a reactor of the controllers that are reached over this type of transport.
std::vector<std::shared_ptr<nvme::QueueLink>> links_on(const HostManager& host, const Reactor& reactor,
                                                       const std::string& type) {
  std::vector<std::shared_ptr<nvme::QueueLink>> links;
  for (const auto& controller : host.all()) {
    if (controller->options().address.transport != type) continue;
    for (const auto& link : controller->links())
      if (&link->reactor == &reactor) links.push_back(link);
  }
  return links;
}

Task<Reply> get_transport_statistics(HostManager& host, std::vector<Reactor*> reactors) {
  json::array groups;
  for (Reactor* reactor : reactors) {
    json::array transports;
    for (const std::string type : {"TCP", "RDMA", kPcie}) {
      std::vector<std::shared_ptr<nvme::QueueLink>> links = links_on(host, *reactor, type);
      if (type != "TCP" && links.empty()) continue;
      std::function<fabric::HostQueueStats()> work = [links = std::move(links)] { return sum_of(links); };
      CallOnAwaiter<fabric::HostQueueStats> asking = call_on<fabric::HostQueueStats>(*reactor, std::move(work));
      const fabric::HostQueueStats sum = co_await asking;
      json::object transport{{"trname", type},
                             {"polls", sum.polls},
                             {"idle_polls", sum.idle_polls},
                             {"socket_completions", sum.socket_completions},
                             {"nvme_completions", sum.nvme_completions},
                             {"queued_requests", sum.queued_requests},
                             {"submitted_requests", sum.submitted_requests}};
      if (type == kPcie) transport["doorbell_updates"] = sum.system_calls;
      if (type != "TCP") transport["direct_requests"] = sum.direct_requests;
      transports.push_back(std::move(transport));
    }
    groups.emplace_back(json::object{{"thread", reactor->name()}, {"transports", std::move(transports)}});
  }
  co_return json::value(json::object{{"poll_groups", std::move(groups)}});
}

Task<Reply> get_health(HostManager& host, json::object params) {
  const std::string name = text_param(params, "name");
  Result<std::shared_ptr<Controller>> found = host.find(name);
  if (!found) co_return Fault{kInternalError, "Device not found"};
  std::shared_ptr<Controller> controller = *found;
  Task<Result<spec::SmartLog>> reading = host.read_health(name);
  Result<spec::SmartLog> log = co_await reading;
  if (!log) co_return Fault{kInternalError, log.error().message()};
  co_return json::value(health_info(controller->identity(), *log, controller->options().address.address));
}

json::object describe(const spec::ErrorLogEntry& entry) {
  return {{"error_count", entry.count},
          {"queue_id", entry.sq_id},
          {"command_id", entry.cid},
          {"status_code_type", spec::status_code_type(spec::status_of(entry.status))},
          {"status_code", spec::status_code(spec::status_of(entry.status))},
          {"status", spec::name_of(spec::status_of(entry.status))},
          {"lba", entry.lba},
          {"nsid", entry.nsid}};
}

Task<Reply> get_errors(HostManager& host, json::object params) {
  Task<Result<std::vector<spec::ErrorLogEntry>>> reading = host.read_errors(text_param(params, "name"));
  Result<std::vector<spec::ErrorLogEntry>> log = co_await reading;
  if (!log) co_return log.error();
  json::array entries;
  for (const spec::ErrorLogEntry& entry : *log) entries.emplace_back(describe(entry));
  co_return json::value(std::move(entries));
}

// --- Discovery ------------------------------------------------------------------------------------------------------

Task<Reply> start_discovery(HostManager& host, json::object params) {
  constexpr uint64_t kWaitNs = 30'000'000'000;
  Result<nvme::ControllerOptions> parsed_options = controller_options(params, host);
  if (!parsed_options) co_return parsed_options.error();
  nvme::DiscoveryOptions options;
  options.controller = std::move(*parsed_options);
  if (options.controller.address.transport == kPcie)
    co_return Error(Errc::invalid_argument, "there is no discovery service on the PCI bus");
  if (!has(params, "trsvcid")) options.controller.address.service = "8009";
  options.name = options.controller.name;
  const uint64_t timeout_ms = uint_param(params, "attach_timeout_ms");
  if (timeout_ms != 0) {
    options.attach_timeout_ns = timeout_ms * 1'000'000;
  } else if (bool_param(params, "wait_for_attach")) {
    options.attach_timeout_ns = kWaitNs;
  }
  Task<Result<void>> starting = host.start_discovery(std::move(options));
  Result<void> started = co_await starting;
  if (!started && started.error().code() == Errc::already_exists) co_return Fault{-EEXIST, started.error().message()};
  co_return done(started);
}

Task<Reply> stop_discovery(HostManager& host, json::object params) {
  Task<Result<void>> stopping = host.stop_discovery(text_param(params, "name"));
  Result<void> stopped = co_await stopping;
  co_return done(stopped);
}

Task<Reply> get_discovery_info(HostManager& host) {
  json::array list;
  for (const nvme::Discovery* service : host.discoveries()) {
    json::array referrals;
    for (const nvme::ControllerOptions& found : service->found())
      referrals.emplace_back(json::object{{"trid", parsed(nvme::transport_id_json(found))}});
    list.emplace_back(json::object{{"name", service->options().name},
                                   {"trid", parsed(nvme::transport_id_json(service->options().controller))},
                                   {"referrals", std::move(referrals)}});
  }
  co_return json::value(std::move(list));
}

}  // namespace

void add_bdev_nvme_methods(MethodTable& methods, nvme::HostManager& host, std::vector<Reactor*> reactors) {
  const auto add = [&](const char* name, Task<Reply> (*handler)(HostManager&, json::object)) {
    methods.add(name, [&host, handler](json::object params) { return handler(host, std::move(params)); });
  };
  add("bdev_nvme_set_options", set_options);
  add("bdev_nvme_attach_controller", attach);
  add("bdev_nvme_detach_controller", detach);
  add("bdev_nvme_get_controllers", get_controllers);
  add("bdev_nvme_reset_controller", reset);
  add("bdev_nvme_get_controller_health_info", get_health);
  add("diskengine_bdev_nvme_get_error_log", get_errors);
  add("bdev_nvme_start_discovery", start_discovery);
  add("bdev_nvme_stop_discovery", stop_discovery);
  methods.add("bdev_nvme_get_discovery_info", [&host](json::object) { return get_discovery_info(host); });
  methods.add("bdev_nvme_get_io_paths",
              [&host, reactors](json::object params) { return get_io_paths(host, reactors, std::move(params)); });
  methods.add("bdev_nvme_get_transport_statistics",
              [&host, reactors](json::object) { return get_transport_statistics(host, reactors); });
}

}  // namespace diskengine::rpc
