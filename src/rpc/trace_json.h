// Traces and what they sum up to, as JSON. On the reactor that they belong to.
#pragma once

#include <boost/json/object.hpp>
#include <map>
#include <string>
#include <utility>

#include "trace/recorder.h"

namespace diskengine::rpc {

boost::json::object describe(const trace::Trace& trace);

// What the reactors' roots of one name and layer add up to.
struct RootSums {
  std::array<Histogram, trace::kStages> stages;
  Histogram total;
  uint64_t traced = 0, slow = 0, slow_untraced = 0;
  uint64_t slow_ticks = UINT64_MAX;  // the lowest
  void add(const trace::Root& root);
};
using SumsByRoot = std::map<std::pair<std::string, trace::Layer>, RootSums>;
boost::json::object describe(const SumsByRoot::value_type& root);

}  // namespace diskengine::rpc
