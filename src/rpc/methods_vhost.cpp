#include "rpc/methods_vhost.h"

#include <fmt/format.h>
#include <cstring>

#include <boost/json/array.hpp>

#include "rpc/params.h"

namespace diskengine::rpc {
namespace json = boost::json;

namespace {

using vhost::Controller;
using vhost::Session;
using vhost::VhostManager;

// SPDK answers all failures of these methods with one JSON-RPC code and the text of the errno, which clients look for.
Fault fault_of(int code, const Error& error) {
  return {code, fmt::format("{}: {}", strerrordesc_np(errno_of(error.code())), error.message())};
}

Reply reply_of(const Result<void>& result) {
  if (!result) return fault_of(kInvalidParams, result.error());
  return json::value(true);
}

json::array session_json(const Controller& controller) {
  json::array sessions;
  const Session* session = controller.session();
  if (session == nullptr) return sessions;
  json::array queues;
  uint64_t outstanding = 0;
  for (const Session::QueueState& queue : session->queues()) {
    outstanding += queue.outstanding;
    queues.push_back({{"index", queue.index},
                      {"size", queue.size},
                      {"reactor", queue.reactor},
                      {"inflight_task_cnt", queue.outstanding},
                      {"bad_requests", queue.bad_requests},
                      {"broken", queue.broken},
                      {"completed", queue.progress.completed},
                      {"notified", queue.progress.notified},
                      {"suppressed", queue.progress.suppressed},
                      {"waiting", queue.progress.waiting},
                      {"unseen", queue.progress.unseen}});
  }
  json::object described{{"vid", session->id()},
                         {"id", session->id()},
                         {"name", fmt::format("{}s{}", controller.name(), session->id())},
                         {"started", !queues.empty()},
                         {"max_queues", queues.size()},
                         {"inflight_task_cnt", outstanding}};
  described.emplace("queues", std::move(queues));
  sessions.push_back(std::move(described));
  return sessions;
}

json::object controller_json(const Controller& controller) {
  json::value bdev;  // null once it was removed
  if (controller.device() != nullptr) bdev = controller.device()->name();
  json::object block{{"readonly", controller.read_only()}, {"bdev", std::move(bdev)}, {"transport", vhost::kTransport}};
  json::object described{{"ctrlr", controller.name()},
                         {"cpumask", controller.cpumask()},
                         {"delay_base_us", controller.coalescing().delay_base_us},
                         {"iops_threshold", controller.coalescing().iops_threshold},
                         {"socket", controller.socket_path()}};
  described.emplace("sessions", session_json(controller));
  described.emplace("backend_specific", json::object{{"block", std::move(block)}});
  return described;
}

Task<Reply> create_blk_controller(VhostManager& vhost, json::object params) {
  if (bool_param(params, "packed_ring"))
    co_return Fault{kInvalidParams, "Invalid argument: packed rings are not supported"};
  const std::string transport = text_param(params, "transport");
  if (transport != vhost::kTransport)
    co_return Fault{kInvalidParams, fmt::format("No such file or directory: transport '{}'", transport)};
  VhostManager::BlkOptions options;
  options.name = text_param(params, "ctrlr");
  options.device = text_param(params, "dev_name");
  options.cpumask = text_param_or(params, "cpumask", "");
  options.read_only = bool_param(params, "readonly");
  co_return reply_of(vhost.create_blk_controller(options));
}

Task<Reply> delete_controller(VhostManager& vhost, json::object params) {
  Task<Result<void>> deleting = vhost.delete_controller(text_param(params, "ctrlr"));
  Result<void> deleted = co_await deleting;
  co_return reply_of(deleted);
}

Task<Reply> get_controllers(VhostManager& vhost, json::object params) {
  Task<void> refreshing = vhost.refresh_progress();
  co_await refreshing;
  json::array found;
  if (has(params, "name")) {
    Result<const Controller*> controller = vhost.find(text_param(params, "name"));
    if (!controller) co_return fault_of(kInternalError, controller.error());
    found.push_back(controller_json(**controller));
  } else {
    for (const Controller* controller : vhost.all()) found.push_back(controller_json(*controller));
  }
  co_return json::value(std::move(found));
}

Task<Reply> set_coalescing(VhostManager& vhost, json::object params) {
  const vhost::Coalescing coalescing{static_cast<uint32_t>(uint_param(params, "delay_base_us")),
                                     static_cast<uint32_t>(uint_param(params, "iops_threshold"))};
  co_return reply_of(vhost.set_coalescing(text_param(params, "ctrlr"), coalescing));
}

// The one transport exists from the start, as in SPDK.
Task<Reply> create_transport(json::object params) {
  const std::string name = text_param(params, "name");
  if (name == vhost::kTransport)
    co_return Error(Errc::already_exists, fmt::format("File exists: transport '{}' is there already", name));
  co_return Error(Errc::not_found, fmt::format("No such file or directory: there is no transport '{}'", name));
}

Task<Reply> get_transports(json::object params) {
  const std::string name = text_param_or(params, "name", std::string(vhost::kTransport));
  if (name != vhost::kTransport)
    co_return Error(Errc::no_device, fmt::format("No such device: there is no transport '{}'", name));
  co_return json::value(json::array{json::object{{"name", vhost::kTransport}}});
}

}  // namespace

void add_vhost_methods(MethodTable& methods, VhostManager& vhost) {
  methods.add("virtio_blk_create_transport", [](json::object params) { return create_transport(std::move(params)); });
  methods.add("virtio_blk_get_transports", [](json::object params) { return get_transports(std::move(params)); });
  methods.add("vhost_create_blk_controller",
              [&vhost](json::object params) { return create_blk_controller(vhost, std::move(params)); });
  methods.add("vhost_delete_controller",
              [&vhost](json::object params) { return delete_controller(vhost, std::move(params)); });
  methods.add("vhost_get_controllers",
              [&vhost](json::object params) { return get_controllers(vhost, std::move(params)); });
  methods.add("vhost_controller_set_coalescing",
              [&vhost](json::object params) { return set_coalescing(vhost, std::move(params)); });
}

}  // namespace diskengine::rpc
