#include "rpc/methods_notify.h"

#include <boost/json/array.hpp>

#include "rpc/params.h"

namespace diskengine::rpc {
namespace json = boost::json;

namespace {

Task<Reply> get_types() {
  co_return json::value(json::array{DeviceEvents::kRegister, DeviceEvents::kUnregister, DeviceEvents::kResize,
                                    DeviceEvents::kLvolSpace, DeviceEvents::kLvolDamaged, DeviceEvents::kDiskHealth,
                                    DeviceEvents::kIoStuck});
}

Task<Reply> get_notifications(const DeviceEvents& events, json::object params) {
  const uint64_t first = uint_param(params, "id");
  const uint64_t max = uint_param(params, "max");
  json::array list;
  for (const DeviceEvents::Notification& event : events.notifications()) {
    if (event.id < first) continue;
    if (list.size() >= max) break;
    list.push_back(json::object{{"type", event.type}, {"ctx", event.context}, {"id", event.id}});
  }
  co_return json::value(std::move(list));
}

}  // namespace

void add_notify_methods(MethodTable& methods, const DeviceEvents& events) {
  methods.add("notify_get_types", [](json::object) { return get_types(); });
  methods.add("notify_get_notifications",
              [&events](json::object params) { return get_notifications(events, std::move(params)); });
}

}  // namespace diskengine::rpc
