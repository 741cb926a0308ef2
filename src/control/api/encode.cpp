#include "control/api/encode.h"

#include <fmt/format.h>

#include <algorithm>
#include <boost/json.hpp>

#include "control/lease_keeper.h"
#include "control/naming.h"

namespace diskengine::control {
namespace {

namespace json = boost::json;

void add_status(json::object* object, const Status& status) {
  (*object)["state"] = status.state;
  (*object)["reason"] = status.reason;
}

std::string name_or_empty(const Node* node) { return node != nullptr ? node->name : std::string(); }

}  // namespace

json::object encode(const Graph&, const Node& node) {
  json::object object{{"id", node.id}, {"name", node.name}, {"role", node.role}, {"data_plane", node.rpc_socket}};
  object["address"] = node.address.empty() ? std::string() : fmt::format("{}:{}", node.address, node.port);
  object["vhost_dir"] = node.vhost_dir;
  object["seen_ms"] = node.seen_ms;
  object["served_by"] = shown_process(node.served_by);
  add_status(&object, node.status);
  return object;
}

json::object encode(const Graph& graph, const Disk& disk) {
  json::object object{{"id", disk.id},
                      {"node", name_or_empty(graph.node(disk.node_id))},
                      {"path", disk.path},
                      {"uuid", disk.uuid},
                      {"bdev", nvme_disk_bdev_name(disk.id)},
                      {"lvol_store", disk.uuid.empty() ? std::string() : lvol_store_name(disk.uuid)},
                      {"block_size", disk.block_size},
                      {"capacity_bytes", disk.capacity_bytes},
                      {"promised_bytes", graph.promised_bytes(disk.id)}};
  add_status(&object, disk.status);
  return object;
}

json::object encode(const Graph& graph, const VolumeLvolMapping& replica) {
  const Volume* volume = graph.volume(replica.volume_id);
  const Lvol* lvol = graph.lvol(replica.lvol_id);
  const Disk* disk = lvol != nullptr ? graph.disk(lvol->disk_id) : nullptr;
  json::object object{{"id", replica.id}, {"slot", replica.slot}};
  object["volume"] = volume != nullptr ? volume->name : std::string();
  object["node"] = name_or_empty(graph.node_of(replica));
  object["disk_id"] = disk != nullptr ? disk->id : 0;
  object["lvol"] = lvol != nullptr ? lvol->uuid : std::string();
  object["lvol_alias"] = lvol != nullptr && disk != nullptr ? lvol_alias(disk->uuid, lvol->id) : std::string();
  object["disk_path"] = disk != nullptr ? disk->path : std::string();
  object["nqn"] = replica.nqn;
  object["base_bdev"] = base_bdev_name_from_nqn(replica.nqn);
  object["admitted_host"] = replica.admitted_host;
  object["left_ms"] = replica.left_ms;
  object["in_sync"] = volume != nullptr &&
                      std::find(volume->in_sync.begin(), volume->in_sync.end(), replica.id) != volume->in_sync.end();
  add_status(&object, replica.status);
  return object;
}

json::object encode(const Graph& graph, const VolumeVmMapping& attachment) {
  const Volume* volume = graph.volume(attachment.volume_id);
  json::object object{{"id", attachment.id},
                      {"volume", volume != nullptr ? volume->name : std::string()},
                      {"volume_id", attachment.volume_id},
                      {"node", name_or_empty(graph.node(attachment.node_id))},
                      {"socket", attachment.socket_path},
                      {"vhost", vhost_controller_name(attachment.id)},
                      {"raid", raid_bdev_name(attachment.volume_id)},
                      {"host_nqn", host_nqn(attachment.id, attachment.epoch)},
                      {"epoch", attachment.epoch}};
  const Node* node = graph.node(attachment.node_id);
  const bool is_protected = node != nullptr && node->holds_writes;
  object["protection"] = is_protected ? "full" : "limited";
  object["protection_reason"] =
      is_protected ? std::string()
                   : fmt::format(
                         "the data plane of {} does not hold writes until a failed replica's exclusion is on "
                         "record: if it ends at that moment, acknowledged writes can be lost",
                         name_or_empty(node));
  object["rebuild_percent"] =
      attachment.rebuild_percent < 0 ? json::value(nullptr) : json::value(attachment.rebuild_percent);
  add_status(&object, attachment.status);
  return object;
}

json::object encode(const Graph& graph, const Volume& volume) {
  json::array replicas;
  for (const VolumeLvolMapping* replica : graph.replicas_of(volume.id)) replicas.push_back(encode(graph, *replica));
  const VolumeVmMapping* attachment = graph.attachment_of(volume.id);
  json::object object{{"id", volume.id},
                      {"name", volume.name},
                      {"size_bytes", volume.size_bytes},
                      {"block_size", volume.block_size},
                      {"uuid", volume.uuid},
                      {"superblock", volume.superblock},
                      {"raid", raid_bdev_name(volume.id)},
                      {"epoch", volume.epoch},
                      {"in_sync", volume.in_sync.size()},
                      {"replicas", replicas}};
  object["attachment"] = attachment != nullptr ? json::value(encode(graph, *attachment)) : json::value(nullptr);
  add_status(&object, volume.status);
  return object;
}

json::object encode(const Event& event) {
  return {{"id", event.id},
          {"time_ms", event.time_ms},
          {"kind", event.object_kind},
          {"object_id", event.object_id},
          {"name", event.object_name},
          {"state", event.state},
          {"reason", event.reason}};
}

json::object encode(const Operation& operation) {
  return {{"id", operation.id},
          {"operation", operation.kind},
          {"kind", operation.object_kind},
          {"object_id", operation.object_id},
          {"name", operation.object_name},
          {"state", operation.state},
          {"started_ms", operation.started_ms},
          {"finished_ms", operation.finished_ms}};
}

}  // namespace diskengine::control
