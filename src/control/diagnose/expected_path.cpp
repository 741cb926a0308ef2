#include "control/diagnose/expected_path.h"

#include <fmt/format.h>

#include <algorithm>
#include <boost/json.hpp>

#include "control/dataplane/json_read.h"
#include "control/naming.h"

namespace diskengine::control {
namespace {

namespace json = boost::json;
using namespace json_read;

const json::value* find_volume(const json::value& status, std::string_view name) {
  const json::value* by_id = nullptr;
  const json::value* by_name = nullptr;
  for_each(member(status, "volumes"), [&](const json::value& volume) {
    if (text(volume, "name") == name) by_name = &volume;
    if (std::to_string(integer(volume, "id")) == name) by_id = &volume;
  });
  return by_name != nullptr ? by_name : by_id;
}

std::string disk_store(const json::value& status, int64_t disk_id) {
  std::string store;
  for_each(member(status, "disks"), [&](const json::value& disk) {
    if (integer(disk, "id") == disk_id) store = text(disk, "lvol_store");
  });
  return store;
}

ExpectedReplica replica_of(const json::value& status, const json::value& value) {
  ExpectedReplica replica;
  replica.id = integer(value, "id");
  replica.node = text(value, "node");
  replica.disk_id = integer(value, "disk_id");
  replica.disk_path = text(value, "disk_path");
  replica.disk_controller = nvme_disk_name(replica.disk_id);
  replica.disk_bdev = nvme_disk_bdev_name(replica.disk_id);
  replica.store = disk_store(status, replica.disk_id);
  replica.lvol = text(value, "lvol");
  replica.lvol_alias = text(value, "lvol_alias");
  replica.nqn = text(value, "nqn");
  replica.controller = controller_name_from_nqn(replica.nqn);
  replica.base_bdev = base_bdev_name_from_nqn(replica.nqn);
  replica.admitted_host = text(value, "admitted_host");
  replica.in_sync = boolean(value, "in_sync");
  replica.state = text(value, "state");
  replica.reason = text(value, "reason");
  return replica;
}

void read_attachment(const json::value& value, ExpectedPath* path) {
  path->attached = true;
  path->attachment_id = integer(value, "id");
  path->compute_node = text(value, "node");
  path->vhost = text(value, "vhost");
  path->socket = text(value, "socket");
  path->host_nqn = text(value, "host_nqn");
  path->attachment_epoch = integer(value, "epoch");
  path->attachment_state = text(value, "state");
  path->attachment_reason = text(value, "reason");
}

void add_node(const std::vector<ExpectedNode>& all, const std::string& name, ExpectedPath* path) {
  if (path->node(name) != nullptr) return;
  const auto found = std::find_if(all.begin(), all.end(), [&](const ExpectedNode& node) { return node.name == name; });
  if (found != all.end()) path->nodes.push_back(*found);
}

}  // namespace

const ExpectedNode* ExpectedPath::node(std::string_view name) const {
  for (const ExpectedNode& one : nodes)
    if (one.name == name) return &one;
  return nullptr;
}

std::vector<ExpectedNode> expected_nodes(const json::value& status) {
  std::vector<ExpectedNode> nodes;
  for_each(member(status, "nodes"), [&](const json::value& value) {
    ExpectedNode& node = nodes.emplace_back();
    node.name = text(value, "name");
    node.role = text(value, "role");
    node.rpc_socket = text(value, "data_plane");
    const std::string address = text(value, "address");
    const size_t colon = address.rfind(':');
    if (colon != std::string::npos) {
      node.address = address.substr(0, colon);
      node.port = address.substr(colon + 1);
    }
    node.vhost_dir = text(value, "vhost_dir");
    node.state = text(value, "state");
    node.reason = text(value, "reason");
    node.seen_ms = integer(value, "seen_ms");
  });
  return nodes;
}

Result<ExpectedPath> expected_path(const json::value& status, std::string_view volume) {
  const json::value* found = find_volume(status, volume);
  if (found == nullptr)
    return Error(Errc::not_found, fmt::format("there is no volume '{}'; see `diskengine volume list`", volume));
  ExpectedPath path;
  path.volume = text(*found, "name");
  path.volume_id = integer(*found, "id");
  path.size_bytes = integer(*found, "size_bytes");
  path.block_size = integer(*found, "block_size");
  path.epoch = integer(*found, "epoch");
  path.volume_state = text(*found, "state");
  path.volume_reason = text(*found, "reason");
  path.raid = text(*found, "raid");
  for_each(member(*found, "replicas"),
           [&](const json::value& replica) { path.replicas.push_back(replica_of(status, replica)); });
  const json::value* attachment = member(*found, "attachment");
  if (attachment != nullptr && attachment->is_object()) read_attachment(*attachment, &path);
  const std::vector<ExpectedNode> all = expected_nodes(status);
  if (path.attached) add_node(all, path.compute_node, &path);
  for (const ExpectedReplica& replica : path.replicas) add_node(all, replica.node, &path);
  return path;
}

}  // namespace diskengine::control
