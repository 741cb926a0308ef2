// What the commands that ask data planes share: which sockets to ask on, and how a person asks the same by hand.
#pragma once

#include <boost/json/fwd.hpp>
#include <memory>
#include <string>
#include <vector>

#include "control/cli/session.h"
#include "control/diagnose/node_access.h"

namespace CLI {
class App;
}

namespace diskengine::control::cli {

struct AskOptions {
  std::vector<std::string> data_planes;  // NODE=SOCKET
};
void add_ask_options(CLI::App& command, const std::shared_ptr<AskOptions>& options);

// `status` is the body of GET /v1/status.
Result<NodeAccess> node_access(Session& session, const boost::json::value& status, const AskOptions& options);

}  // namespace diskengine::control::cli
