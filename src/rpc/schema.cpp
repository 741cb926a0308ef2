#include "rpc/schema.h"

#include <fmt/format.h>

#include <algorithm>
#include <boost/json/array.hpp>
#include <boost/json/parse.hpp>
#include <boost/json/serialize.hpp>
#include <cmath>

#include "base/uuid.h"

namespace diskengine::rpc {
namespace json = boost::json;

namespace {

constexpr size_t kShownBytesMax = 80;  // of an offending value in a message

std::string shown(const json::value& value) {
  if (value.is_object() || value.is_array()) return value.is_object() ? "an object" : "an array";
  std::string text = json::serialize(value);
  if (text.size() > kShownBytesMax) {
    size_t cut = kShownBytesMax;
    while (cut > 0 && (static_cast<unsigned char>(text[cut]) & 0xc0) == 0x80) --cut;  // not inside a UTF-8 sequence
    text.resize(cut);
    text += "...";
  }
  return text;
}

std::string range_text(const Param& param) {
  if (param.min == INT64_MIN || param.max >= UINT64_MAX / 2) {
    const std::string low = param.min == INT64_MIN ? "" : fmt::format(" of at least {}", param.min);
    return low + (param.max >= UINT64_MAX / 2 ? " in 64 bits" : fmt::format(" up to {}", param.max));
  }
  return fmt::format(" from {} to {}", param.min, param.max);
}

// What a parameter may be, for messages.
std::string expectation(const Param& param) {
  if (!param.allowed.empty()) {
    std::string list;
    for (std::string_view value : param.allowed) list += (list.empty() ? "" : ", ") + std::string(value);
    return param.allowed.size() == 1 ? list : "one of " + list;
  }
  switch (param.type) {
    case Type::any:
      return "any value";
    case Type::boolean:
      return "true or false";
    case Type::integer:
      return "an integer" + range_text(param);
    case Type::number:
      return "a number";
    case Type::string:
      return fmt::format("a string of {} to {} bytes", param.min, param.max);
    case Type::uuid:
      return "a UUID";
    case Type::array:
      return fmt::format("an array of {} to {} items", param.min, param.max);
    case Type::object:
      return "an object";
  }
  return "something else";
}

bool is_allowed(const Param& param, std::string_view text) {
  return param.allowed.empty() || std::find(param.allowed.begin(), param.allowed.end(), text) != param.allowed.end();
}

// Replaces a number by its exact integer; doubles with an integral value count (1e3).
bool make_integer(const Param& param, json::value& value) {
  constexpr double kExactMax = 9007199254740992.0;  // 2^53
  if (value.is_double()) {
    const double number = value.get_double();
    if (!(std::fabs(number) <= kExactMax) || number != std::floor(number)) return false;
    value = static_cast<int64_t>(number);
  }
  if (value.is_int64() && value.get_int64() < 0) return param.is_signed && value.get_int64() >= param.min;
  if (!value.is_int64() && !value.is_uint64()) return false;
  const uint64_t number = value.is_int64() ? static_cast<uint64_t>(value.get_int64()) : value.get_uint64();
  if (number > param.max || (param.min > 0 && number < static_cast<uint64_t>(param.min))) return false;
  if (param.is_signed) {
    value = static_cast<int64_t>(number);
  } else {
    value = number;
  }
  return is_allowed(param, std::to_string(number));
}

bool length_fits(const Param& param, size_t length) {
  return length <= param.max && length >= static_cast<uint64_t>(std::max<int64_t>(param.min, 0));
}

class Checker {
 public:
  explicit Checker(std::string_view what) : what_(what) {}

  std::optional<Fault> fields(std::span<const Param> known, json::object& given, const std::string& prefix) {
    for (const auto& [name, value] : given) {
      const std::string_view key(name.data(), name.size());
      if (std::none_of(known.begin(), known.end(), [&](const Param& param) { return param.name == key; }))
        return unknown(known, prefix, key);
    }
    for (const Param& param : known) {
      const json::string_view key(param.name.data(), param.name.size());
      json::value* value = given.if_contains(key);
      if (value == nullptr) {
        if (param.required)
          return fault(
              fmt::format("parameter '{}{}' is missing: it must be {}", prefix, param.name, expectation(param)));
        if (!param.default_json.empty())
          given[key] = json::parse(json::string_view(param.default_json.data(), param.default_json.size()));
        value = given.if_contains(key);
        if (value == nullptr) continue;
      }
      if (auto wrong = this->value(param, *value, prefix + std::string(param.name))) return wrong;
    }
    return std::nullopt;
  }

 private:
  std::optional<Fault> value(const Param& param, json::value& given, const std::string& path) {
    bool fits = true;
    switch (param.type) {
      case Type::any:
        break;
      case Type::boolean:
        fits = given.is_bool();
        break;
      case Type::integer: {
        json::value number = given;
        fits = make_integer(param, number);
        if (fits) given = number;
        break;
      }
      case Type::number:
        fits = given.is_number();
        if (fits) given = given.to_number<double>();
        break;
      case Type::string:
        fits = given.is_string() && length_fits(param, given.get_string().size()) &&
               is_allowed(param, std::string_view(given.get_string().data(), given.get_string().size()));
        break;
      case Type::uuid:
        fits = given.is_string() &&
               Uuid::parse(std::string_view(given.get_string().data(), given.get_string().size())).has_value();
        break;
      case Type::array:
        fits = given.is_array() && length_fits(param, given.get_array().size());
        for (size_t i = 0; fits && i < given.get_array().size(); ++i)
          if (auto wrong = value(param.children.front(), given.get_array()[i], fmt::format("{}[{}]", path, i)))
            return wrong;
        break;
      case Type::object:
        fits = given.is_object();
        if (fits && param.closed) return fields(param.children, given.get_object(), path + ".");
        break;
    }
    if (fits) return std::nullopt;
    return fault(fmt::format("parameter '{}' is {}: it must be {}", path, shown(given), expectation(param)));
  }

  std::optional<Fault> unknown(std::span<const Param> known, const std::string& prefix, std::string_view key) const {
    std::string names;
    for (const Param& param : known) names += (names.empty() ? "" : ", ") + std::string(param.name);
    return fault(fmt::format("unknown parameter {}: {}", shown(json::value(prefix + std::string(key))),
                             names.empty() ? "none is taken" : "known are " + names));
  }

  Fault fault(const std::string& text) const {
    return Fault{kInvalidParams, fmt::format("Invalid parameters: {}: {}", what_, text)};
  }

  std::string_view what_;
};

}  // namespace

const MethodInfo* find_method_info(std::string_view name) noexcept {
  const std::span<const MethodInfo> all = method_infos();
  const auto at = std::lower_bound(all.begin(), all.end(), name,
                                   [](const MethodInfo& method, std::string_view key) { return method.name < key; });
  if (at != all.end() && at->name == name) return &*at;
  for (const MethodInfo& method : all)
    if (std::find(method.aliases.begin(), method.aliases.end(), name) != method.aliases.end()) return &method;
  return nullptr;
}

std::optional<Fault> check_params(std::string_view what, std::span<const Param> known, json::object& params) {
  return Checker(what).fields(known, params, "");
}

std::optional<Fault> check_params(const MethodInfo& method, json::object& params) {
  return check_params(method.name, method.params, params);
}

}  // namespace diskengine::rpc
