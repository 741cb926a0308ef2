#include "control/cli/trace_view.h"

#include <fmt/format.h>

#include <algorithm>
#include <boost/json.hpp>
#include <cmath>

#include "control/cli/output.h"
#include "control/sizes.h"

namespace diskengine::control::cli {
namespace {

namespace json = boost::json;

constexpr size_t kBarWidth = 40;
constexpr const char* kNetworkAndTarget = "network_target";

double number(const json::object& object, std::string_view member) {
  const json::value* value = object.if_contains(member);
  return value != nullptr && value->is_number() ? value->to_number<double>() : 0;
}

std::string text(const json::object& object, std::string_view member) {
  const json::value* value = object.if_contains(member);
  return value != nullptr && value->is_string() ? std::string(value->get_string()) : std::string();
}

const json::array& list(const json::object& object, std::string_view member) {
  static const json::array kEmpty;
  const json::value* value = object.if_contains(member);
  return value != nullptr && value->is_array() ? value->get_array() : kEmpty;
}

const TracedLeg* waited_leg(const JoinedTrace& joined) {
  const auto found =
      std::find_if(joined.legs.begin(), joined.legs.end(), [](const auto& leg) { return leg.waited_for; });
  return found == joined.legs.end() ? nullptr : &*found;
}

double leg_us(const TracedLeg& leg) { return number(leg.visit, "leave_us") - number(leg.visit, "enter_us"); }

std::string bar(double us, double total) {
  const double part = total > 0 ? us / total * kBarWidth : 0;
  const std::string drawn(std::min(static_cast<size_t>(std::lround(part)), kBarWidth), '#');
  return drawn.empty() ? drawn : "  " + drawn;
}

// "retried twice" would need a count: what a note says about whoever has it.
std::string_view meaning_of(std::string_view note) {
  constexpr std::pair<std::string_view, std::string_view> kMeanings[] = {
      {"failed", "failed"},
      {"retried", "was sent again after a failure"},
      {"split", "went on in several parts"},
      {"held", "was held until the exclusion of a leg was on record"},
      {"ordered", "waited for an overlapping write"},
      {"marked", "waited until its region was marked in the dirty-region log"},
      {"locked", "waited for a rebuild or scrub to leave its blocks"},
      {"queued", "waited for a free command or buffer: more was asked for at once than fits"},
      {"allocated", "was the first write to a cluster, which had to be allocated"},
      {"copied", "had the cluster's content copied from a snapshot or parent first"}};
  for (const auto& [name, meaning] : kMeanings)
    if (name == note) return meaning;
  return note;
}

void add_remarks(std::vector<std::string>& remarks, const json::object& trace, const std::string& node) {
  for (const json::value& one : list(trace, "visits")) {
    const json::object& visit = one.as_object();
    for (const json::value& note : list(visit, "notes"))
      remarks.push_back(fmt::format("{} {} on {} {}", text(visit, "layer"), text(visit, "name"), node,
                                    meaning_of(std::string_view(note.as_string()))));
  }
  if (trace.contains("cut")) remarks.push_back("the I/O had more parts than a trace holds: some are not shown");
}

}  // namespace

std::vector<TracedLeg> legs_of(const json::object& trace) {
  std::vector<TracedLeg> legs;
  for (const json::value& one : list(trace, "visits")) {
    const json::object& visit = one.as_object();
    if (text(visit, "layer") != "nvme") continue;
    TracedLeg leg;
    leg.visit = visit;
    leg.waited_for = visit.at("waited_for").as_bool();
    legs.push_back(std::move(leg));
  }
  return legs;
}

const json::object* same_command(const json::object& visit, const json::array& candidates) {
  for (const json::value& one : candidates) {
    const json::object& candidate = one.as_object();
    const json::array& visits = list(candidate, "visits");
    if (visits.empty()) continue;
    const json::object& top = visits.front().as_object();
    const bool same_blocks =
        number(candidate, "lba") == number(visit, "lba") && number(candidate, "blocks") == number(visit, "blocks");
    const double there = number(candidate, "total_us");
    const double between = number(visit, "answered_us") - number(visit, "sent_us");
    if (text(candidate, "op") == text(visit, "op") && number(top, "command_id") == number(visit, "command_id") &&
        number(top, "queue_id") == number(visit, "queue_id") && (same_blocks || text(visit, "op") == "flush") &&
        there <= between)
      return &candidate;
  }
  return nullptr;
}

std::vector<JoinedStage> stages_of(const JoinedTrace& joined) {
  std::vector<JoinedStage> stages;
  const TracedLeg* leg = waited_leg(joined);
  for (const json::value& one : list(joined.trace, "stages")) {
    const json::object& stage = one.as_object();
    const std::string name = text(stage, "stage");
    const double us = number(stage, "us");
    if (name != kNetworkAndTarget || leg == nullptr || leg->target.empty()) {
      stages.push_back({name == kNetworkAndTarget ? "network and target" : name, joined.node, us});
      continue;
    }
    stages.push_back({"network, both ways", joined.node + " <-> " + leg->node, us - number(leg->target, "total_us")});
    for (const json::value& there : list(leg->target, "stages"))
      stages.push_back({text(there.as_object(), "stage"), leg->node, number(there.as_object(), "us")});
  }
  return stages;
}

std::vector<std::string> remarks_on(const JoinedTrace& joined) {
  std::vector<std::string> remarks;
  if (joined.probe)
    remarks.emplace_back(
        "the guest did nothing: this is a read of one block by the data plane itself, below its vhost");
  add_remarks(remarks, joined.trace, joined.node);
  for (const TracedLeg& leg : joined.legs) {
    if (!leg.target.empty()) add_remarks(remarks, leg.target, leg.node);
    if (!leg.no_target.empty())
      remarks.push_back(
          fmt::format("the network and the target of {} are shown as one: {}", text(leg.visit, "name"), leg.no_target));
  }
  const TracedLeg* slow = waited_leg(joined);
  for (const TracedLeg& leg : joined.legs)
    if (slow != nullptr && &leg != slow && leg_us(*slow) > 2 * leg_us(leg))
      remarks.push_back(fmt::format("{} took {:.1f} times as long as {}", text(slow->visit, "name"),
                                    leg_us(*slow) / std::max(leg_us(leg), 0.01), text(leg.visit, "name")));
  return remarks;
}

std::string draw(const JoinedTrace& joined) {
  const double total = number(joined.trace, "total_us");
  std::string out = fmt::format("{} of {} block{} at block {} of volume {}: {:.1f} us\n\n", text(joined.trace, "op"),
                                number(joined.trace, "blocks"), number(joined.trace, "blocks") == 1 ? "" : "s",
                                number(joined.trace, "lba"), joined.volume, total);
  const std::vector<JoinedStage> stages = stages_of(joined);
  size_t name_width = 0, where_width = 0;
  for (const JoinedStage& stage : stages) {
    name_width = std::max(name_width, stage.name.size());
    where_width = std::max(where_width, stage.where.size());
  }
  out += "guest\n";
  for (const JoinedStage& stage : stages)
    out += fmt::format("  | {:{}}  {:{}}  {:>9.1f} us  {:>4.1f} %{}\n", stage.name, name_width, stage.where,
                       where_width, stage.us, total > 0 ? stage.us * 100 / total : 0, bar(stage.us, total));
  out += "guest\n";
  if (!joined.legs.empty()) out += "\nlegs\n";
  for (const TracedLeg& leg : joined.legs)
    out += fmt::format(
        "  {}  {}  {:.1f} us{}{}\n", text(leg.visit, "name"), leg.node.empty() ? "-" : leg.node, leg_us(leg),
        leg.target.empty() ? "" : fmt::format(", {:.1f} of them at the target", number(leg.target, "total_us")),
        leg.waited_for ? "  <- this one was waited for" : "");
  const std::vector<std::string> remarks = remarks_on(joined);
  out += remarks.empty() ? "\nNothing was unusual.\n" : "\nUnusual:\n";
  for (const std::string& remark : remarks) out += "  " + remark + "\n";
  return out;
}

json::object to_json(const JoinedTrace& joined) {
  json::array legs, stages, remarks;
  for (const TracedLeg& leg : joined.legs) {
    json::object one{{"base_bdev", text(leg.visit, "name")},
                     {"node", leg.node},
                     {"us", leg_us(leg)},
                     {"waited_for", leg.waited_for}};
    one["target"] = leg.target.empty() ? json::value(nullptr) : json::value(leg.target);
    one["no_target"] = leg.no_target;
    legs.push_back(std::move(one));
  }
  for (const JoinedStage& stage : stages_of(joined))
    stages.push_back(json::object{{"stage", stage.name}, {"where", stage.where}, {"us", stage.us}});
  for (const std::string& remark : remarks_on(joined)) remarks.push_back(json::string(remark));
  return {{"volume", joined.volume},     {"node", joined.node},     {"total_us", number(joined.trace, "total_us")},
          {"stages", std::move(stages)}, {"legs", std::move(legs)}, {"remarks", std::move(remarks)},
          {"probe", joined.probe},       {"trace", joined.trace}};
}

namespace {

json::object attribute(const char* key, const std::string& value) {
  return {{"key", key}, {"value", json::object{{"stringValue", value}}}};
}

// The spans of one machine's trace. `base` makes their ids differ from those of other machines.
json::array spans_of(const json::object& trace, const std::string& trace_id, uint64_t base, uint64_t parent_of_top,
                     int64_t now_unix_ns) {
  const double start_us = number(trace, "age_us") + number(trace, "total_us");
  const auto moment = [&](double us) {
    return fmt::format("{}", now_unix_ns + static_cast<int64_t>((us - start_us) * 1000));
  };
  json::array spans;
  for (const json::value& one : list(trace, "visits")) {
    const json::object& visit = one.as_object();
    const auto index = visit.at("index").to_number<uint64_t>();
    const uint64_t parent = index == 0 ? parent_of_top : base + visit.at("parent").to_number<uint64_t>();
    json::array attributes{attribute("diskengine.device", text(visit, "name"))};
    for (const json::value& note : list(visit, "notes"))
      attributes.push_back(attribute("diskengine.note", std::string(note.as_string())));
    json::object span{{"traceId", trace_id},
                      {"spanId", fmt::format("{:016x}", base + index)},
                      {"name", text(visit, "layer") + " " + text(visit, "op")},
                      {"kind", 1},
                      {"startTimeUnixNano", moment(number(visit, "enter_us"))},
                      {"endTimeUnixNano", moment(number(visit, "leave_us"))},
                      {"attributes", std::move(attributes)}};
    if (parent != 0) span["parentSpanId"] = fmt::format("{:016x}", parent);
    spans.push_back(std::move(span));
  }
  return spans;
}

json::object resource_of(const std::string& node, json::array spans) {
  return {{"resource", json::object{{"attributes", json::array{attribute("service.name", "diskengine-io"),
                                                               attribute("host.name", node)}}}},
          {"scopeSpans", json::array{json::object{{"scope", json::object{{"name", "diskengine.trace"}}},
                                                  {"spans", std::move(spans)}}}}};
}

}  // namespace

json::object to_otlp(const JoinedTrace& joined, int64_t now_unix_ns) {
  constexpr uint64_t kPerMachine = 0x100;
  const auto seed = static_cast<uint64_t>(now_unix_ns) << 16;
  const std::string trace_id = fmt::format("{:016x}{:016x}", seed, static_cast<uint64_t>(number(joined.trace, "lba")));
  const uint64_t base = seed + 1;
  json::array resources{resource_of(joined.node, spans_of(joined.trace, trace_id, base, 0, now_unix_ns))};
  uint64_t machine = 0;
  for (const TracedLeg& leg : joined.legs) {
    ++machine;
    if (leg.target.empty()) continue;
    const uint64_t parent = base + leg.visit.at("index").to_number<uint64_t>();
    resources.push_back(
        resource_of(leg.node, spans_of(leg.target, trace_id, base + machine * kPerMachine, parent, now_unix_ns)));
  }
  return {{"resourceSpans", std::move(resources)}};
}

}  // namespace diskengine::control::cli
