#include "rpc/methods_perf.h"

#include <fmt/format.h>

#include "block/load.h"
#include "rpc/params.h"

namespace diskengine::rpc {
namespace json = boost::json;

namespace {

constexpr std::string_view kClaim = "diskengine_perf_run";

LoadOptions options_from(const json::object& params) {
  LoadOptions options;
  options.read_percent = static_cast<uint32_t>(uint_param(params, "read_percent"));
  options.random = !bool_param(params, "sequential");
  options.queue_depth = static_cast<uint32_t>(uint_param(params, "queue_depth"));
  options.io_bytes = static_cast<uint32_t>(uint_param(params, "io_size"));
  options.duration_ns = uint_param(params, "duration_ms") * 1'000'000;
  options.warm_up_ns = uint_param(params, "warm_up_ms") * 1'000'000;
  options.seed = uint_param(params, "seed");
  return options;
}

json::object describe(const LoadResult& result) {
  const double us_per_tick = 1e6 / static_cast<double>(ticks_per_second());
  const double seconds = static_cast<double>(result.elapsed_ns) / 1e9;
  const auto quantile_us = [&](double quantile) {
    return static_cast<double>(result.latency_ticks.quantile(quantile)) * us_per_tick;
  };
  return {
      {"ios", result.ios},
      {"all_ios", result.all_ios},
      {"seconds", seconds},
      {"iops", seconds > 0 ? static_cast<double>(result.ios) / seconds : 0.0},
      {"latency_us",
       {{"p50", quantile_us(0.5)}, {"p99", quantile_us(0.99)}, {"p999", quantile_us(0.999)}, {"max", quantile_us(1)}}}};
}

// Ends the load when its device goes away.
class StopOnRemoval final : public DeviceWatcher {
 public:
  StopOnRemoval(Device& device, LoadGenerator& load) : load_(load) { device.watch(*this); }
  ~StopOnRemoval() {
    if (linked()) unlink();
  }
  void on_removed(Device& device) override {
    device.unwatch(*this);
    load_.stop();
  }

 private:
  LoadGenerator& load_;
};

Task<Reply> load_claimed(Reactor& reactor, std::shared_ptr<Device> device, LoadOptions options) {
  Result<std::unique_ptr<LoadGenerator>> opened = LoadGenerator::open(device, reactor, options);
  if (!opened) co_return opened.error();
  std::unique_ptr<LoadGenerator> load = std::move(*opened);
  StopOnRemoval stopper(*device, *load);
  OneShot<LoadResult> finished(reactor);
  load->run([&finished](const LoadResult& result) { finished.set(result); });
  const LoadResult result = co_await finished;
  if (result.errors > 0)
    co_return Error(Errc::io_error, fmt::format("'{}': {} of {} requests failed, the first with {}", device->name(),
                                                result.errors, result.all_ios, name_of(result.first_error.code)));
  co_return json::value(describe(result));
}

Task<Reply> perf_run(DeviceRegistry& devices, json::object params) {
  const LoadOptions options = options_from(params);
  Result<std::shared_ptr<Device>> found = devices.find(text_param(params, "bdev_name"));
  if (!found) co_return found.error();
  std::shared_ptr<Device> device = std::move(*found);
  const bool writes = options.read_percent < 100;
  if (writes) {
    Result<void> claimed = device->claim(std::string(kClaim));
    if (!claimed) co_return claimed.error();
  }
  Task<Reply> loading = load_claimed(devices.main_reactor(), device, options);
  Reply reply = co_await loading;
  if (writes) device->release();
  co_return reply;
}

}  // namespace

void add_perf_methods(MethodTable& methods, DeviceRegistry& devices) {
  methods.add("diskengine_perf_run", [&](json::object params) { return perf_run(devices, std::move(params)); });
}

}  // namespace diskengine::rpc
