#include "control/diagnose/node_access.h"

#include <fmt/format.h>

#include <algorithm>
#include <boost/json.hpp>
#include <filesystem>

#include "control/dataplane/json_read.h"
#include "control/sizes.h"

namespace diskengine::control {
namespace {

namespace json = boost::json;

// seen_ms is written every 5 s; beyond this the node's loop does not look any more.
constexpr int64_t kSeenLatelyMs = 20'000;

const ExpectedNode* find(const std::vector<ExpectedNode>& nodes, const std::string& name) {
  const auto at = std::find_if(nodes.begin(), nodes.end(), [&](const ExpectedNode& node) { return node.name == name; });
  return at == nodes.end() ? nullptr : &*at;
}

std::string how_to_ask(const ExpectedNode& node) {
  return fmt::format(
      "run this on the machine of node {}, or reach its socket from here and say so: --data-plane {}=SOCKET", node.name,
      node.name);
}

// SPDK refuses even empty parameters where it has none.
json::value params_or_none(const json::object& params) {
  return params.empty() ? json::value(nullptr) : json::value(params);
}

}  // namespace

std::string_view name_of(Reach reach) noexcept {
  switch (reach) {
    case Reach::answers:
      return "answers";
    case Reach::closed:
      return "down";
    case Reach::silent:
      return "silent";
    case Reach::elsewhere:
      return "not asked";
  }
  return "?";
}

struct NodeAccess::Peer {
  client::JsonRpcClient rpc;
  NodeReach found;
};

NodeAccess::NodeAccess(Options options) : options_(std::move(options)) {}
NodeAccess::NodeAccess(NodeAccess&&) noexcept = default;
NodeAccess::~NodeAccess() = default;

std::string NodeAccess::socket_of(const std::string& node) const {
  const auto chosen = options_.overrides.find(node);
  if (chosen != options_.overrides.end()) return chosen->second;
  const ExpectedNode* known = find(options_.nodes, node);
  return known != nullptr ? known->rpc_socket : std::string();
}

NodeReach NodeAccess::find_out(const ExpectedNode& node, client::JsonRpcClient& rpc) const {
  const bool is_chosen = options_.overrides.contains(node.name);
  const auto shares = std::count_if(options_.nodes.begin(), options_.nodes.end(),
                                    [&](const ExpectedNode& other) { return other.rpc_socket == node.rpc_socket; });
  if (!is_chosen && shares > 1)
    return {Reach::elsewhere,
            fmt::format("{} nodes name the socket {}, so they are on different machines; say which one this is: "
                        "--data-plane {}={}",
                        shares, node.rpc_socket, node.name, node.rpc_socket),
            {}};
  std::error_code error;
  if (!is_chosen && !std::filesystem::exists(rpc.socket_path(), error)) {
    if (node.state == "down") return {Reach::closed, node.reason, {}};
    const int64_t age_ms = options_.now_ms - node.seen_ms;
    const std::string seen = node.seen_ms == 0 ? std::string("has never seen it answer")
                             : age_ms <= kSeenLatelyMs
                                 ? std::string("sees it answer")
                                 : fmt::format("last saw it answer {} ago", format_duration(age_ms));
    return {Reach::elsewhere,
            fmt::format("its socket {} is not on this machine; the control plane {}; {}", node.rpc_socket, seen,
                        how_to_ask(node)),
            {}};
  }
  const Result<json::value> version = rpc.call("spdk_get_version", nullptr);
  if (version) return {Reach::answers, {}, json_read::text(*version, "version")};
  if (version.error().code() == Errc::timed_out) return {Reach::silent, version.error().message(), {}};
  return {Reach::closed, version.error().message(), {}};
}

NodeAccess::Peer& NodeAccess::peer(const std::string& node) {
  std::unique_ptr<Peer>& peer = peers_[node];
  if (peer != nullptr) return *peer;
  peer = std::make_unique<Peer>(
      Peer{client::JsonRpcClient({.socket_path = socket_of(node), .timeout_ms = options_.timeout_ms}), {}});
  const ExpectedNode* known = find(options_.nodes, node);
  peer->found = known != nullptr ? find_out(*known, peer->rpc)
                                 : NodeReach{Reach::elsewhere, "the control plane knows no node " + node, {}};
  return *peer;
}

NodeReach NodeAccess::reach(const std::string& node) { return peer(node).found; }

Result<json::value> NodeAccess::ask(const std::string& node, const std::string& method, const json::object& params) {
  Peer& asked = peer(node);
  if (asked.found.reach != Reach::answers) return Error(Errc::unreachable, asked.found.detail);
  Result<json::value> answer = asked.rpc.call(method, params_or_none(params));
  if (answer) return answer;
  if (answer.error().code() == Errc::timed_out) asked.found = {Reach::silent, answer.error().message(), {}};
  if (answer.error().code() == Errc::unreachable) asked.found = {Reach::closed, answer.error().message(), {}};
  return answer;
}

Result<std::map<std::string, std::string>> parse_overrides(const std::vector<std::string>& texts) {
  std::map<std::string, std::string> overrides;
  for (const std::string& text : texts) {
    const size_t equals = text.find('=');
    if (equals == 0 || equals == std::string::npos || equals + 1 == text.size())
      return Error(Errc::invalid_argument, fmt::format("--data-plane takes NODE=SOCKET, not '{}'", text));
    overrides[text.substr(0, equals)] = text.substr(equals + 1);
  }
  return overrides;
}

}  // namespace diskengine::control
