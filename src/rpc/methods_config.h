// The methods that save the configuration (SPDK: framework_get_subsystems, framework_get_config).
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "rpc/method.h"

namespace diskengine::rpc {

// A part of the process in SPDK's sense, with the calls that make its objects again: each is the JSON text of
// {"method":...,"params":{...}}, in an order that works.
struct Subsystem {
  std::string name;
  std::vector<std::string> depends_on;
  std::function<std::vector<std::string>()> config_calls;
};

// `subsystems` outlives the table; in the order of start-up.
void add_config_methods(MethodTable& methods, const std::vector<Subsystem>& subsystems);

}  // namespace diskengine::rpc
