#include "rpc/trace_json.h"

#include <algorithm>
#include <boost/json/array.hpp>
#include <cmath>

#include "block/request.h"
#include "runtime/clock.h"

namespace diskengine::rpc {
namespace {

namespace json = boost::json;
using trace::Note;
using trace::Visit;

json::string text(std::string_view view) { return json::string(view.data(), view.size()); }

// To a hundredth: more would be noise.
double us_of(uint64_t ticks) {
  const double us = static_cast<double>(ticks) * 1e6 / static_cast<double>(ticks_per_second());
  return std::round(us * 100) / 100;
}

json::array notes_of(const Visit& visit) {
  static constexpr std::pair<Note, const char*> kNotes[] = {
      {Note::failed, "failed"},       {Note::retried, "retried"}, {Note::split, "split"},   {Note::held, "held"},
      {Note::ordered, "ordered"},     {Note::marked, "marked"},   {Note::locked, "locked"}, {Note::queued, "queued"},
      {Note::allocated, "allocated"}, {Note::copied, "copied"}};
  json::array notes;
  for (const auto& [note, name] : kNotes)
    if (visit.has(note)) notes.push_back(name);
  return notes;
}

json::object describe(const trace::Trace& trace, size_t index) {
  const Visit& visit = trace.visits[index];
  const uint64_t start = trace.top().entered;
  json::object out{{"index", index},
                   {"parent", visit.parent},
                   {"layer", text(trace::name_of(visit.layer))},
                   {"name", visit.name.data()},
                   {"op", text(name_of(static_cast<Op>(visit.op)))},
                   {"lba", visit.lba},
                   {"blocks", visit.blocks},
                   {"enter_us", us_of(visit.entered - start)},
                   {"leave_us", us_of(visit.left - start)},
                   {"waited_for", index == 0 || trace::waited_for(trace, visit.parent) == index},
                   {"notes", notes_of(visit)}};
  if (visit.layer == trace::Layer::nvmf || visit.sent != 0) {
    out["queue_id"] = visit.queue_id;
    out["command_id"] = visit.command_id;
  }
  const auto put = [&](const char* name, uint64_t moment) {
    if (moment >= start && moment != 0) out[name] = us_of(moment - start);
  };
  put("sent_us", visit.sent);
  put("answered_us", visit.answered);
  put("waiting_us", visit.waiting);
  put("prepared_us", visit.prepared);
  return out;
}

json::object quantiles(const Histogram& histogram) {
  return {{"count", histogram.total()},
          {"p50_us", us_of(histogram.quantile(0.5))},
          {"p99_us", us_of(histogram.quantile(0.99))},
          {"p999_us", us_of(histogram.quantile(0.999))}};
}

// About: each value counts with the end of its bucket.
double sum_of(const Histogram& histogram) {
  double sum = 0;
  for (size_t i = 0; i < histogram.counts().size(); ++i)
    if (histogram.counts()[i] != 0)
      sum += static_cast<double>(histogram.counts()[i]) * static_cast<double>(histogram.bucket_end(i));
  return sum;
}

}  // namespace

json::object describe(const trace::Trace& trace) {
  const Visit& top = trace.top();
  json::array stages, visits;
  const trace::StageTicks parts = trace::stages_of(trace);
  for (size_t i = 0; i < parts.size(); ++i)
    if (parts[i] != 0)
      stages.push_back(
          json::object{{"stage", text(trace::name_of(static_cast<trace::Stage>(i)))}, {"us", us_of(parts[i])}});
  for (size_t i = 0; i < trace.count; ++i) visits.push_back(describe(trace, i));
  json::object out{{"name", top.name.data()},
                   {"layer", text(trace::name_of(top.layer))},
                   {"op", text(name_of(static_cast<Op>(top.op)))},
                   {"lba", top.lba},
                   {"blocks", top.blocks},
                   {"age_us", us_of(ticks() - top.left)},
                   {"total_us", us_of(trace.ticks())}};
  if (trace.peer[0] != 0) out["host_nqn"] = trace.peer.data();
  if (trace.cut) out["cut"] = true;
  out["stages"] = std::move(stages);
  out["visits"] = std::move(visits);
  return out;
}

void RootSums::add(const trace::Root& root) {
  for (size_t i = 0; i < stages.size(); ++i) stages[i].merge(root.stages[i]);
  total.merge(root.total);
  traced += root.traced;
  slow += root.slow;
  slow_untraced += root.slow_untraced;
  slow_ticks = std::min(slow_ticks, root.slow_ticks);
}

json::object describe(const SumsByRoot::value_type& root) {
  const RootSums& sums = root.second;
  double all = 0;
  for (const Histogram& stage : sums.stages) all += sum_of(stage);
  json::array stages;
  for (size_t i = 0; i < sums.stages.size(); ++i) {
    if (sums.stages[i].total() == 0) continue;
    json::object stage{{"stage", text(trace::name_of(static_cast<trace::Stage>(i)))}};
    for (auto& [name, value] : quantiles(sums.stages[i])) stage[name] = value;
    stage["share_percent"] = std::round(sum_of(sums.stages[i]) * 1000 / all) / 10;
    stages.push_back(std::move(stage));
  }
  json::object out{{"name", root.first.first},
                   {"layer", text(trace::name_of(root.first.second))},
                   {"traced", sums.traced},
                   {"slow", sums.slow},
                   {"slow_untraced", sums.slow_untraced}};
  if (sums.slow_ticks != UINT64_MAX) out["slow_over_us"] = us_of(sums.slow_ticks);
  out["total"] = quantiles(sums.total);
  out["stages"] = std::move(stages);
  return out;
}

}  // namespace diskengine::rpc
