#include "control/diagnose/rpc_command.h"

#include <fmt/format.h>

#include <boost/json.hpp>

namespace diskengine::control {
namespace {

std::string shell_quoted(const std::string& text) {
  std::string quoted = "'";
  for (const char c : text) {
    if (c == '\'')
      quoted += "'\\''";
    else
      quoted += c;
  }
  return quoted + "'";
}

}  // namespace

std::string rpc_command(const std::string& node, const std::string& method, const boost::json::object& params) {
  const std::string arguments = params.empty() ? std::string() : " " + shell_quoted(boost::json::serialize(params));
  return fmt::format("diskengine rpc --node {} {}{}", node, method, arguments);
}

}  // namespace diskengine::control
