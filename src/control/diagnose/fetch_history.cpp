#include "control/diagnose/fetch_history.h"

#include <fmt/format.h>

#include <algorithm>
#include <boost/json.hpp>

#include "control/dataplane/json_read.h"

namespace diskengine::control {
namespace {

namespace json = boost::json;

constexpr int64_t kSecondsUpToMs = 75 * 60 * 1000;
constexpr uint32_t kMachineRecords = 50'000;
constexpr const char* kMethod = "diskengine_history_get";

class Fetch {
 public:
  Fetch(const ExpectedPath& path, Asker& asker, Environment& environment, int64_t since_ms)
      : path_(path), asker_(asker), environment_(environment) {
    history_.volume = path.volume;
    history_.raid = path.raid;
    history_.until_ms = environment.unix_ms();
    history_.since_ms = history_.until_ms - since_ms;
    series_ = since_ms <= kSecondsUpToMs ? "seconds" : "minutes";
  }

  LatencyHistory run() {
    for (const ExpectedNode& node : path_.nodes) fetch_node(node.name);
    for (const ExpectedReplica& replica : path_.replicas) history_.controllers.push_back(replica.controller);
    std::stable_sort(history_.events.begin(), history_.events.end(),
                     [](const PastEvent& a, const PastEvent& b) { return a.end_ms < b.end_ms; });
    return std::move(history_);
  }

 private:
  json::object params(const char* series, const std::string& name, int64_t ahead_ms) const {
    json::object params{{"series", series},
                        {"since_ms", static_cast<uint64_t>(std::max<int64_t>(0, history_.since_ms + ahead_ms))}};
    if (!name.empty()) params["name"] = name;
    return params;
  }

  // How far its clock is ahead of ours; an error if it cannot be asked.
  Result<int64_t> clock_of(const std::string& node) {
    const int64_t before_ms = environment_.unix_ms();
    TRY_ASSIGN(const json::value answer, asker_.ask(node, kMethod, {{"series", "events"}, {"limit", 1}}));
    return json_read::integer(answer, "now_ms") - (before_ms + environment_.unix_ms()) / 2;
  }

  void fetch_node(const std::string& node) {
    const Result<int64_t> ahead = clock_of(node);
    if (!ahead) {
      const bool lacks_it = ahead.error().code() == Errc::not_supported;
      history_.gaps.push_back({"node " + node, lacks_it ? "its data plane keeps no history" : ahead.error().message()});
      return;
    }
    if (const Result<json::value> events = asker_.ask(node, kMethod, params("events", {}, *ahead)); events) {
      for (PastEvent& event : read_events(*events, node, *ahead)) history_.events.push_back(std::move(event));
      note_cut(*events, node, "events");
    }
    if (node == path_.compute_node) fetch_series(PastRole::volume, node, path_.raid, {}, *ahead);
    for (const ExpectedReplica& replica : path_.replicas) {
      if (node == path_.compute_node) fetch_series(PastRole::leg, node, replica.base_bdev, replica.base_bdev, *ahead);
      if (node != replica.node) continue;
      fetch_series(PastRole::lvol, node, replica.lvol, replica.base_bdev, *ahead);
      fetch_series(PastRole::disk, node, replica.disk_bdev, replica.base_bdev, *ahead);
    }
    for (const char* kind : {"network", "temperature"}) fetch_machine(node, kind, *ahead);
    const Result<json::value> reactors = asker_.ask(node, "thread_get_stats", {});
    if (!reactors) return;
    json_read::for_each(json_read::member(*reactors, "threads"), [&](const json::value& thread) {
      fetch_series(PastRole::reactor, node, json_read::text(thread, "name"), {}, *ahead);
    });
  }

  void fetch_series(PastRole role, const std::string& node, const std::string& name, const std::string& leg,
                    int64_t ahead_ms) {
    if (name.empty()) return;
    const Result<json::value> answer = asker_.ask(node, kMethod, params(series_, name, ahead_ms));
    if (!answer) {
      history_.gaps.push_back({fmt::format("{} on {}", name, node), answer.error().message()});
      return;
    }
    note_cut(*answer, node, name);
    history_.series.push_back(
        {.role = role, .node = node, .name = name, .leg = leg, .samples = read_samples(*answer, ahead_ms)});
  }

  // What its machine said. Of the connections only those to the volume's replicas, at either end.
  void fetch_machine(const std::string& node, const std::string& kind, int64_t ahead_ms) {
    json::object wanted = params(series_, {}, ahead_ms);
    wanted["kind"] = kind;
    wanted["limit"] = kMachineRecords;
    const Result<json::value> answer = asker_.ask(node, kMethod, wanted);
    if (!answer) {
      history_.gaps.push_back({fmt::format("{} of {}", kind, node), "its data plane does not record it"});
      return;
    }
    note_cut(*answer, node, kind);
    for (PastSeries& series : read_machine(*answer, node, ahead_ms)) {
      if (series.role == PastRole::connections) {
        const ExpectedReplica* replica = replica_at(series.name);
        if (replica == nullptr || (node != path_.compute_node && node != replica->node)) continue;
        series.leg = replica->base_bdev;
      }
      history_.series.push_back(std::move(series));
    }
  }

  // The replica whose node listens at the address that connections are named by.
  const ExpectedReplica* replica_at(const std::string& connections) const {
    for (const ExpectedReplica& replica : path_.replicas) {
      const ExpectedNode* node = path_.node(replica.node);
      if (node == nullptr || node->port.empty()) continue;
      const bool is_v6 = node->address.find(':') != std::string::npos && !node->address.starts_with('[');
      const std::string host = is_v6 ? "[" + node->address + "]" : node->address;
      if (connections == fmt::format("tcp {}:{}", host, node->port)) return &replica;
    }
    return nullptr;
  }

  void note_cut(const json::value& answer, const std::string& node, const std::string& what) {
    if (json_read::boolean(answer, "cut"))
      history_.gaps.push_back(
          {fmt::format("{} of {}", what, node), "there were too many records: the oldest are left out"});
  }

  const ExpectedPath& path_;
  Asker& asker_;
  Environment& environment_;
  const char* series_;
  LatencyHistory history_;
};

}  // namespace

LatencyHistory fetch_history(const ExpectedPath& path, Asker& asker, Environment& environment, int64_t since_ms) {
  return Fetch(path, asker, environment, since_ms).run();
}

}  // namespace diskengine::control
