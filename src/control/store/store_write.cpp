#include <fmt/format.h>

#include "base/uuid.h"
#include "control/naming.h"
#include "control/store/migrations.h"
#include "control/store/rows.h"
#include "control/store/store.h"

namespace diskengine::control {
namespace {

constexpr int64_t kMaxEvents = 100'000;      // the oldest go first
constexpr int64_t kMaxOperations = 100'000;  // likewise

std::string text(std::string_view view) { return std::string(view); }

// What a new object says of itself until a loop has looked at it.
std::string waiting_for_loop(std::string_view node) {
  return fmt::format("waiting for the loops of node {}: is `diskengine serve` running for it?", node);
}

}  // namespace

Store::Store(std::unique_ptr<SqlConnection> connection, Environment& environment)
    : connection_(std::move(connection)), environment_(environment) {}
Store::~Store() = default;

Result<std::unique_ptr<Store>> Store::open(std::unique_ptr<SqlConnection> connection, Environment& environment) {
  TRY(migrate(*connection, environment.unix_ms()));
  return std::unique_ptr<Store>(new Store(std::move(connection), environment));
}

Result<int64_t> Store::next_id(std::string_view table) {
  TRY_ASSIGN(const std::vector<SqlRow> rows,
             connection_->query("INSERT INTO id_counters (name, next_id) VALUES ($1, 2) ON CONFLICT (name) DO UPDATE "
                                "SET next_id = id_counters.next_id + 1 RETURNING next_id - 1",
                                {text(table)}));
  return rows.at(0).integer(0);
}

Result<void> Store::add_event(Kind kind, int64_t id, const std::string& name, const Status& status) {
  TRY_ASSIGN(const int64_t event, next_id("events"));
  TRY(connection_->execute(
      "INSERT INTO events (id, time_ms, object_kind, object_id, object_name, state, reason) VALUES ($1, $2, $3, $4, "
      "$5, "
      "$6, $7)",
      {event, environment_.unix_ms(), text(name_of(kind)), id, name, status.state, status.reason}));
  TRY(connection_->execute("DELETE FROM events WHERE id <= $1", {event - kMaxEvents}));
  return {};
}

Result<void> Store::add_operation(std::string_view what, Kind kind, int64_t id, const std::string& name) {
  TRY_ASSIGN(const int64_t operation, next_id("operations"));
  TRY(connection_->execute(
      "INSERT INTO operations (id, kind, object_kind, object_id, object_name, state, started_ms, finished_ms) VALUES "
      "($1, $2, $3, $4, $5, 'running', $6, 0)",
      {operation, text(what), text(name_of(kind)), id, name, environment_.unix_ms()}));
  TRY(connection_->execute("DELETE FROM operations WHERE id <= $1", {operation - kMaxOperations}));
  return {};
}

Result<void> Store::finish_operations(Kind kind, int64_t id) {
  TRY(connection_->execute(
      "UPDATE operations SET state = 'done', finished_ms = $1 WHERE object_kind = $2 AND object_id = $3 AND state = "
      "'running'",
      {environment_.unix_ms(), text(name_of(kind)), id}));
  return {};
}

Result<std::string> Store::object_name(Kind kind, int64_t id) {
  const std::string table = text(table_of(kind));
  std::string sql;
  switch (kind) {
    case Kind::node:
    case Kind::volume:
      sql = "SELECT name FROM " + table + " WHERE id = $1";
      break;
    case Kind::disk:
      sql = "SELECT n.name || ':' || d.path FROM disks d JOIN nodes n ON n.id = d.node_id WHERE d.id = $1";
      break;
    case Kind::lvol:
      sql = "SELECT COALESCE(uuid, 'lvol_' || id) FROM lvols WHERE id = $1";
      break;
    case Kind::replica:
    case Kind::attachment:
      sql = "SELECT v.name FROM " + table + " m JOIN volumes v ON v.id = m.volume_id WHERE m.id = $1";
      break;
  }
  TRY_ASSIGN(const std::vector<SqlRow> rows, connection_->query(sql, {id}));
  return rows.empty() ? std::string() : rows[0].text(0);
}

Result<int64_t> Store::put_node(const Node& node) {
  const std::lock_guard lock(mutex_);
  TRY_ASSIGN(SqlTransaction transaction, SqlTransaction::write(*connection_));
  TRY_ASSIGN(const std::vector<SqlRow> found,
             connection_->query("SELECT id, role FROM nodes WHERE name = $1", {node.name}));
  int64_t id = 0;
  if (!found.empty()) {
    id = found[0].integer(0);
    if (found[0].text(1) != node.role)
      return Error(Errc::conflict, fmt::format("node {} exists with role {}; give a node of role {} another name",
                                               node.name, found[0].text(1), node.role));
    TRY(connection_->execute("UPDATE nodes SET rpc_socket = $1, address = $2, port = $3, vhost_dir = $4 WHERE id = $5",
                             {node.rpc_socket, node.address, node.port, node.vhost_dir, id}));
  } else {
    TRY_ASSIGN(id, next_id("nodes"));
    TRY(connection_->execute(
        "INSERT INTO nodes (id, name, role, rpc_socket, address, port, vhost_dir, state, reason, seen_ms, created_ms) "
        "VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, 0, $10)",
        {id, node.name, node.role, node.rpc_socket, node.address, node.port, node.vhost_dir, text(state::kNew),
         waiting_for_loop(node.name), environment_.unix_ms()}));
    TRY(add_operation("node add", Kind::node, id, node.name));
  }
  TRY(transaction.commit());
  return id;
}

Result<int64_t> Store::add_disk(const Disk& disk, bool overwrite) {
  const std::lock_guard lock(mutex_);
  TRY_ASSIGN(SqlTransaction transaction, SqlTransaction::write(*connection_));
  TRY_ASSIGN(const std::vector<SqlRow> found,
             connection_->query("SELECT id FROM disks WHERE node_id = $1 AND path = $2", {disk.node_id, disk.path}));
  TRY_ASSIGN(const std::string node_name, object_name(Kind::node, disk.node_id));
  if (!found.empty())
    return Error(Errc::already_exists,
                 fmt::format("{} is already disk {} of node {}", disk.path, found[0].integer(0), node_name));
  TRY_ASSIGN(const int64_t id, next_id("disks"));
  // A disk with an identity was found to be free, or is to be overwritten.
  const std::string uuid =
      overwrite ? Uuid::from_random(environment_.random(), environment_.random()).to_string() : std::string();
  TRY(
      connection_->execute("INSERT INTO disks (id, node_id, path, uuid, block_size, capacity_bytes, state, reason, "
                           "created_ms) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)",
                           {id, disk.node_id, disk.path, uuid, disk.block_size, disk.capacity_bytes, text(state::kNew),
                            waiting_for_loop(node_name), environment_.unix_ms()}));
  TRY(add_operation("disk add", Kind::disk, id, node_name + ":" + disk.path));
  TRY(transaction.commit());
  return id;
}

Result<void> Store::add_replica(const NewVolume& volume, int64_t volume_id, size_t slot, int64_t* replica_id) {
  const int64_t now_ms = environment_.unix_ms();
  const std::string uuid = Uuid::from_random(environment_.random(), environment_.random()).to_string();
  TRY_ASSIGN(const int64_t lvol, next_id("lvols"));
  TRY(connection_->execute(
      "INSERT INTO lvols (id, disk_id, size_bytes, block_size, provisioned, wanted, state, reason, created_ms) "
      "VALUES ($1, $2, $3, $4, 0, 1, $5, $6, $7)",
      {lvol, volume.disk_ids[slot], volume.size_bytes + (volume.superblock ? kSuperblockRoomBytes : 0),
       volume.block_size, text(state::kNew), text("waiting for its node's loop to make it"), now_ms}));
  TRY_ASSIGN(*replica_id, next_id("volume_lvol_mapping"));
  TRY(connection_->execute(
      "INSERT INTO volume_lvol_mapping (id, volume_id, lvol_id, slot, nqn, admitted_host, state, reason, created_ms) "
      "VALUES ($1, $2, $3, $4, $5, '', $6, $7, $8)",
      {*replica_id, volume_id, lvol, static_cast<int64_t>(slot), replica_nqn(uuid), text(state::kNew),
       text("waiting for its lvol"), now_ms}));
  return {};
}

Result<int64_t> Store::create_volume(const NewVolume& volume) {
  const std::lock_guard lock(mutex_);
  TRY_ASSIGN(SqlTransaction transaction, SqlTransaction::write(*connection_));
  TRY_ASSIGN(const std::vector<SqlRow> found,
             connection_->query("SELECT id, wanted FROM volumes WHERE name = $1", {volume.name}));
  if (!found.empty())
    return Error(Errc::already_exists,
                 fmt::format("volume {} exists{}; choose another name, or look at it with `diskengine volume show {}`",
                             volume.name, found[0].integer(1) != 0 ? "" : " and is being deleted", volume.name));
  TRY_ASSIGN(const int64_t id, next_id("volumes"));
  const std::string uuid = Uuid::from_random(environment_.random(), environment_.random()).to_string();
  TRY(connection_->execute(
      "INSERT INTO volumes (id, name, size_bytes, block_size, epoch, writer, in_sync, wanted, "
      "state, reason, created_ms, uuid, superblock) "
      "VALUES ($1, $2, $3, $4, 0, 0, '', 1, $5, $6, $7, $8, $9)",
      {id, volume.name, volume.size_bytes, volume.block_size, text(state::kNew), text("waiting for its replicas"),
       environment_.unix_ms(), uuid, static_cast<int64_t>(volume.superblock)}));
  std::vector<int64_t> in_sync;
  for (size_t slot = 0; slot < volume.disk_ids.size(); ++slot) {
    int64_t replica = 0;
    TRY(add_replica(volume, id, slot, &replica));
    in_sync.push_back(replica);
  }
  TRY(connection_->execute("UPDATE volumes SET in_sync = $1 WHERE id = $2", {text_from_ids(in_sync), id}));
  TRY(add_operation("volume create", Kind::volume, id, volume.name));
  TRY(transaction.commit());
  return id;
}

Result<int64_t> Store::create_attachment(const NewAttachment& attachment) {
  const std::lock_guard lock(mutex_);
  TRY_ASSIGN(SqlTransaction transaction, SqlTransaction::write(*connection_));
  TRY_ASSIGN(const std::string volume_name, object_name(Kind::volume, attachment.volume_id));
  TRY_ASSIGN(const std::vector<SqlRow> node,
             connection_->query("SELECT name, vhost_dir FROM nodes WHERE id = $1", {attachment.node_id}));
  if (node.empty()) return Error(Errc::not_found, fmt::format("no node with id {}", attachment.node_id));
  TRY_ASSIGN(const int64_t id, next_id("volume_vm_mapping"));
  TRY_ASSIGN(const int64_t changed,
             connection_->execute("UPDATE volumes SET epoch = epoch + 1, writer = $1 WHERE id = $2 AND epoch = $3 AND "
                                  "writer = 0 AND wanted = 1",
                                  {id, attachment.volume_id, attachment.expected_epoch}));
  if (changed == 0)
    return Error(Errc::conflict,
                 fmt::format("volume {} was attached or deleted by someone else meanwhile; look at `diskengine volume "
                             "show {}` and try again",
                             volume_name, volume_name));
  std::string socket = node[0].text(1);
  if (!socket.ends_with('/')) socket += '/';
  socket += vhost_controller_name(id);
  TRY(
      connection_->execute("INSERT INTO volume_vm_mapping (id, volume_id, node_id, epoch, socket_path, "
                           "rebuild_percent, wanted, state, reason, "
                           "created_ms) VALUES ($1, $2, $3, $4, $5, -1, 1, $6, $7, $8)",
                           {id, attachment.volume_id, attachment.node_id, attachment.expected_epoch + 1, socket,
                            text(state::kNew), waiting_for_loop(node[0].text(0)), environment_.unix_ms()}));
  TRY(add_operation("attachment create", Kind::attachment, id, volume_name));
  TRY(transaction.commit());
  return id;
}

Result<void> Store::move_attachment(const AttachmentMove& move) {
  const std::lock_guard lock(mutex_);
  TRY_ASSIGN(SqlTransaction transaction, SqlTransaction::write(*connection_));
  TRY_ASSIGN(const std::string name, object_name(Kind::attachment, move.attachment_id));
  TRY_ASSIGN(const std::vector<SqlRow> node,
             connection_->query("SELECT name, vhost_dir FROM nodes WHERE id = $1", {move.node_id}));
  if (node.empty()) return Error(Errc::not_found, fmt::format("no node with id {}", move.node_id));
  TRY_ASSIGN(const int64_t changed,
             connection_->execute("UPDATE volumes SET epoch = epoch + 1 WHERE writer = $1 AND epoch = $2",
                                  {move.attachment_id, move.expected_epoch}));
  if (changed == 0)
    return Error(Errc::conflict,
                 fmt::format("attachment {} has changed meanwhile; look at it and decide anew", move.attachment_id));
  std::string socket = node[0].text(1);
  if (!socket.ends_with('/')) socket += '/';
  socket += vhost_controller_name(move.attachment_id);
  const Status status{text(state::kNew), waiting_for_loop(node[0].text(0))};
  TRY(connection_->execute(
      "UPDATE volume_vm_mapping SET node_id = $1, epoch = $2, socket_path = $3, state = $4, reason "
      "= $5 WHERE id = $6",
      {move.node_id, move.expected_epoch + 1, socket, status.state, status.reason, move.attachment_id}));
  TRY(add_event(Kind::attachment, move.attachment_id, name, status));
  TRY(add_operation("attachment move", Kind::attachment, move.attachment_id, name));
  return transaction.commit();
}

Result<void> Store::request_delete_volume(int64_t volume_id) {
  const std::lock_guard lock(mutex_);
  TRY_ASSIGN(SqlTransaction transaction, SqlTransaction::write(*connection_));
  TRY_ASSIGN(const std::string name, object_name(Kind::volume, volume_id));
  TRY_ASSIGN(const int64_t changed,
             connection_->execute("UPDATE volumes SET wanted = 0 WHERE id = $1 AND wanted = 1 AND writer = 0 AND NOT "
                                  "EXISTS (SELECT 1 FROM volume_vm_mapping m WHERE m.volume_id = volumes.id)",
                                  {volume_id}));
  if (changed == 0) {
    TRY_ASSIGN(const std::vector<SqlRow> found,
               connection_->query("SELECT wanted FROM volumes WHERE id = $1", {volume_id}));
    if (found.empty() || found[0].integer(0) == 0) return {};
    return Error(Errc::conflict, fmt::format("volume {} is attached; delete its attachment first", name));
  }
  TRY(connection_->execute(
      "UPDATE lvols SET wanted = 0 WHERE id IN (SELECT lvol_id FROM volume_lvol_mapping WHERE volume_id = $1)",
      {volume_id}));
  const Status status{text(state::kDeleting), "its exports and lvols are being removed"};
  TRY(connection_->execute("UPDATE volumes SET state = $1, reason = $2 WHERE id = $3",
                           {status.state, status.reason, volume_id}));
  TRY(add_event(Kind::volume, volume_id, name, status));
  TRY(add_operation("volume delete", Kind::volume, volume_id, name));
  return transaction.commit();
}

Result<void> Store::request_delete_attachment(int64_t attachment_id) {
  const std::lock_guard lock(mutex_);
  TRY_ASSIGN(SqlTransaction transaction, SqlTransaction::write(*connection_));
  TRY_ASSIGN(const std::string name, object_name(Kind::attachment, attachment_id));
  const Status status{text(state::kDeleting), "its vhost controller, RAID and connections are being removed"};
  TRY_ASSIGN(const int64_t changed,
             connection_->execute(
                 "UPDATE volume_vm_mapping SET wanted = 0, state = $1, reason = $2 WHERE id = $3 AND wanted = 1",
                 {status.state, status.reason, attachment_id}));
  if (changed == 0) return {};
  TRY(add_event(Kind::attachment, attachment_id, name, status));
  TRY(add_operation("attachment delete", Kind::attachment, attachment_id, name));
  return transaction.commit();
}

Result<bool> Store::set_status(Kind kind, int64_t id, const Status& status) {
  const std::lock_guard lock(mutex_);
  const std::string table = text(table_of(kind));
  TRY_ASSIGN(const std::vector<SqlRow> found,
             connection_->query("SELECT state, reason FROM " + table + " WHERE id = $1", {id}));
  if (found.empty()) return false;
  const Status before{found[0].text(0), found[0].text(1)};
  if (before == status) return false;
  TRY_ASSIGN(SqlTransaction transaction, SqlTransaction::write(*connection_));
  TRY(connection_->execute("UPDATE " + table + " SET state = $1, reason = $2 WHERE id = $3",
                           {status.state, status.reason, id}));
  if (before.state != status.state) {
    TRY_ASSIGN(const std::string name, object_name(kind, id));
    TRY(add_event(kind, id, name, status));
  }
  if (status.state == state::kReady) TRY(finish_operations(kind, id));
  TRY(transaction.commit());
  return true;
}

Result<int64_t> Store::unix_ms() {
  const std::lock_guard lock(mutex_);
  return connection_->unix_ms();
}

Result<void> Store::set_node_seen(int64_t node_id) {
  const std::lock_guard lock(mutex_);
  TRY_ASSIGN(const int64_t seen_ms, connection_->unix_ms());
  TRY(connection_->execute("UPDATE nodes SET seen_ms = $1 WHERE id = $2", {seen_ms, node_id}));
  return {};
}

Result<void> Store::set_node_abilities(const Node& node) {
  const std::lock_guard lock(mutex_);
  TRY(connection_->execute("UPDATE nodes SET holds_writes = $1, assembles = $2 WHERE id = $3",
                           {static_cast<int64_t>(node.holds_writes), static_cast<int64_t>(node.assembles), node.id}));
  return {};
}

Result<void> Store::set_disk_identity(int64_t disk_id, const std::string& uuid, int64_t capacity_bytes) {
  const std::lock_guard lock(mutex_);
  TRY(connection_->execute("UPDATE disks SET uuid = $1, capacity_bytes = $2 WHERE id = $3",
                           {uuid, capacity_bytes, disk_id}));
  return {};
}

Result<void> Store::set_provisioned(int64_t lvol_id, const std::string& uuid) {
  const std::lock_guard lock(mutex_);
  TRY(connection_->execute("UPDATE lvols SET provisioned = 1, uuid = $1 WHERE id = $2", {uuid, lvol_id}));
  return {};
}

Result<void> Store::set_not_admitted(int64_t replica_id) {
  const std::lock_guard lock(mutex_);
  TRY(connection_->execute("UPDATE volume_lvol_mapping SET admitted_host = '' WHERE id = $1", {replica_id}));
  return {};
}

Result<bool> Store::set_fenced(const Fence& fence) {
  const std::lock_guard lock(mutex_);
  TRY_ASSIGN(SqlTransaction transaction, SqlTransaction::write(*connection_));
  TRY_ASSIGN(const int64_t changed,
             connection_->execute(
                 "UPDATE volume_lvol_mapping SET admitted_host = $1, fenced_epoch = $2 WHERE id = $3 AND fenced_epoch "
                 "<= $2 AND EXISTS (SELECT 1 FROM volumes v WHERE v.id = volume_lvol_mapping.volume_id AND v.epoch = "
                 "$2)",
                 {fence.host_nqn, fence.epoch, fence.replica_id}));
  TRY(transaction.commit());
  return changed == 1;
}

Result<void> Store::set_rebuild_percent(int64_t attachment_id, int64_t percent) {
  const std::lock_guard lock(mutex_);
  TRY(connection_->execute("UPDATE volume_vm_mapping SET rebuild_percent = $1 WHERE id = $2",
                           {percent, attachment_id}));
  return {};
}

Result<void> Store::remove_attachment(int64_t attachment_id) {
  const std::lock_guard lock(mutex_);
  TRY_ASSIGN(SqlTransaction transaction, SqlTransaction::write(*connection_));
  TRY_ASSIGN(const std::string name, object_name(Kind::attachment, attachment_id));
  TRY(connection_->execute("DELETE FROM volume_vm_mapping WHERE id = $1", {attachment_id}));
  TRY(connection_->execute("UPDATE volumes SET writer = 0 WHERE writer = $1", {attachment_id}));
  TRY(add_event(Kind::attachment, attachment_id, name, {"deleted", ""}));
  TRY(finish_operations(Kind::attachment, attachment_id));
  return transaction.commit();
}

Result<void> Store::remove_lvol(int64_t lvol_id) {
  const std::lock_guard lock(mutex_);
  TRY_ASSIGN(SqlTransaction transaction, SqlTransaction::write(*connection_));
  TRY_ASSIGN(const std::string name, object_name(Kind::lvol, lvol_id));
  TRY_ASSIGN(const std::vector<SqlRow> mapping,
             connection_->query("SELECT volume_id FROM volume_lvol_mapping WHERE lvol_id = $1", {lvol_id}));
  TRY(connection_->execute("DELETE FROM volume_lvol_mapping WHERE lvol_id = $1", {lvol_id}));
  TRY(connection_->execute("DELETE FROM lvols WHERE id = $1", {lvol_id}));
  TRY(add_event(Kind::lvol, lvol_id, name, {"deleted", ""}));
  if (!mapping.empty()) TRY(remove_volume_if_empty(mapping[0].integer(0)));
  return transaction.commit();
}

Result<void> Store::remove_volume_if_empty(int64_t volume_id) {
  TRY_ASSIGN(const std::string name, object_name(Kind::volume, volume_id));
  TRY_ASSIGN(const int64_t removed,
             connection_->execute("DELETE FROM volumes WHERE id = $1 AND wanted = 0 AND NOT EXISTS (SELECT 1 FROM "
                                  "volume_lvol_mapping m WHERE m.volume_id = volumes.id)",
                                  {volume_id}));
  if (removed == 0) return {};
  TRY(add_event(Kind::volume, volume_id, name, {"deleted", ""}));
  return finish_operations(Kind::volume, volume_id);
}

}  // namespace diskengine::control
