#include <charconv>

#include "control/store/rows.h"
#include "control/store/store.h"

namespace diskengine::control {
namespace {

Node node_of_row(const SqlRow& row) {
  return Node{.id = row.integer(0),
              .name = row.text(1),
              .role = row.text(2),
              .rpc_socket = row.text(3),
              .address = row.text(4),
              .port = row.integer(5),
              .vhost_dir = row.text(6),
              .status = {row.text(7), row.text(8)},
              .seen_ms = row.integer(9),
              .holds_writes = row.integer(10) != 0,
              .served_by = row.text(12),
              .assembles = row.integer(11) != 0};
}

Disk disk_of_row(const SqlRow& row) {
  return Disk{.id = row.integer(0),
              .node_id = row.integer(1),
              .path = row.text(2),
              .uuid = row.text(3),
              .block_size = row.integer(4),
              .capacity_bytes = row.integer(5),
              .status = {row.text(6), row.text(7)}};
}

Volume volume_of_row(const SqlRow& row) {
  return Volume{.id = row.integer(0),
                .name = row.text(1),
                .uuid = row.text(11),
                .superblock = row.integer(12) != 0,
                .size_bytes = row.integer(2),
                .block_size = row.integer(3),
                .epoch = row.integer(4),
                .writer = row.integer(5),
                .in_sync = ids_from_text(row.text(6)),
                .in_sync_version = row.integer(7),
                .wanted = row.integer(8) != 0,
                .status = {row.text(9), row.text(10)}};
}

Lvol lvol_of_row(const SqlRow& row) {
  return Lvol{.id = row.integer(0),
              .uuid = row.text(1),
              .disk_id = row.integer(2),
              .size_bytes = row.integer(3),
              .block_size = row.integer(4),
              .provisioned = row.integer(5) != 0,
              .wanted = row.integer(6) != 0,
              .status = {row.text(7), row.text(8)}};
}

VolumeLvolMapping replica_of_row(const SqlRow& row) {
  return VolumeLvolMapping{.id = row.integer(0),
                           .volume_id = row.integer(1),
                           .lvol_id = row.integer(2),
                           .slot = row.integer(3),
                           .nqn = row.text(4),
                           .admitted_host = row.text(5),
                           .left_ms = row.integer(9),
                           .fenced_epoch = row.integer(6),
                           .status = {row.text(7), row.text(8)}};
}

VolumeVmMapping attachment_of_row(const SqlRow& row) {
  return VolumeVmMapping{.id = row.integer(0),
                         .volume_id = row.integer(1),
                         .node_id = row.integer(2),
                         .epoch = row.integer(3),
                         .socket_path = row.text(4),
                         .rebuild_percent = row.integer(5),
                         .wanted = row.integer(6) != 0,
                         .status = {row.text(7), row.text(8)}};
}

template <typename Row>
Result<void> load(SqlConnection& connection, std::string_view sql, Row (*decode)(const SqlRow&),
                  std::vector<Row>* out) {
  TRY_ASSIGN(const std::vector<SqlRow> rows, connection.query(sql, {}));
  out->reserve(rows.size());
  for (const SqlRow& row : rows) out->push_back(decode(row));
  return {};
}

}  // namespace

std::string text_from_ids(const std::vector<int64_t>& ids) {
  std::string text;
  for (const int64_t id : ids) {
    if (!text.empty()) text += ',';
    text += std::to_string(id);
  }
  return text;
}

std::vector<int64_t> ids_from_text(std::string_view text) {
  std::vector<int64_t> ids;
  const char* at = text.data();
  const char* const end = at + text.size();
  while (at < end) {
    int64_t id = 0;
    const auto [stop, error] = std::from_chars(at, end, id);
    if (error != std::errc()) break;
    ids.push_back(id);
    at = stop < end ? stop + 1 : end;
  }
  return ids;
}

Result<void> Store::check() {
  const std::lock_guard lock(mutex_);
  TRY(connection_->query("SELECT MAX(version) FROM schema_migrations", {}));
  return {};
}

Result<Graph> Store::load_graph() {
  const std::lock_guard lock(mutex_);
  TRY_ASSIGN(SqlTransaction transaction, SqlTransaction::read(*connection_));
  Graph graph;
  TRY(load(*connection_,
           "SELECT id, name, role, rpc_socket, address, port, vhost_dir, state, reason, seen_ms, holds_writes, "
           "assembles, owner FROM nodes LEFT JOIN node_leases ON node_id = id ORDER BY id",
           node_of_row, &graph.nodes));
  TRY(load(*connection_,
           "SELECT id, node_id, path, uuid, block_size, capacity_bytes, state, reason FROM disks ORDER BY id",
           disk_of_row, &graph.disks));
  TRY(load(*connection_,
           "SELECT id, name, size_bytes, block_size, epoch, writer, in_sync, in_sync_version, wanted, state, reason, "
           "uuid, superblock FROM "
           "volumes "
           "ORDER BY id",
           volume_of_row, &graph.volumes));
  TRY(load(
      *connection_,
      "SELECT id, uuid, disk_id, size_bytes, block_size, provisioned, wanted, state, reason FROM lvols ORDER BY id",
      lvol_of_row, &graph.lvols));
  TRY(load(*connection_,
           "SELECT id, volume_id, lvol_id, slot, nqn, admitted_host, fenced_epoch, state, reason, left_ms FROM "
           "volume_lvol_mapping "
           "ORDER BY volume_id, slot",
           replica_of_row, &graph.replicas));
  TRY(load(*connection_,
           "SELECT id, volume_id, node_id, epoch, socket_path, rebuild_percent, wanted, state, reason "
           "FROM volume_vm_mapping ORDER BY id",
           attachment_of_row, &graph.attachments));
  TRY(transaction.commit());
  return graph;
}

Result<bool> Store::is_held(const HeldEpoch& held) {
  const std::lock_guard lock(mutex_);
  TRY_ASSIGN(const std::vector<SqlRow> rows,
             connection_->query("SELECT in_sync FROM volumes WHERE id = $1 AND epoch = $2 AND writer = $3",
                                {held.volume_id, held.epoch, held.writer}));
  return !rows.empty() && (held.in_sync.empty() || ids_from_text(rows[0].text(0)) == held.in_sync);
}

Result<std::vector<Event>> Store::events(int64_t limit) {
  const std::lock_guard lock(mutex_);
  TRY_ASSIGN(const std::vector<SqlRow> rows,
             connection_->query("SELECT id, time_ms, object_kind, object_id, object_name, state, reason FROM events "
                                "ORDER BY id DESC LIMIT $1",
                                {limit}));
  std::vector<Event> events;
  for (const SqlRow& row : rows)
    events.push_back(Event{.id = row.integer(0),
                           .time_ms = row.integer(1),
                           .object_kind = row.text(2),
                           .object_id = row.integer(3),
                           .object_name = row.text(4),
                           .state = row.text(5),
                           .reason = row.text(6)});
  return events;
}

Result<std::vector<Operation>> Store::operations(int64_t limit) {
  const std::lock_guard lock(mutex_);
  TRY_ASSIGN(const std::vector<SqlRow> rows,
             connection_->query("SELECT id, kind, object_kind, object_id, object_name, state, started_ms, finished_ms "
                                "FROM operations ORDER BY id DESC LIMIT $1",
                                {limit}));
  std::vector<Operation> operations;
  for (const SqlRow& row : rows)
    operations.push_back(Operation{.id = row.integer(0),
                                   .kind = row.text(1),
                                   .object_kind = row.text(2),
                                   .object_id = row.integer(3),
                                   .object_name = row.text(4),
                                   .state = row.text(5),
                                   .started_ms = row.integer(6),
                                   .finished_ms = row.integer(7)});
  return operations;
}

}  // namespace diskengine::control
