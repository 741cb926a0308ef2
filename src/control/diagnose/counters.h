// One look at the counters along a path, and what moved between two looks. One thread.
#pragma once

#include <boost/json.hpp>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include "control/diagnose/facts.h"

namespace diskengine::control {

struct DeviceCounters {
  int64_t ops = 0;
  int64_t errors = 0;
  double busy_us = 0;  // total time from submission to completion
  int64_t outstanding = 0;
  int64_t oldest_us = 0;
};

struct ReactorCounters {
  std::string name;
  int64_t busy = 0;
  int64_t idle = 0;
};

struct NodeCounters {
  std::map<std::string, DeviceCounters> devices;  // those that exist
  std::vector<ReactorCounters> reactors;
  bool ages_known = false;
};

// `bdevs` of a node; those that do not exist are left out.
NodeCounters look_at_counters(Asker& asker, const std::string& node, const std::vector<std::string>& bdevs);

Flow flow_between(const NodeCounters& before, const NodeCounters& after, const std::string& bdev);
// The busiest reactor's share of its time and its name.
std::pair<double, std::string> busiest_between(const NodeCounters& before, const NodeCounters& after);

}  // namespace diskengine::control
