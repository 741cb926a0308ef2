#include "rpc/methods_log.h"

#include "base/log.h"
#include "rpc/params.h"

namespace diskengine::rpc {
namespace json = boost::json;

namespace {

// SPDK's names; its NOTICE is between WARNING and INFO, which is our info.
struct NamedLevel {
  const char* name;
  LogLevel level;
};
constexpr NamedLevel kLevels[] = {{"ERROR", LogLevel::error},
                                  {"WARNING", LogLevel::warn},
                                  {"INFO", LogLevel::info},
                                  {"NOTICE", LogLevel::info},
                                  {"DEBUG", LogLevel::debug}};

Task<Reply> set_level(json::object params) {
  const std::string wanted = text_param(params, "level");
  for (const NamedLevel& named : kLevels)
    if (wanted == named.name) log_set_level(named.level);
  co_return json::value(true);
}

Task<Reply> get_level() {
  for (const NamedLevel& named : kLevels)
    if (log_level() == named.level) co_return json::value(named.name);
  co_return Fault{kInternalError, "invalid log level"};
}

}  // namespace

void add_log_methods(MethodTable& methods) {
  for (const char* name : {"log_set_level", "log_set_print_level"})
    methods.add(name, [](json::object params) { return set_level(std::move(params)); });
  for (const char* name : {"log_get_level", "log_get_print_level"})
    methods.add(name, [](json::object) { return get_level(); });
}

}  // namespace diskengine::rpc
