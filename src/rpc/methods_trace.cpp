#include "rpc/methods_trace.h"

#include <algorithm>
#include <boost/json/array.hpp>
#include <functional>
#include <optional>

#include "block/request.h"
#include "rpc/params.h"
#include "rpc/trace_json.h"
#include "rpc/trace_probe.h"
#include "runtime/task.h"

namespace diskengine::rpc {
namespace {

namespace json = boost::json;
using trace::Recorder;
using trace::Trace;

// Runs `work` with each reactor's recorder, on its own thread, one after the other.
Task<void> for_each_recorder(const std::vector<Reactor*>& reactors, std::function<void(Recorder&)> work) {
  for (Reactor* reactor : reactors) {
    if (reactor->recorder() == nullptr) continue;
    std::function<bool()> there = [reactor, &work] {
      work(*reactor->recorder());
      return true;
    };
    auto call = call_on<bool>(*reactor, std::move(there));
    co_await call;
  }
}

json::object describe(const trace::Options& options) {
  return {{"enabled", options.enabled}, {"budget_per_s", options.budget_per_s}, {"sample_every", options.sample_every}};
}

Task<Reply> set_options(const std::vector<Reactor*>& reactors, json::object params) {
  trace::Options options;
  std::function<void(Recorder&)> change = [&](Recorder& recorder) {
    options = recorder.options();
    if (has(params, "enabled")) options.enabled = bool_param(params, "enabled");
    if (has(params, "budget_per_s")) options.budget_per_s = static_cast<uint32_t>(uint_param(params, "budget_per_s"));
    if (has(params, "sample_every")) options.sample_every = static_cast<uint32_t>(uint_param(params, "sample_every"));
    recorder.set_options(options);
  };
  Task<void> changing = for_each_recorder(reactors, std::move(change));
  co_await changing;
  co_return json::value(describe(options));
}

Task<Reply> get_stages(const std::vector<Reactor*>& reactors, json::object params) {
  const std::string name = text_param_or(params, "name", "");
  SumsByRoot sums;
  std::function<void(Recorder&)> add = [&](Recorder& recorder) {
    recorder.for_each_root([&](const trace::Root& root) {
      if (name.empty() || root.name == name) sums[{root.name, root.layer}].add(root);
    });
  };
  Task<void> adding = for_each_recorder(reactors, std::move(add));
  co_await adding;
  json::array list;
  for (const auto& root : sums) list.push_back(rpc::describe(root));
  co_return json::value(std::move(list));
}

struct Wanted {
  std::string name, op, host_nqn;
  std::optional<uint64_t> queue_id, command_id;
  uint64_t limit = 0;

  bool fits(const Trace& trace) const {
    const trace::Visit& top = trace.top();
    return (name.empty() || name == top.name.data()) && (op.empty() || op == name_of(static_cast<Op>(top.op))) &&
           (host_nqn.empty() || host_nqn == trace.peer.data()) && (!queue_id || *queue_id == top.queue_id) &&
           (!command_id || *command_id == top.command_id);
  }
};

Wanted wanted_in(const json::object& params) {
  Wanted wanted;
  wanted.name = text_param_or(params, "name", "");
  wanted.op = text_param_or(params, "op", "");
  wanted.host_nqn = text_param_or(params, "host_nqn", "");
  if (has(params, "queue_id")) wanted.queue_id = uint_param(params, "queue_id");
  if (has(params, "command_id")) wanted.command_id = uint_param(params, "command_id");
  wanted.limit = uint_param(params, "limit");
  return wanted;
}

using Kept = void (*)(Recorder&, const std::function<void(const Trace&)>&);

Task<Reply> get_traces(const std::vector<Reactor*>& reactors, Wanted wanted, Kept kept) {
  std::vector<json::object> found;
  std::function<void(Recorder&)> look = [&](Recorder& recorder) {
    const size_t before = found.size();
    kept(recorder, [&](const Trace& trace) {
      if (!wanted.fits(trace)) return;
      found.push_back(rpc::describe(trace));
      // They come with the newest last, of which so many are enough.
      if (found.size() - before > wanted.limit) found.erase(found.begin() + static_cast<ptrdiff_t>(before));
    });
  };
  Task<void> looking = for_each_recorder(reactors, std::move(look));
  co_await looking;
  const auto age = [](const json::object& one) { return one.at("age_us").as_double(); };
  std::sort(found.begin(), found.end(), [&](const auto& a, const auto& b) { return age(a) < age(b); });
  if (found.size() > wanted.limit) found.resize(wanted.limit);
  json::array list;
  for (json::object& one : found) list.push_back(std::move(one));
  co_return json::value(std::move(list));
}

Task<Reply> reset(const std::vector<Reactor*>& reactors) {
  std::function<void(Recorder&)> forget = [](Recorder& recorder) { recorder.reset(); };
  Task<void> resetting = for_each_recorder(reactors, std::move(forget));
  co_await resetting;
  co_return json::value(true);
}

}  // namespace

void add_trace_methods(MethodTable& methods, const std::vector<Reactor*>& reactors, DeviceRegistry& devices) {
  methods.add("diskengine_trace_probe", [&devices](json::object params) { return probe(devices, std::move(params)); });
  methods.add("diskengine_trace_set_options",
              [&reactors](json::object params) { return set_options(reactors, std::move(params)); });
  methods.add("diskengine_trace_get_stages",
              [&reactors](json::object params) { return get_stages(reactors, std::move(params)); });
  methods.add("diskengine_trace_get_recent", [&reactors](const json::object& params) {
    return get_traces(reactors, wanted_in(params),
                      [](Recorder& recorder, const auto& visit) { recorder.for_each_recent(visit); });
  });
  methods.add("diskengine_trace_get_slow", [&reactors](const json::object& params) {
    return get_traces(reactors, wanted_in(params),
                      [](Recorder& recorder, const auto& visit) { recorder.for_each_slow(visit); });
  });
  methods.add("diskengine_trace_reset", [&reactors](const json::object&) { return reset(reactors); });
}

}  // namespace diskengine::rpc
