#include "rpc/methods_bdev.h"

#include <fmt/format.h>

#include <algorithm>
#include <boost/json/array.hpp>
#include <boost/json/parse.hpp>
#include <boost/json/serialize.hpp>
#include <utility>

#include "base/log.h"
#include "rpc/params.h"

namespace diskengine::rpc {
namespace json = boost::json;

namespace {

constexpr uint64_t kAppearPollNs = 2'000'000;

json::object supported_io_types(const Device& device) {
  const DeviceInfo& info = device.info();
  return {{"read", true},
          {"write", !device.read_only()},
          {"unmap", info.can_unmap},
          {"flush", true},
          {"reset", true},
          {"nvme_admin", false},
          {"nvme_io", false},
          {"nvme_io_md", false},
          {"write_zeroes", info.can_write_zeroes},
          {"zcopy", false},
          {"get_zone_info", false},
          {"zone_management", false},
          {"zone_append", false},
          {"compare", info.can_compare},
          {"compare_and_write", false},
          {"abort", false},
          {"seek_hole", false},
          {"seek_data", false},
          {"copy", false},
          {"nvme_iov_md", false}};
}

json::array aliases_of(const DeviceInfo& info) {
  json::array aliases;
  for (const std::string& alias : info.aliases) aliases.emplace_back(alias);
  const std::string uuid = info.uuid.to_string();
  if (!info.uuid.is_nil() && uuid != info.name &&
      std::find(info.aliases.begin(), info.aliases.end(), uuid) == info.aliases.end())
    aliases.emplace_back(uuid);
  return aliases;
}

// What a device wrote about itself, which is our own text.
json::value driver_specific(const Device& device) {
  json::error_code error;
  json::value value = json::parse(device.driver_specific_json(), error);
  if (error || !value.is_object()) {
    LOG_ERROR("rpc", "bdev '{}': its driver_specific text is not a JSON object", device.name());
    return json::object();
  }
  return value;
}

json::object describe(const Device& device) {
  const DeviceInfo& info = device.info();
  json::object bdev;
  bdev["name"] = info.name;
  bdev["aliases"] = aliases_of(info);
  bdev["product_name"] = info.product_name;
  bdev["block_size"] = info.block_size;
  bdev["num_blocks"] = device.size_blocks();
  bdev["preferred_write_alignment"] = 0;
  bdev["preferred_write_granularity"] = 0;
  bdev["optimal_write_size"] = info.optimal_blocks;
  bdev["preferred_unmap_alignment"] = 0;
  bdev["preferred_unmap_granularity"] = 0;
  bdev["uuid"] = info.uuid.to_string();
  bdev["assigned_rate_limits"] =
      json::object{{"rw_ios_per_sec", 0}, {"rw_mbytes_per_sec", 0}, {"r_mbytes_per_sec", 0}, {"w_mbytes_per_sec", 0}};
  bdev["claimed"] = !device.claimed_by().empty();
  if (!device.claimed_by().empty()) bdev["claim_type"] = "exclusive_write";
  bdev["zoned"] = false;
  bdev["supported_io_types"] = supported_io_types(device);
  bdev["driver_specific"] = driver_specific(device);
  return bdev;
}

Task<Reply> get_bdevs(const BdevControl& control, json::object params) {
  json::array list;
  if (!has(params, "name")) {
    for (const std::shared_ptr<Device>& device : control.events.in_order()) list.push_back(describe(*device));
    co_return json::value(std::move(list));
  }
  Reactor& main = control.devices.main_reactor();
  const std::string name = text_param(params, "name");
  const uint64_t deadline_ns = main.now_ns() + uint_param(params, "timeout") * 1'000'000;
  while (true) {
    {
      Result<std::shared_ptr<Device>> device = control.devices.find(name);
      if (device) {
        list.push_back(describe(**device));
        co_return json::value(std::move(list));
      }
      if (main.now_ns() >= deadline_ns || control.dispatcher.refusing()) co_return device.error();
    }
    co_await sleep_for(main, kAppearPollNs);
  }
}

Task<Reply> examine(const BdevControl& control, json::object params) {
  const std::string name = text_param(params, "name");
  Result<std::shared_ptr<Device>> device = control.devices.find(name);
  if (!device) co_return device.error();
  if (control.devices.auto_examine())
    co_return Error(
        Errc::invalid_argument,
        fmt::format("bdev '{}' was examined when it appeared, as every bdev is: there is nothing to ask for", name));
  const Result<void> asked = control.devices.examine(name);
  if (!asked) co_return asked.error();
  co_return json::value(true);
}

Task<Reply> wait_for_examine(const BdevControl& control) {
  Task<void> waiting = control.examination.wait();
  co_await waiting;
  co_return json::value(true);
}

Task<Reply> set_options(json::object& options, json::object params) {
  options = std::move(params);
  co_return json::value(true);
}

Task<Reply> set_bdev_options(BdevControl& control, json::object params) {
  const json::value* auto_examine = params.if_contains("bdev_auto_examine");
  if (auto_examine != nullptr) control.devices.set_auto_examine(auto_examine->as_bool());
  return set_options(control.bdev_options, std::move(params));
}

std::string call_text(const char* method, const json::object& params) {
  return json::serialize(json::object{{"method", method}, {"params", params}});
}

}  // namespace

std::vector<std::string> bdev_option_calls(const BdevControl& control) {
  if (control.bdev_options.empty()) return {};
  return {call_text("bdev_set_options", control.bdev_options)};
}

std::vector<std::string> iobuf_calls(const BdevControl& control) {
  if (control.iobuf_options.empty()) return {};
  return {call_text("iobuf_set_options", control.iobuf_options)};
}

std::vector<std::string> bdev_device_calls(const BdevControl& control) {
  std::vector<std::string> calls;
  for (const std::shared_ptr<Device>& device : control.events.in_order()) {
    std::string call = device->config_json();
    if (!call.empty()) calls.push_back(std::move(call));
  }
  calls.push_back(R"({"method":"bdev_wait_for_examine"})");
  return calls;
}

void add_bdev_methods(MethodTable& methods, BdevControl& control) {
  methods.add("bdev_get_bdevs", [&control](json::object params) { return get_bdevs(control, std::move(params)); });
  methods.add("bdev_examine", [&control](json::object params) { return examine(control, std::move(params)); });
  methods.add("bdev_wait_for_examine", [&control](json::object) { return wait_for_examine(control); });
  methods.add("bdev_set_options",
              [&control](json::object params) { return set_bdev_options(control, std::move(params)); });
  methods.add("iobuf_set_options",
              [&control](json::object params) { return set_options(control.iobuf_options, std::move(params)); });
}

}  // namespace diskengine::rpc
