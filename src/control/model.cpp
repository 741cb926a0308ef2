#include "control/model.h"

#include <charconv>

namespace diskengine::control {
namespace {

template <typename Row>
const Row* find_id(const std::vector<Row>& rows, int64_t id) {
  for (const Row& row : rows)
    if (row.id == id) return &row;
  return nullptr;
}

template <typename Row>
const Row* find_name(const std::vector<Row>& rows, std::string_view name) {
  for (const Row& row : rows)
    if (row.name == name) return &row;
  return nullptr;
}

}  // namespace

std::string_view name_of(Kind kind) noexcept {
  switch (kind) {
    case Kind::node:
      return "node";
    case Kind::disk:
      return "disk";
    case Kind::volume:
      return "volume";
    case Kind::lvol:
      return "lvol";
    case Kind::replica:
      return "replica";
    case Kind::attachment:
      return "attachment";
  }
  return "object";
}

std::string_view table_of(Kind kind) noexcept {
  switch (kind) {
    case Kind::node:
      return "nodes";
    case Kind::disk:
      return "disks";
    case Kind::volume:
      return "volumes";
    case Kind::lvol:
      return "lvols";
    case Kind::replica:
      return "volume_lvol_mapping";
    case Kind::attachment:
      return "volume_vm_mapping";
  }
  return "";
}

const Node* Graph::node(int64_t id) const { return find_id(nodes, id); }
const Node* Graph::node_named(std::string_view name) const { return find_name(nodes, name); }
const Disk* Graph::disk(int64_t id) const { return find_id(disks, id); }
const Volume* Graph::volume(int64_t id) const { return find_id(volumes, id); }
const Lvol* Graph::lvol(int64_t id) const { return find_id(lvols, id); }
const VolumeLvolMapping* Graph::replica(int64_t id) const { return find_id(replicas, id); }
const VolumeVmMapping* Graph::attachment(int64_t id) const { return find_id(attachments, id); }

const Volume* Graph::volume_named(std::string_view name_or_id) const {
  if (const Volume* named = find_name(volumes, name_or_id)) return named;
  int64_t id = 0;
  const char* end = name_or_id.data() + name_or_id.size();
  const auto [stop, error] = std::from_chars(name_or_id.data(), end, id);
  return error == std::errc() && stop == end ? volume(id) : nullptr;
}

const VolumeVmMapping* Graph::attachment_of(int64_t volume_id) const {
  for (const VolumeVmMapping& row : attachments)
    if (row.volume_id == volume_id) return &row;
  return nullptr;
}

std::vector<const VolumeLvolMapping*> Graph::replicas_of(int64_t volume_id) const {
  std::vector<const VolumeLvolMapping*> found;
  for (const VolumeLvolMapping& row : replicas)
    if (row.volume_id == volume_id) found.push_back(&row);
  return found;
}

const Node* Graph::node_of(const VolumeLvolMapping& mapping) const {
  const Lvol* backing = lvol(mapping.lvol_id);
  const Disk* holder = backing != nullptr ? disk(backing->disk_id) : nullptr;
  return holder != nullptr ? node(holder->node_id) : nullptr;
}

int64_t Graph::promised_bytes(int64_t disk_id) const {
  int64_t sum = 0;
  for (const Lvol& row : lvols)
    if (row.disk_id == disk_id) sum += row.size_bytes;
  return sum;
}

}  // namespace diskengine::control
