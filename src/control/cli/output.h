// How the command shows data: tables for people (table, wide), JSON and YAML for programs. Pure functions on JSON
// values; any thread.
#pragma once

#include <boost/json/fwd.hpp>
#include <functional>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"

namespace diskengine::control::cli {

enum class OutputFormat { table, wide, json, yaml };

Result<OutputFormat> parse_output_format(std::string_view text);

struct Column {
  std::string title;
  std::function<std::string(const boost::json::value&)> cell;
  bool is_wide = false;  // only with -o wide
};

// The member as text: strings as they are, numbers in digits, "-" for null and for "".
std::string cell_text(const boost::json::value& row, std::string_view member);

// One line per element of the array, columns aligned, titles on top; empty columns are kept.
std::string render_table(const boost::json::value& rows, const std::vector<Column>& columns, bool wide);
// Indented by two spaces, newline at the end.
std::string render_json(const boost::json::value& value);
std::string render_yaml(const boost::json::value& value);

}  // namespace diskengine::control::cli
