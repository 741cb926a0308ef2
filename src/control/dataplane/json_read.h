// Reading values out of a data plane's JSON answers. A member that is missing or of another type reads as the empty
// value: an answer is never trusted to be complete.
#pragma once

#include <boost/json.hpp>
#include <cstdint>
#include <string>
#include <string_view>

namespace diskengine::control::json_read {

inline const boost::json::value* member(const boost::json::value& value, std::string_view name) {
  const boost::json::object* object = value.if_object();
  return object != nullptr ? object->if_contains(name) : nullptr;
}

inline std::string text(const boost::json::value& value, std::string_view name) {
  const boost::json::value* found = member(value, name);
  return found != nullptr && found->is_string() ? std::string(found->get_string()) : std::string();
}

inline int64_t integer(const boost::json::value& value, std::string_view name) {
  const boost::json::value* found = member(value, name);
  if (found == nullptr) return 0;
  if (found->is_int64()) return found->get_int64();
  if (found->is_uint64()) return static_cast<int64_t>(found->get_uint64());
  if (found->is_double()) return static_cast<int64_t>(found->get_double());
  return 0;
}

inline bool boolean(const boost::json::value& value, std::string_view name) {
  const boost::json::value* found = member(value, name);
  return found != nullptr && found->is_bool() && found->get_bool();
}

// Calls `each` for every element of an array; for anything else not at all.
template <typename Each>
void for_each(const boost::json::value* value, Each each) {
  const boost::json::array* array = value != nullptr ? value->if_array() : nullptr;
  if (array == nullptr) return;
  for (const boost::json::value& element : *array) each(element);
}

}  // namespace diskengine::control::json_read
