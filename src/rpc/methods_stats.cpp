#include "rpc/methods_stats.h"

#include <fmt/format.h>

#include <algorithm>
#include <boost/json/array.hpp>
#include <memory>
#include <utility>

#include "base/base64.h"
#include "rpc/params.h"
#include "runtime/clock.h"

namespace diskengine::rpc {
namespace json = boost::json;

namespace {

constexpr unsigned kFirstThreadId = 1;  // SPDK counts threads from 1

uint64_t microseconds_of(uint64_t ticks) {
  return static_cast<uint64_t>(static_cast<double>(ticks) * 1e6 / static_cast<double>(ticks_per_second()));
}

using Devices = std::vector<std::shared_ptr<Device>>;

const OpStats& stats_of(const IoStats& stats, Op op) { return stats.ops[static_cast<size_t>(op)]; }

void put_latency(json::object& out, std::string_view op, const OpStats& stats) {
  out[fmt::format("{}_latency_ticks", op)] = stats.ticks;
  out[fmt::format("max_{}_latency_ticks", op)] = stats.max_ticks;
  out[fmt::format("min_{}_latency_ticks", op)] =
      stats.count == 0 || stats.min_ticks == UINT64_MAX ? 0 : stats.min_ticks;
}

void put_stats(json::object& out, const IoStats& stats) {
  const OpStats& read = stats_of(stats, Op::read);
  const OpStats& write = stats_of(stats, Op::write);
  const OpStats& unmap = stats_of(stats, Op::unmap);
  out["bytes_read"] = read.bytes;
  out["num_read_ops"] = read.count;
  out["bytes_written"] = write.bytes;
  out["num_write_ops"] = write.count;
  out["bytes_unmapped"] = unmap.bytes;
  out["num_unmap_ops"] = unmap.count;
  out["bytes_copied"] = 0;
  out["num_copy_ops"] = 0;
  put_latency(out, "read", read);
  put_latency(out, "write", write);
  put_latency(out, "unmap", unmap);
  put_latency(out, "copy", OpStats{});
  uint64_t errors = 0;
  for (const OpStats& op : stats.ops) errors += op.errors;
  json::object by_kind;
  if (errors > 0) by_kind["failed"] = errors;
  out["io_error"] = std::move(by_kind);
}

StatsReset reset_from(const std::string& mode) {
  if (mode == "all") return StatsReset::everything;
  if (mode == "maxmin") return StatsReset::extremes;
  if (mode == "error") return StatsReset::errors;
  return StatsReset::nothing;
}

// The devices that were named, or all.
Result<Devices> devices_named(const DeviceRegistry& registry, const json::array* names) {
  if (names == nullptr) return registry.all();
  Devices list;
  for (const json::value& name : *names) {
    TRY_ASSIGN(std::shared_ptr<Device> device, registry.find(name.as_string().c_str()));
    list.push_back(std::move(device));
  }
  return list;
}

Task<DeviceStats> collect(std::shared_ptr<Device> device, StatsReset reset) {
  OneShot<DeviceStats> collected(*Reactor::current());
  device->collect_stats(reset, [&collected](DeviceStats stats) { collected.set(std::move(stats)); });
  device.reset();  // a device that goes away meanwhile need not wait for us
  DeviceStats stats = co_await collected;
  co_return stats;
}

json::object iostat_header() { return {{"tick_rate", ticks_per_second()}, {"ticks", ticks()}}; }

Task<Reply> get_iostat(DeviceRegistry& registry, HistogramMarks& marks, json::object params) {
  const json::value* names = params.if_contains("names");
  const bool per_channel = bool_param(params, "per_channel");
  const StatsReset reset = reset_from(text_param(params, "reset_mode"));
  if (per_channel && (names == nullptr || names->as_array().size() != 1))
    co_return Error(Errc::invalid_argument, "bdev_get_iostat: with per_channel, names must name exactly one bdev");
  Result<Devices> devices = devices_named(registry, names == nullptr ? nullptr : &names->as_array());
  if (!devices) co_return devices.error();
  json::object result = iostat_header();
  json::array bdevs;
  for (std::shared_ptr<Device>& device : *devices) {
    const std::string name = device->name();
    Task<DeviceStats> collecting = collect(std::move(device), reset);
    DeviceStats stats = co_await collecting;
    if (reset == StatsReset::everything) marks.forget_past(name);
    if (per_channel) {
      result["name"] = name;
      for (const DeviceStats::PerChannel& channel : stats.channels) {
        json::object entry{{"thread_id", channel.reactor_id + kFirstThreadId}};
        put_stats(entry, channel.stats);
        bdevs.push_back(std::move(entry));
      }
    } else {
      json::object entry{{"name", name}};
      put_stats(entry, stats.total);
      bdevs.push_back(std::move(entry));
    }
  }
  result[per_channel ? "channels" : "bdevs"] = std::move(bdevs);
  co_return json::value(std::move(result));
}

Task<Reply> reset_iostat(DeviceRegistry& registry, HistogramMarks& marks, json::object params) {
  const StatsReset reset = reset_from(text_param(params, "mode"));
  if (reset == StatsReset::nothing) co_return json::value(true);
  json::array one;
  if (has(params, "name")) one.push_back(param(params, "name"));
  Result<Devices> devices = devices_named(registry, one.empty() ? nullptr : &one);
  if (!devices) co_return devices.error();
  for (std::shared_ptr<Device>& device : *devices) {
    const std::string name = device->name();
    Task<DeviceStats> collecting = collect(std::move(device), reset);
    co_await collecting;
    if (reset == StatsReset::everything) marks.forget_past(name);
  }
  co_return json::value(true);
}

std::vector<uint64_t> buckets_of(const IoStats& stats, HistogramMarks::Kind kind) {
  Histogram sum = stats.latency[kind == HistogramMarks::Kind::write ? 1 : 0];
  if (kind == HistogramMarks::Kind::all) {
    sum.merge(stats.latency[1]);
    sum.merge(stats.latency[2]);
  }
  return sum.counts();
}

Task<Reply> enable_histogram(DeviceRegistry& registry, HistogramMarks& marks, json::object params) {
  Result<std::shared_ptr<Device>> device = registry.find(text_param(params, "name"));
  if (!device) co_return device.error();
  const std::string name = (*device)->name();
  if (!bool_param(params, "enable")) {
    marks.disable(name);
    co_return json::value(true);
  }
  HistogramMarks::Mark mark;
  if (has(params, "opc"))
    mark.kind = text_param(params, "opc") == "read" ? HistogramMarks::Kind::read : HistogramMarks::Kind::write;
  Task<DeviceStats> collecting = collect(std::move(*device), StatsReset::nothing);
  DeviceStats stats = co_await collecting;
  if (!registry.find(name)) co_return Error(Errc::no_device, "bdev '" + name + "' went away meanwhile");
  mark.before = buckets_of(stats.total, mark.kind);
  marks.enable(name, std::move(mark));
  co_return json::value(true);
}

// The buckets counted since the histogram was enabled.
Task<Result<std::vector<uint64_t>>> counted(DeviceRegistry& registry, const HistogramMarks& marks, std::string asked) {
  Result<std::shared_ptr<Device>> device = registry.find(asked);
  if (!device) co_return device.error();
  const std::string name = (*device)->name();
  Task<DeviceStats> collecting = collect(std::move(*device), StatsReset::nothing);
  DeviceStats stats = co_await collecting;
  const HistogramMarks::Mark* mark = marks.find(name);
  if (mark == nullptr)
    co_return Error(Errc::internal,
                    "the histogram of bdev '" + name + "' is not enabled: bdev_enable_histogram does that");
  std::vector<uint64_t> buckets = buckets_of(stats.total, mark->kind);
  for (size_t i = 0; i < mark->before.size(); ++i) buckets[i] -= std::min(buckets[i], mark->before[i]);
  co_return buckets;
}

Task<Reply> get_histogram(DeviceRegistry& registry, const HistogramMarks& marks, json::object params) {
  Task<Result<std::vector<uint64_t>>> counting = counted(registry, marks, text_param(params, "name"));
  Result<std::vector<uint64_t>> buckets = co_await counting;
  if (!buckets) {
    if (buckets.error().code() == Errc::internal) co_return Fault{kInternalError, buckets.error().message()};
    co_return buckets.error();
  }
  // SPDK's layout: the buckets as 64-bit numbers in the machine's byte order, 2^granularity of them for each power of
  // two.
  const unsigned granularity = Histogram::kDefaultPrecisionBits;
  const std::string_view bytes(reinterpret_cast<const char*>(buckets->data()), buckets->size() * sizeof(uint64_t));
  co_return json::value(json::object{{"histogram", base64_encode(bytes)},
                                     {"granularity", granularity},
                                     {"bucket_shift", granularity},  // what older releases of SPDK call it
                                     {"min_range", 0},
                                     {"max_range", (buckets->size() >> granularity) - 1},
                                     {"tsc_rate", ticks_per_second()}});
}

struct Waiting {
  std::string bdev;
  std::string product_name;
  Outstanding what;
};

Task<std::vector<Outstanding>> outstanding_of(std::shared_ptr<Device> device) {
  OneShot<std::vector<Outstanding>> collected(*Reactor::current());
  device->collect_outstanding([&collected](std::vector<Outstanding> found) { collected.set(std::move(found)); });
  device.reset();  // as for collect()
  std::vector<Outstanding> found = co_await collected;
  co_return found;
}

json::object describe(const Waiting& waiting) {
  return {{"bdev", waiting.bdev},
          {"product_name", waiting.product_name},
          {"thread_id", waiting.what.reactor_id + kFirstThreadId},
          {"outstanding", waiting.what.count},
          {"op", name_of(waiting.what.oldest_op)},
          {"lba", waiting.what.oldest_lba},
          {"num_blocks", waiting.what.oldest_blocks},
          {"age_us", microseconds_of(waiting.what.oldest_age_ticks)}};
}

Task<Reply> get_outstanding(DeviceRegistry& registry, json::object params) {
  json::array names;
  if (has(params, "name")) names.push_back(param(params, "name"));
  Result<Devices> devices = devices_named(registry, names.empty() ? nullptr : &names);
  if (!devices) co_return devices.error();
  const uint64_t older_than_us = uint_param(params, "older_than_us");
  std::vector<Waiting> all;
  for (std::shared_ptr<Device>& device : *devices) {
    const std::string name = device->name();
    const std::string product_name = device->info().product_name;
    Task<std::vector<Outstanding>> collecting = outstanding_of(std::move(device));
    std::vector<Outstanding> found = co_await collecting;
    for (const Outstanding& one : found)
      if (microseconds_of(one.oldest_age_ticks) >= older_than_us) all.push_back({name, product_name, one});
  }
  std::stable_sort(all.begin(), all.end(), [](const Waiting& a, const Waiting& b) {
    return a.what.oldest_age_ticks > b.what.oldest_age_ticks;
  });
  json::array list;
  for (const Waiting& waiting : all) list.push_back(describe(waiting));
  co_return json::value(std::move(list));
}

}  // namespace

void HistogramMarks::forget_past(const std::string& name) {
  auto at = marks_.find(name);
  if (at != marks_.end()) at->second.before.clear();
}

const HistogramMarks::Mark* HistogramMarks::find(const std::string& name) const {
  auto at = marks_.find(name);
  return at == marks_.end() ? nullptr : &at->second;
}

void add_stats_methods(MethodTable& methods, DeviceRegistry& devices, HistogramMarks& marks) {
  methods.add("bdev_get_iostat", [&](json::object params) { return get_iostat(devices, marks, std::move(params)); });
  methods.add("bdev_reset_iostat",
              [&](json::object params) { return reset_iostat(devices, marks, std::move(params)); });
  methods.add("diskengine_outstanding",
              [&](json::object params) { return get_outstanding(devices, std::move(params)); });
  methods.add("bdev_enable_histogram",
              [&](json::object params) { return enable_histogram(devices, marks, std::move(params)); });
  methods.add("bdev_get_histogram",
              [&](json::object params) { return get_histogram(devices, marks, std::move(params)); });
}

}  // namespace diskengine::rpc
