#include "control/cli/output.h"

#include <fmt/format.h>

#include <algorithm>
#include <boost/json.hpp>

namespace diskengine::control::cli {
namespace {

namespace json = boost::json;

constexpr std::string_view kColumnGap = "  ";

// Width on a terminal: UTF-8 continuation bytes take no place.
size_t width_of(std::string_view text) {
  return static_cast<size_t>(
      std::count_if(text.begin(), text.end(), [](char c) { return (static_cast<unsigned char>(c) & 0xc0) != 0x80; }));
}

std::string scalar_text(const json::value& value) {
  if (value.is_string()) return std::string(value.get_string());
  if (value.is_null()) return {};
  return json::serialize(value);
}

void indent_json(const json::value& value, size_t depth, std::string* out) {
  const std::string inner((depth + 1) * 2, ' ');
  const std::string outer(depth * 2, ' ');
  if (const json::object* object = value.if_object(); object != nullptr && !object->empty()) {
    *out += "{\n";
    size_t left = object->size();
    for (const auto& member : *object) {
      *out += inner + json::serialize(json::value(member.key())) + ": ";
      indent_json(member.value(), depth + 1, out);
      *out += --left > 0 ? ",\n" : "\n";
    }
    *out += outer + "}";
  } else if (const json::array* array = value.if_array(); array != nullptr && !array->empty()) {
    *out += "[\n";
    size_t left = array->size();
    for (const json::value& element : *array) {
      *out += inner;
      indent_json(element, depth + 1, out);
      *out += --left > 0 ? ",\n" : "\n";
    }
    *out += outer + "]";
  } else {
    *out += json::serialize(value);
  }
}

// Strings that YAML would read as something else, or not at all, are quoted; JSON's quoting is valid YAML.
bool is_plain_yaml(std::string_view text) {
  constexpr std::string_view kReserved[] = {"true", "false", "null", "yes", "no", "on", "off", "y", "n"};
  if (text.empty()) return false;
  std::string lower(text);
  std::transform(lower.begin(), lower.end(), lower.begin(),
                 [](char c) { return c >= 'A' && c <= 'Z' ? char(c + 32) : c; });
  if (std::find(std::begin(kReserved), std::end(kReserved), lower) != std::end(kReserved)) return false;
  const auto is_letter = [](char c) { return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z'); };
  const auto is_safe = [&](char c) {
    return is_letter(c) || (c >= '0' && c <= '9') || c == '_' || c == '-' || c == '.';
  };
  return is_letter(text.front()) && std::all_of(text.begin(), text.end(), is_safe);
}

std::string yaml_scalar(const json::value& value) {
  if (value.is_string() && is_plain_yaml(value.get_string())) return std::string(value.get_string());
  if (value.is_object()) return "{}";
  if (value.is_array()) return "[]";
  return json::serialize(value);
}

bool is_nested(const json::value& value) {
  return (value.is_object() && !value.get_object().empty()) || (value.is_array() && !value.get_array().empty());
}

// `in_list`: the first line stands behind a "- " that is already written.
void append_yaml(const json::value& value, size_t indent, bool in_list, std::string* out) {
  const std::string margin(indent, ' ');
  bool is_first = true;
  const auto start_line = [&] {
    if (!(in_list && is_first)) *out += margin;
    is_first = false;
  };
  if (const json::object* object = value.if_object(); object != nullptr && !object->empty()) {
    for (const auto& member : *object) {
      start_line();
      *out += yaml_scalar(json::value(member.key())) + ":";
      if (is_nested(member.value())) {
        *out += "\n";
        append_yaml(member.value(), indent + 2, false, out);
      } else {
        *out += " " + yaml_scalar(member.value()) + "\n";
      }
    }
  } else if (const json::array* array = value.if_array(); array != nullptr && !array->empty()) {
    for (const json::value& element : *array) {
      start_line();
      *out += "- ";
      append_yaml(element, indent + 2, true, out);
    }
  } else {
    start_line();
    *out += yaml_scalar(value) + "\n";
  }
}

}  // namespace

Result<OutputFormat> parse_output_format(std::string_view text) {
  if (text == "table") return OutputFormat::table;
  if (text == "wide") return OutputFormat::wide;
  if (text == "json") return OutputFormat::json;
  if (text == "yaml") return OutputFormat::yaml;
  return Error(Errc::invalid_argument, fmt::format("output format '{}' must be table, wide, json or yaml", text));
}

std::string cell_text(const json::value& row, std::string_view member) {
  const json::object* object = row.if_object();
  const json::value* value = object != nullptr ? object->if_contains(member) : nullptr;
  const std::string text = value != nullptr ? scalar_text(*value) : std::string();
  return text.empty() ? "-" : text;
}

std::string render_table(const json::value& rows, const std::vector<Column>& columns, bool wide) {
  std::vector<std::vector<std::string>> lines(1);
  std::vector<const Column*> shown;
  for (const Column& column : columns) {
    if (column.is_wide && !wide) continue;
    shown.push_back(&column);
    lines[0].push_back(column.title);
  }
  for (const json::value& row : rows.as_array()) {
    std::vector<std::string> line;
    for (const Column* column : shown) line.push_back(column->cell(row));
    lines.push_back(std::move(line));
  }
  std::vector<size_t> widths(shown.size(), 0);
  for (const auto& line : lines)
    for (size_t i = 0; i < line.size(); ++i) widths[i] = std::max(widths[i], width_of(line[i]));
  std::string text;
  for (const auto& line : lines) {
    std::string out;
    for (size_t i = 0; i < line.size(); ++i) {
      out += line[i];
      if (i + 1 < line.size()) out += std::string(widths[i] - width_of(line[i]), ' ') + std::string(kColumnGap);
    }
    text += out + "\n";
  }
  return text;
}

std::string render_json(const json::value& value) {
  std::string text;
  indent_json(value, 0, &text);
  return text + "\n";
}

std::string render_yaml(const json::value& value) {
  std::string text;
  append_yaml(value, 0, false, &text);
  return text;
}

}  // namespace diskengine::control::cli
