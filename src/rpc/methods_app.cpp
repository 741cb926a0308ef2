#include "rpc/methods_app.h"

#include <fmt/format.h>
#include <signal.h>
#include <unistd.h>

#include <boost/json/array.hpp>
#include <boost/json/serialize.hpp>
#include <optional>
#include <utility>

#include "rpc/params.h"

namespace diskengine::rpc {
namespace json = boost::json;

namespace {

Task<Reply> get_methods(Dispatcher& dispatcher, json::object params) {
  const bool current = bool_param(params, "current");
  const bool aliases = bool_param(params, "include_aliases");
  json::array names;
  for (const auto& [name, handler] : dispatcher.methods().all()) {
    const MethodInfo* info = find_method_info(name);
    if (current && !dispatcher.allowed_now(info->phase)) continue;
    names.emplace_back(name);
    if (!aliases) continue;
    for (std::string_view alias : info->aliases) names.emplace_back(json::string_view(alias.data(), alias.size()));
  }
  co_return json::value(std::move(names));
}

Task<Reply> get_version(const AppControl& control) {
  json::object fields{{"major", control.version_major},
                      {"minor", control.version_minor},
                      {"patch", control.version_patch},
                      {"suffix", ""}};
  const std::string text =
      fmt::format("diskengine v{}.{}.{}", control.version_major, control.version_minor, control.version_patch);
  co_return json::value(json::object{{"version", text}, {"fields", std::move(fields)}});
}

Task<Reply> start_init(const AppControl& control) {
  Task<Result<void>> starting = control.start_init();
  Result<void> started = co_await starting;
  if (!started) co_return started.error();
  co_return json::value(true);
}

Task<Reply> wait_init(Dispatcher& dispatcher) {
  Task<Result<void>> waiting = dispatcher.wait_running();
  Result<void> waited = co_await waiting;
  if (!waited) co_return waited.error();
  co_return json::value(true);
}

std::optional<int> signal_number(const json::value& value) {
  constexpr std::pair<const char*, int> kSignals[] = {{"SIGINT", SIGINT}, {"SIGTERM", SIGTERM}, {"SIGQUIT", SIGQUIT},
                                                      {"SIGHUP", SIGHUP}, {"SIGKILL", SIGKILL}, {"SIGUSR1", SIGUSR1}};
  for (const auto& [name, number] : kSignals)
    if (value == name || value == number || value == std::to_string(number).c_str()) return number;
  return std::nullopt;
}

Task<Reply> kill_instance(json::object params) {
  const json::value& wanted = param(params, "sig_name");
  const std::optional<int> number = signal_number(wanted);
  if (!number)
    co_return Fault{kInvalidParams,
                    "Invalid parameters: spdk_kill_instance: parameter 'sig_name' is " + json::serialize(wanted) +
                        ": it must be SIGINT, SIGTERM, SIGQUIT, SIGHUP, SIGKILL or SIGUSR1, or its number"};
  kill(getpid(), *number);
  co_return json::value(true);
}

}  // namespace

void add_app_methods(MethodTable& methods, Dispatcher& dispatcher, AppControl& control) {
  methods.add("rpc_get_methods",
              [&dispatcher](json::object params) { return get_methods(dispatcher, std::move(params)); });
  methods.add("spdk_get_version", [&control](json::object) { return get_version(control); });
  methods.add("framework_start_init", [&control](json::object) { return start_init(control); });
  methods.add("framework_wait_init", [&dispatcher](json::object) { return wait_init(dispatcher); });
  methods.add("spdk_kill_instance", [](json::object params) { return kill_instance(std::move(params)); });
}

}  // namespace diskengine::rpc
