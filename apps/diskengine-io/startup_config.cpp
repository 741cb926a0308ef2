#include "startup_config.h"

#include <fmt/format.h>

#include <boost/json/array.hpp>
#include <boost/json/parse.hpp>
#include <cerrno>
#include <fstream>
#include <iterator>
#include <vector>

#include "base/log.h"

namespace diskengine::app {
namespace json = boost::json;

namespace {

constexpr size_t kConfigBytesMax = 64 * 1024 * 1024;

struct ConfigCall {
  std::string where;  // "subsystem bdev, call 3"
  std::string method;
  json::value params;
};

Result<std::string> read_file(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  if (!file) return Error::from_errno(errno, "opening it");
  std::string text((std::istreambuf_iterator<char>(file)), std::istreambuf_iterator<char>());
  if (file.bad()) return Error::from_errno(errno, "reading it");
  if (text.size() > kConfigBytesMax)
    return Error(Errc::out_of_range, fmt::format("it has {} bytes, more than {}", text.size(), kConfigBytesMax));
  return text;
}

Result<void> add_call(const json::value& entry, const std::string& where, std::vector<ConfigCall>& calls) {
  if (const json::array* batch = entry.if_array()) {
    for (const json::value& inner : *batch) {
      if (inner.is_array()) return Error(Errc::invalid_argument, where + " has a batch inside a batch");
      TRY(add_call(inner, where, calls));
    }
    return {};
  }
  const json::object* object = entry.if_object();
  const json::value* method = object == nullptr ? nullptr : object->if_contains("method");
  if (method == nullptr || !method->is_string())
    return Error(Errc::invalid_argument, where + " is no object with a 'method'");
  const json::value* params = object->if_contains("params");
  calls.push_back({where, std::string(method->get_string().c_str()), params == nullptr ? json::value() : *params});
  return {};
}

Result<std::vector<ConfigCall>> parse_config(const std::string& text) {
  json::error_code error;
  const json::value root = json::parse(text, error);
  if (error) return Error(Errc::invalid_argument, "it is not JSON: " + error.message());
  const json::value* subsystems = root.is_object() ? root.get_object().if_contains("subsystems") : nullptr;
  if (subsystems == nullptr || !subsystems->is_array())
    return Error(Errc::invalid_argument, "it has no array 'subsystems'");
  std::vector<ConfigCall> calls;
  for (const json::value& subsystem : subsystems->get_array()) {
    const json::object* object = subsystem.if_object();
    const json::value* name = object == nullptr ? nullptr : object->if_contains("subsystem");
    const json::value* config = object == nullptr ? nullptr : object->if_contains("config");
    if (name == nullptr || !name->is_string() || config == nullptr || (!config->is_array() && !config->is_null()))
      return Error(Errc::invalid_argument, "an entry of 'subsystems' lacks a 'subsystem' or an array 'config'");
    if (config->is_null()) continue;
    size_t number = 0;
    for (const json::value& entry : config->get_array())
      TRY(add_call(entry, fmt::format("subsystem {}, call {}", name->get_string().c_str(), ++number), calls));
  }
  return calls;
}

bool belongs_to_startup(const ConfigCall& call) {
  const rpc::MethodInfo* info = rpc::find_method_info(call.method);
  return info != nullptr && info->phase != rpc::Phase::runtime;
}

}  // namespace

Task<Result<void>> apply_startup_config(rpc::Dispatcher& dispatcher, std::string path, bool ignore_errors) {
  const std::string file = "start-up configuration " + path;
  Result<std::string> text = read_file(path);
  if (!text) co_return text.error().with_context(file);
  Result<std::vector<ConfigCall>> calls = parse_config(*text);
  if (!calls) co_return calls.error().with_context(file);
  for (const bool startup : {true, false}) {
    if (!startup) dispatcher.set_running();
    for (ConfigCall& call : *calls) {
      if (belongs_to_startup(call) != startup) continue;
      Task<rpc::Reply> running = dispatcher.call(call.method, std::move(call.params));
      rpc::Reply reply = co_await running;
      if (reply.ok()) continue;
      std::string problem = fmt::format("{}: {}: {}: error {}: {}", file, call.where, call.method, reply.fault().code,
                                        reply.fault().message);
      if (!ignore_errors) co_return Error(Errc::invalid_argument, std::move(problem));
      LOG_WARN("app", "{}", problem);
    }
  }
  co_return Result<void>{};
}

}  // namespace diskengine::app
