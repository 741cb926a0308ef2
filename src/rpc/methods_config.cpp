#include "rpc/methods_config.h"

#include <algorithm>
#include <boost/json/array.hpp>
#include <boost/json/parse.hpp>

#include "base/log.h"
#include "rpc/params.h"

namespace diskengine::rpc {
namespace json = boost::json;

namespace {

Task<Reply> get_subsystems(const std::vector<Subsystem>& subsystems) {
  json::array list;
  for (const Subsystem& subsystem : subsystems) {
    json::array needs;
    for (const std::string& name : subsystem.depends_on) needs.emplace_back(name);
    list.push_back(json::object{{"subsystem", subsystem.name}, {"depends_on", std::move(needs)}});
  }
  co_return json::value(std::move(list));
}

Task<Reply> get_config(const std::vector<Subsystem>& subsystems, json::object params) {
  const std::string name = text_param(params, "name");
  const auto found = std::find_if(subsystems.begin(), subsystems.end(),
                                  [&](const Subsystem& subsystem) { return subsystem.name == name; });
  if (found == subsystems.end()) co_return Fault{kInvalidParams, "Subsystem '" + name + "' not found"};
  json::array calls;
  for (const std::string& text : found->config_calls()) {
    json::error_code error;
    json::value call = json::parse(text, error);
    if (error) {
      LOG_ERROR("rpc", "subsystem {}: its configuration call is not JSON: {}", name, text);
      co_return Fault{kInternalError, "Subsystem '" + name + "' wrote a configuration call that is not JSON"};
    }
    calls.push_back(std::move(call));
  }
  co_return json::value(std::move(calls));
}

}  // namespace

void add_config_methods(MethodTable& methods, const std::vector<Subsystem>& subsystems) {
  methods.add("framework_get_subsystems", [&subsystems](json::object) { return get_subsystems(subsystems); });
  methods.add("framework_get_config",
              [&subsystems](json::object params) { return get_config(subsystems, std::move(params)); });
}

}  // namespace diskengine::rpc
