#include "rpc/methods_history.h"

#include <fmt/format.h>

#include <algorithm>
#include <boost/json/array.hpp>
#include <memory>
#include <optional>
#include <utility>

#include "history/states.h"
#include "rpc/params.h"
#include "trace/stages.h"

namespace diskengine::rpc {
namespace {

namespace json = boost::json;
using history::Archive;
using history::Found;
using history::Series;
using spec::HistoryKind;
using spec::HistoryPhase;
using spec::HistoryRecord;

json::string text(std::string_view view) { return json::string(view.data(), view.size()); }

constexpr uint64_t kMsPerSecond = 1000;

std::string_view name_of(HistoryPhase phase) noexcept {
  switch (phase) {
    case HistoryPhase::began:
      return "began";
    case HistoryPhase::ended:
      return "ended";
    case HistoryPhase::moment:
      break;
  }
  return "moment";
}

// What a file says is not believed.
std::string_view layer_name(uint16_t detail) noexcept {
  return detail < trace::kLayers ? trace::name_of(static_cast<trace::Layer>(detail)) : "other";
}

void put_latency(json::object& out, std::string_view op, const HistoryRecord& record, unsigned first) {
  out[fmt::format("{}_p50_us", op)] = record.values[first];
  out[fmt::format("{}_p99_us", op)] = record.values[first + 1];
  out[fmt::format("{}_max_us", op)] = record.values[first + 2];
}

void put_device(json::object& out, const HistoryRecord& record) {
  const auto& values = record.values;
  out["layer"] = text(layer_name(record.detail));
  out["reads"] = values[spec::kHistoryReads];
  out["writes"] = values[spec::kHistoryWrites];
  out["others"] = values[spec::kHistoryOthers];
  out["errors"] = values[spec::kHistoryErrors];
  out["read_kib"] = values[spec::kHistoryReadKib];
  out["write_kib"] = values[spec::kHistoryWriteKib];
  put_latency(out, "read", record, spec::kHistoryReadP50);
  put_latency(out, "write", record, spec::kHistoryWriteP50);
  out["other_p99_us"] = values[spec::kHistoryOtherP99];
  out["outstanding"] = values[spec::kHistoryOutstanding];
  out["oldest_ms"] = values[spec::kHistoryOldestMs];
}

void put_stages(json::object& out, const HistoryRecord& record) {
  out["layer"] = text(layer_name(record.detail));
  out["traced"] = record.values[spec::kHistoryTraced];
  out["p50_us"] = record.values[spec::kHistoryTotalP50];
  out["p99_us"] = record.values[spec::kHistoryTotalP99];
  json::array stages;
  for (size_t i = 0; i < trace::kStages; ++i) {
    const uint32_t p50 = record.values[spec::kHistoryFirstStage + 2 * i];
    const uint32_t p99 = record.values[spec::kHistoryFirstStage + 2 * i + 1];
    if (p99 == 0) continue;
    stages.push_back(
        json::object{{"stage", text(trace::name_of(static_cast<trace::Stage>(i)))}, {"p50_us", p50}, {"p99_us", p99}});
  }
  out["stages"] = std::move(stages);
}

std::string_view name_of(spec::HistoryNetwork type) noexcept {
  switch (type) {
    case spec::HistoryNetwork::tcp:
      return "tcp";
    case spec::HistoryNetwork::interface:
      return "interface";
    case spec::HistoryNetwork::rdma:
      return "rdma";
  }
  return "other";
}

void put_network(json::object& out, const HistoryRecord& record) {
  const auto& values = record.values;
  out["type"] = text(name_of(static_cast<spec::HistoryNetwork>(record.detail)));
  out["connections"] = values[spec::kHistoryConnections];
  out["sent"] = values[spec::kHistorySent];
  out["again"] = values[spec::kHistoryAgain];
  out["dropped"] = values[spec::kHistoryDropped];
  out["damaged"] = values[spec::kHistoryDamaged];
  out["congested"] = values[spec::kHistoryCongested];
  out["rtt_us"] = values[spec::kHistoryRttUs];
}

json::object describe(const HistoryRecord& record) {
  json::object out{{"end_ms", record.end_ms}, {"span_ms", record.span_ms}, {"name", record.name}};
  switch (record.kind) {
    case HistoryKind::device:
      out["kind"] = "device";
      put_device(out, record);
      break;
    case HistoryKind::stages:
      out["kind"] = "stages";
      put_stages(out, record);
      break;
    case HistoryKind::reactor:
      out["kind"] = "reactor";
      out["busy_percent"] = record.values[spec::kHistoryBusy] / 10.0;
      out["spinning_percent"] = record.values[spec::kHistorySpinning] / 10.0;
      out["asleep_percent"] = record.values[spec::kHistoryAsleep] / 10.0;
      break;
    case HistoryKind::network:
      out["kind"] = "network";
      put_network(out, record);
      break;
    case HistoryKind::temperature:
      out["kind"] = "temperature";
      out["celsius"] = record.values[spec::kHistoryCelsius];
      out["warning_celsius"] = record.values[spec::kHistoryWarningCelsius];
      break;
    case HistoryKind::event:
      out["kind"] = "event";
      out["type"] = record.type;
      out["phase"] = text(name_of(static_cast<HistoryPhase>(record.detail)));
      out["text"] = record.text;
      break;
  }
  return out;
}

Series series_named(const std::string& name) {
  return name == "minutes" ? Series::minutes : name == "events" ? Series::events : Series::seconds;
}

std::optional<HistoryKind> kind_named(const std::string& name) {
  if (name == "device") return HistoryKind::device;
  if (name == "stages") return HistoryKind::stages;
  if (name == "reactor") return HistoryKind::reactor;
  if (name == "event") return HistoryKind::event;
  if (name == "network") return HistoryKind::network;
  if (name == "temperature") return HistoryKind::temperature;
  return std::nullopt;
}

Task<Reply> get(Archive* archive, json::object params) {
  if (archive == nullptr)
    co_return Error(Errc::not_supported, "this process keeps no history: it was started with --no-history");
  Reactor& home = *Reactor::current();
  const uint64_t now_ms = home.clock().wall_ns() / 1'000'000;
  history::Query query;
  query.series = series_named(text_param(params, "series"));
  query.since_ms = uint_param_or(params, "since_ms", now_ms > 3600 * kMsPerSecond ? now_ms - 3600 * kMsPerSecond : 0);
  query.until_ms = uint_param_or(params, "until_ms", UINT64_MAX);
  query.name = text_param_or(params, "name", "");
  query.kind = kind_named(text_param_or(params, "kind", ""));
  query.limit = uint_param(params, "limit");
  OneShot<Result<Found>> read(home);
  const Result<void> begun = archive->read(std::move(query), [&read, &home](Result<Found> found) {
    home.post([&read, found = std::move(found)] { read.set(found); });
  });
  if (!begun) co_return begun.error();
  const Result<Found> found = co_await read;
  if (!found) co_return found.error();
  json::array records;
  for (const HistoryRecord& record : found->records) records.push_back(describe(record));
  co_return json::value(json::object{{"now_ms", now_ms},
                                     {"directory", archive->directory()},
                                     {"dropped", archive->dropped()},
                                     {"cut", found->cut},
                                     {"records", std::move(records)}});
}

// --- Calls that change how I/O flows
// ----------------------------------------------------------------------------------

constexpr std::string_view kChanging[] = {"bdev_lvol_snapshot",
                                          "bdev_lvol_clone",
                                          "bdev_lvol_clone_bdev",
                                          "bdev_lvol_inflate",
                                          "bdev_lvol_decouple_parent",
                                          "bdev_lvol_resize",
                                          "bdev_lvol_delete",
                                          "bdev_lvol_set_parent",
                                          "bdev_lvol_start_shallow_copy",
                                          "bdev_raid_create",
                                          "bdev_raid_delete",
                                          "bdev_raid_add_base_bdev",
                                          "bdev_raid_remove_base_bdev",
                                          "bdev_nvme_attach_controller",
                                          "bdev_nvme_detach_controller",
                                          "bdev_nvme_reset_controller",
                                          "bdev_delay_create",
                                          "bdev_delay_update_latency",
                                          "bdev_error_inject_error",
                                          "vhost_create_blk_controller",
                                          "vhost_delete_controller",
                                          "nvmf_delete_subsystem",
                                          "nvmf_subsystem_remove_ns",
                                          "nvmf_subsystem_remove_listener",
                                          "nvmf_subsystem_remove_host"};
// Which parameters name objects; of others nothing is kept.
constexpr std::string_view kNames[] = {
    "name",     "lvol_name", "snapshot_name", "clone_name",      "raid_bdev",     "base_bdev",     "ctrlr",
    "dev_name", "nqn",       "bdev",          "delay_bdev_name", "dst_bdev_name", "src_lvol_name", "base_bdev_name"};

// The object first.
std::pair<std::string, std::string> objects_in(const json::object& params) {
  std::string object, all;
  for (const std::string_view member : kNames) {
    const json::value* value = params.if_contains(member);
    if (value == nullptr || !value->is_string()) continue;
    const std::string one(value->as_string().data(), value->as_string().size());
    if (object.empty()) object = one;
    all += fmt::format(" {}={}", member, one);
  }
  return {object, all};
}

Task<Reply> call_and_keep(const Handler& handler, std::string_view name, Archive& archive, json::object params) {
  Reactor& home = *Reactor::current();
  const auto [object, objects] = objects_in(params);
  const uint64_t began_ns = home.clock().now_ns();
  Task<Reply> calling = handler(std::move(params));
  Reply reply = co_await calling;
  if (reply.ok()) {
    const uint64_t took_ms = (home.clock().now_ns() - began_ns) / 1'000'000;
    archive.add(Series::events, history::event("rpc", object, fmt::format("{}{}", name, objects),
                                               home.clock().wall_ns() / 1'000'000, HistoryPhase::moment, took_ms));
  }
  co_return reply;
}

}  // namespace

void add_history_methods(MethodTable& methods, Archive* archive) {
  methods.add("diskengine_history_get", [archive](json::object params) { return get(archive, std::move(params)); });
}

MethodTable with_history(const MethodTable& methods, Archive& archive) {
  MethodTable kept;
  for (const auto& [name, handler] : methods.all()) {
    const auto* known = std::find(std::begin(kChanging), std::end(kChanging), name);
    if (known == std::end(kChanging)) {
      kept.add(name, handler);
      continue;
    }
    kept.add(name, [handler = handler, name = *known, &archive](json::object params) {
      return call_and_keep(handler, name, archive, std::move(params));
    });
  }
  return kept;
}

}  // namespace diskengine::rpc
