// Short ways to read parameters that passed their schema. Each asserts what the schema promised.
#pragma once

#include <boost/json/object.hpp>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

#include "base/assert.h"
#include "base/uuid.h"

namespace diskengine::rpc {

inline bool has(const boost::json::object& params, std::string_view name) {
  return params.contains({name.data(), name.size()});
}

inline const boost::json::value& param(const boost::json::object& params, std::string_view name) {
  const boost::json::value* value = params.if_contains({name.data(), name.size()});
  DE_ASSERT(value != nullptr);
  return *value;
}

inline std::string text_param(const boost::json::object& params, std::string_view name) {
  const boost::json::string& text = param(params, name).as_string();
  return std::string(text.data(), text.size());
}
// For an optional string: `otherwise` when it is absent.
inline std::string text_param_or(const boost::json::object& params, std::string_view name, std::string otherwise) {
  return has(params, name) ? text_param(params, name) : std::move(otherwise);
}

// Types uint8 to uint64.
inline uint64_t uint_param(const boost::json::object& params, std::string_view name) {
  return param(params, name).as_uint64();
}
inline uint64_t uint_param_or(const boost::json::object& params, std::string_view name, uint64_t otherwise) {
  return has(params, name) ? uint_param(params, name) : otherwise;
}

// Types int32 and int64.
inline int64_t int_param(const boost::json::object& params, std::string_view name) {
  return param(params, name).as_int64();
}
inline int64_t int_param_or(const boost::json::object& params, std::string_view name, int64_t otherwise) {
  return has(params, name) ? int_param(params, name) : otherwise;
}

inline bool bool_param(const boost::json::object& params, std::string_view name) {
  return param(params, name).as_bool();
}
inline bool bool_param_or(const boost::json::object& params, std::string_view name, bool otherwise) {
  return has(params, name) ? bool_param(params, name) : otherwise;
}

// Type uuid; nullopt when it is absent.
inline std::optional<Uuid> uuid_param(const boost::json::object& params, std::string_view name) {
  if (!has(params, name)) return std::nullopt;
  Result<Uuid> parsed = Uuid::parse(text_param(params, name));
  DE_ASSERT(parsed.has_value());
  return *parsed;
}

}  // namespace diskengine::rpc
