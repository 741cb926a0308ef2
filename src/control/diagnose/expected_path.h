// The objects that one volume's path consists of, by name, as the control plane's database wishes them. Values, made
// from the API's answer to GET /v1/status; any thread may hold its own copy.
#pragma once

#include <boost/json/fwd.hpp>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"

namespace diskengine::control {

struct ExpectedNode {
  std::string name;
  std::string role;
  std::string rpc_socket;
  std::string address;    // storage node: where its exports listen
  std::string port;       // digits
  std::string vhost_dir;  // compute node
  std::string state;      // as the control plane last recorded it
  std::string reason;
  int64_t seen_ms = 0;  // unix time its data plane last answered the control plane; 0: never
};

struct ExpectedReplica {
  int64_t id = 0;
  std::string node;
  int64_t disk_id = 0;
  std::string disk_path;
  std::string disk_controller;  // NvmeDisk<id>
  std::string disk_bdev;        // NvmeDisk<id>n1
  std::string store;            // lvol store; empty until the disk has been initialised
  std::string lvol;             // UUID, which names its bdev; empty until it has been made
  std::string lvol_alias;
  std::string nqn;
  std::string controller;  // of the initiator
  std::string base_bdev;
  std::string admitted_host;
  bool in_sync = false;
  std::string state;
  std::string reason;
};

struct ExpectedPath {
  std::string volume;
  int64_t volume_id = 0;
  int64_t size_bytes = 0;
  int64_t block_size = 512;
  int64_t epoch = 0;
  std::string volume_state;
  std::string volume_reason;
  std::string raid;
  std::vector<ExpectedReplica> replicas;

  bool attached = false;  // the rest only then
  int64_t attachment_id = 0;
  std::string compute_node;
  std::string vhost;
  std::string socket;
  std::string host_nqn;
  int64_t attachment_epoch = 0;
  std::string attachment_state;
  std::string attachment_reason;

  std::vector<ExpectedNode> nodes;  // those of the path: the compute node, then each storage node once

  const ExpectedNode* node(std::string_view name) const;
};

// `status` is the body of GET /v1/status. `not_found` when it has no such volume (name, or id when no name matches).
// Members that are missing read as empty: a newer or older control plane is no error.
Result<ExpectedPath> expected_path(const boost::json::value& status, std::string_view volume);

// All nodes of `status`, to find out which of them share a socket path.
std::vector<ExpectedNode> expected_nodes(const boost::json::value& status);

}  // namespace diskengine::control
