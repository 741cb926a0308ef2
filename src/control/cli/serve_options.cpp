#include "control/cli/serve_options.h"

#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>

#include "control/api/decode.h"

namespace diskengine::control::cli {
namespace {

constexpr std::string_view kRoleApi = "api";

struct NodeText {
  std::string name;
  std::string socket;
  std::string value;  // of the one further option
};

Result<NodeText> parse_node_text(std::string_view text, std::string_view option, std::string_view example) {
  const Error bad(Errc::invalid_argument, fmt::format("node '{}' is not understood; write {}", text, example));
  const size_t equals = text.find('=');
  const std::string separator = fmt::format(",{}=", option);
  const size_t comma = text.find(separator);
  if (equals == std::string_view::npos || comma == std::string_view::npos || comma < equals) return bad;
  NodeText parsed{.name = std::string(text.substr(0, equals)),
                  .socket = std::string(text.substr(equals + 1, comma - equals - 1)),
                  .value = std::string(text.substr(comma + separator.size()))};
  if (parsed.name.empty() || parsed.socket.empty() || parsed.value.empty()) return bad;
  return parsed;
}

std::string environment_or(const char* name, const std::string& fallback) {
  const char* value = std::getenv(name);
  return value != nullptr && *value != '\0' ? std::string(value) : fallback;
}

}  // namespace

bool ServeOptions::has_role(std::string_view role) const {
  return std::find(roles.begin(), roles.end(), role) != roles.end();
}

Result<Node> parse_storage_node(std::string_view text) {
  TRY_ASSIGN(NodeText parsed, parse_node_text(text, "address", "NAME=RPC-SOCKET,address=IP:PORT"));
  Node node;
  node.name = std::move(parsed.name);
  node.role = kRoleStorage;
  node.rpc_socket = std::move(parsed.socket);
  TRY(parse_address(parsed.value, &node));
  TRY(check_node(node));
  return node;
}

Result<Node> parse_compute_node(std::string_view text) {
  TRY_ASSIGN(NodeText parsed, parse_node_text(text, "vhost-dir", "NAME=RPC-SOCKET,vhost-dir=DIRECTORY"));
  Node node;
  node.name = std::move(parsed.name);
  node.role = kRoleCompute;
  node.rpc_socket = std::move(parsed.socket);
  node.vhost_dir = std::move(parsed.value);
  TRY(check_node(node));
  return node;
}

Result<std::vector<std::string>> parse_roles(std::string_view text) {
  std::vector<std::string> roles;
  while (!text.empty()) {
    const size_t comma = text.find(',');
    const std::string_view role = text.substr(0, comma);
    if (role != kRoleStorage && role != kRoleCompute && role != kRoleApi)
      return Error(Errc::invalid_argument,
                   fmt::format("role '{}' must be one of {}, {}, {}", role, kRoleStorage, kRoleCompute, kRoleApi));
    roles.emplace_back(role);
    text = comma == std::string_view::npos ? std::string_view() : text.substr(comma + 1);
  }
  if (roles.empty()) return Error(Errc::invalid_argument, "--role names no role");
  return roles;
}

std::string default_api_socket() {
  const std::string chosen = environment_or("DISKENGINE_API", "");
  if (!chosen.empty()) return chosen;
  if (::geteuid() == 0) return "/run/diskengine/api.sock";
  const std::string fallback = fmt::format("/tmp/diskengine-{}", ::geteuid());
  return environment_or("XDG_RUNTIME_DIR", fallback) + "/diskengine/api.sock";
}

std::string default_db_path() {
  if (::geteuid() == 0) return "/var/lib/diskengine/diskengine.db";
  const std::string home = environment_or("HOME", "/tmp");
  return environment_or("XDG_DATA_HOME", home + "/.local/share") + "/diskengine/diskengine.db";
}

}  // namespace diskengine::control::cli
