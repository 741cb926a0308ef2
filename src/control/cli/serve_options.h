// The command line of `diskengine serve`: which nodes this process serves and where their data planes are. Pure; any
// thread.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"
#include "control/model.h"

namespace diskengine::control::cli {

struct ServeOptions {
  std::vector<std::string> roles;  // storagenode, baremetal, api
  std::string db_path;             // a file, or a PostgreSQL connection string
  std::string api_socket;
  std::vector<Node> new_nodes;     // to be recorded before the loops start
  std::vector<std::string> nodes;  // serve only these; empty: all of the roles
  int64_t tick_ms = 1'000;

  bool has_role(std::string_view role) const;
};

// "s1=/run/s1.sock,address=10.0.0.1:4420"
Result<Node> parse_storage_node(std::string_view text);
// "c1=/run/c1.sock,vhost-dir=/run/vhost"
Result<Node> parse_compute_node(std::string_view text);
// "storagenode,baremetal,api"
Result<std::vector<std::string>> parse_roles(std::string_view text);

// Where the API's socket and the database are when nobody says: below /run and /var/lib for root, else below the
// user's own directories.
std::string default_api_socket();
std::string default_db_path();

}  // namespace diskengine::control::cli
