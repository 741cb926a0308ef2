#include "control/cli/diagnosis.h"

#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <boost/json.hpp>

namespace diskengine::control::cli {

void add_ask_options(CLI::App& command, const std::shared_ptr<AskOptions>& options) {
  command.add_option(
      "--data-plane", options->data_planes,
      "NODE=SOCKET: ask the node's data plane there, for instance on a forwarded socket; may be repeated");
}

Result<NodeAccess> node_access(Session& session, const boost::json::value& status, const AskOptions& options) {
  NodeAccess::Options access;
  access.nodes = expected_nodes(status);
  TRY_ASSIGN(access.overrides, parse_overrides(options.data_planes));
  access.now_ms = session.console.environment.unix_ms();
  return NodeAccess(std::move(access));
}

}  // namespace diskengine::control::cli
