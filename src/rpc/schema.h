// What the RPC methods take, as schema/*.json describes it: a constant table generated at build time, and the check of
// a call's parameters against it. Any thread: nothing here changes.
#pragma once

#include <boost/json/object.hpp>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>

#include "rpc/method.h"

namespace diskengine::rpc {

enum class Type : uint8_t { any, boolean, integer, number, string, uuid, array, object };

struct Param {
  std::string_view name;
  Type type;
  bool required;
  bool is_signed;  // integer
  bool closed;     // object: only the fields in `children` are known
  // Values of an integer, bytes of a string, items of an array.
  int64_t min;
  uint64_t max;
  std::span<const std::string_view> allowed;  // string, integer (in decimal): the only values, if not empty
  std::span<const Param> children;            // the fields of an object; the one kind of item of an array
  std::string_view default_json;              // empty: none
};

struct MethodInfo {
  std::string_view name;
  std::string_view layer;
  Phase phase;
  std::span<const Param> params;
  std::span<const std::string_view> aliases;
};

// Sorted by name.
std::span<const MethodInfo> method_infos() noexcept;
// By name or alias; nullptr if there is none.
const MethodInfo* find_method_info(std::string_view name) noexcept;

// Checks `params` and fills in defaults; integers come out as uint64 or int64 by their type. The Fault (-32602) names
// the parameter, what was found and what is allowed.
std::optional<Fault> check_params(const MethodInfo& method, boost::json::object& params);
// The same against any list of parameters; `what` names the call in messages.
std::optional<Fault> check_params(std::string_view what, std::span<const Param> known, boost::json::object& params);

}  // namespace diskengine::rpc
