#include "control/diagnose/latency_history.h"

#include <algorithm>
#include <boost/json.hpp>
#include <map>
#include <optional>

#include "control/dataplane/json_read.h"

namespace diskengine::control {
namespace {

namespace json = boost::json;

// Requests that stand still for so long count with their age: they have no latency yet.
constexpr int64_t kStandsStillMs = 1'000;
// Of a sample's time. A guest that waits submits nothing: one I/O that took half a second, among a thousand before it,
// is what half of all moments would have met, and still none of the slowest hundredth.
constexpr double kMoments = 0.01;

double number(const json::value& record, std::string_view name) {
  const json::value* found = json_read::member(record, name);
  return found != nullptr && found->is_number() ? found->to_number<double>() : 0;
}

int64_t span_of(const json::value& record) {
  return std::clamp<int64_t>(json_read::integer(record, "span_ms"), 0, 3'600'000);
}

void add_device(const json::value& record, PastSample* sample) {
  sample->ops = number(record, "reads") + number(record, "writes") + number(record, "others");
  sample->kib = number(record, "read_kib") + number(record, "write_kib");
  const double slowest_us = std::max(number(record, "read_max_us"), number(record, "write_max_us"));
  const double unmet_us = kMoments * static_cast<double>(sample->span_ms) * 1000;
  sample->p99_us = std::max({number(record, "read_p99_us"), number(record, "write_p99_us"), slowest_us - unmet_us});
  const int64_t oldest_ms = json_read::integer(record, "oldest_ms");
  if (oldest_ms >= kStandsStillMs) sample->p99_us = std::max(sample->p99_us, static_cast<double>(oldest_ms) * 1000);
}

void add_stages(const json::value& record, PastSample* sample) {
  json_read::for_each(json_read::member(record, "stages"), [&](const json::value& stage) {
    if (json_read::text(stage, "stage") == "lvol_allocate") sample->allocate_us = number(stage, "p99_us");
  });
}

std::optional<PastRole> role_of(const json::value& record) {
  const std::string kind = json_read::text(record, "kind");
  if (kind == "temperature") return PastRole::temperature;
  if (kind != "network") return std::nullopt;
  return json_read::text(record, "type") == "tcp" ? PastRole::connections : PastRole::interface;
}

}  // namespace

std::vector<PastSample> read_samples(const json::value& answer, int64_t ahead_ms) {
  std::map<int64_t, PastSample> by_time;
  json_read::for_each(json_read::member(answer, "records"), [&](const json::value& record) {
    const std::string kind = json_read::text(record, "kind");
    const int64_t end_ms = json_read::integer(record, "end_ms") - ahead_ms;
    PastSample& sample = by_time[end_ms];
    sample.end_ms = end_ms;
    sample.span_ms = span_of(record);
    if (kind == "device") add_device(record, &sample);
    if (kind == "stages") add_stages(record, &sample);
    if (kind == "reactor") sample.busy_percent = number(record, "busy_percent");
  });
  std::vector<PastSample> samples;
  for (const auto& [end_ms, sample] : by_time) samples.push_back(sample);
  return samples;
}

std::vector<PastSeries> read_machine(const json::value& answer, const std::string& node, int64_t ahead_ms) {
  std::map<std::string, PastSeries> by_name;
  json_read::for_each(json_read::member(answer, "records"), [&](const json::value& record) {
    const std::optional<PastRole> role = role_of(record);
    if (!role) return;
    const std::string name = json_read::text(record, "name");
    PastSeries& series = by_name[name];
    series.role = *role;
    series.node = node;
    series.name = name;
    PastSample sample;
    sample.end_ms = json_read::integer(record, "end_ms") - ahead_ms;
    sample.span_ms = span_of(record);
    sample.sent = number(record, "sent");
    sample.again = number(record, "again");
    sample.lost = number(record, "dropped") + number(record, "damaged");
    sample.celsius = number(record, "celsius");
    sample.warning_celsius = number(record, "warning_celsius");
    series.samples.push_back(sample);
  });
  std::vector<PastSeries> all;
  for (auto& [name, series] : by_name) all.push_back(std::move(series));
  return all;
}

std::vector<PastEvent> read_events(const json::value& answer, const std::string& node, int64_t ahead_ms) {
  std::vector<PastEvent> events;
  json_read::for_each(json_read::member(answer, "records"), [&](const json::value& record) {
    if (json_read::text(record, "kind") != "event") return;
    PastEvent event;
    event.node = node;
    event.type = json_read::text(record, "type");
    event.phase = json_read::text(record, "phase");
    event.object = json_read::text(record, "name");
    event.text = json_read::text(record, "text");
    event.end_ms = json_read::integer(record, "end_ms") - ahead_ms;
    event.begin_ms = event.end_ms - std::max<int64_t>(0, json_read::integer(record, "span_ms"));
    events.push_back(std::move(event));
  });
  return events;
}

}  // namespace diskengine::control
