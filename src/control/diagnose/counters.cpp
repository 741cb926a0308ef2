#include "control/diagnose/counters.h"

#include <algorithm>

#include "control/dataplane/json_read.h"

namespace diskengine::control {
namespace {

namespace json = boost::json;
using namespace json_read;

DeviceCounters counters_of(const json::value& bdev, double ticks_per_us) {
  DeviceCounters counters;
  counters.ops = integer(bdev, "num_read_ops") + integer(bdev, "num_write_ops");
  const auto ticks = integer(bdev, "read_latency_ticks") + integer(bdev, "write_latency_ticks");
  counters.busy_us = ticks_per_us > 0 ? static_cast<double>(ticks) / ticks_per_us : 0;
  const json::value* errors = member(bdev, "io_error");
  if (errors != nullptr && errors->is_object())
    for (const auto& kind : errors->get_object()) counters.errors += integer(*errors, kind.key());
  return counters;
}

void add_outstanding(const json::value& answer, NodeCounters* counters) {
  for_each(&answer, [&](const json::value& one) {
    const auto device = counters->devices.find(text(one, "bdev"));
    if (device == counters->devices.end()) return;
    device->second.outstanding += integer(one, "outstanding");
    device->second.oldest_us = std::max(device->second.oldest_us, integer(one, "age_us"));
  });
}

}  // namespace

NodeCounters look_at_counters(Asker& asker, const std::string& node, const std::vector<std::string>& bdevs) {
  NodeCounters counters;
  for (const std::string& bdev : bdevs) {
    if (bdev.empty()) continue;
    const Result<json::value> answer = asker.ask(node, "bdev_get_iostat", {{"names", json::array{bdev}}});
    if (!answer) continue;
    const double ticks_per_us = static_cast<double>(integer(*answer, "tick_rate")) / 1e6;
    for_each(member(*answer, "bdevs"),
             [&](const json::value& one) { counters.devices[text(one, "name")] = counters_of(one, ticks_per_us); });
  }
  if (const Result<json::value> outstanding = asker.ask(node, "diskengine_outstanding", {})) {
    counters.ages_known = true;
    add_outstanding(*outstanding, &counters);
  }
  if (const Result<json::value> reactors = asker.ask(node, "framework_get_reactors", {}))
    for_each(member(*reactors, "reactors"), [&](const json::value& reactor) {
      counters.reactors.push_back({.name = "core " + std::to_string(integer(reactor, "lcore")),
                                   .busy = integer(reactor, "busy"),
                                   .idle = integer(reactor, "idle")});
    });
  return counters;
}

Flow flow_between(const NodeCounters& before, const NodeCounters& after, const std::string& bdev) {
  Flow flow;
  const auto now = after.devices.find(bdev);
  if (now == after.devices.end()) return flow;
  flow.exists = true;
  flow.total_errors = now->second.errors;
  flow.outstanding = now->second.outstanding;
  flow.oldest_us = now->second.oldest_us;
  const auto then = before.devices.find(bdev);
  // Made, or reset by somebody, between the looks: nothing can be said of what moved.
  if (then == before.devices.end() || then->second.ops > now->second.ops) return flow;
  flow.completed = now->second.ops - then->second.ops;
  flow.errors = std::max<int64_t>(0, now->second.errors - then->second.errors);
  if (flow.completed > 0)
    flow.mean_us = (now->second.busy_us - then->second.busy_us) / static_cast<double>(flow.completed);
  return flow;
}

std::pair<double, std::string> busiest_between(const NodeCounters& before, const NodeCounters& after) {
  std::pair<double, std::string> busiest{0, ""};
  for (size_t i = 0; i < after.reactors.size() && i < before.reactors.size(); ++i) {
    const auto busy = static_cast<double>(after.reactors[i].busy - before.reactors[i].busy);
    const auto idle = static_cast<double>(after.reactors[i].idle - before.reactors[i].idle);
    if (busy < 0 || idle < 0 || busy + idle <= 0) continue;
    const double share = busy / (busy + idle);
    if (share >= busiest.first) busiest = {share, after.reactors[i].name};
  }
  return busiest;
}

}  // namespace diskengine::control
