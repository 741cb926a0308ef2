#include "control/store/migrations.h"

#include <fmt/format.h>

namespace diskengine::control {
namespace {

// Plain SQL that SQLite and PostgreSQL read alike: ids come from id_counters (never reused, so raid_7 always means the
// same volume), times are unix milliseconds, truth values are 0 or 1.
constexpr std::string_view kFirstCut = R"sql(
CREATE TABLE id_counters (
  name TEXT PRIMARY KEY,
  next_id BIGINT NOT NULL
);
CREATE TABLE nodes (
  id BIGINT PRIMARY KEY,
  name TEXT NOT NULL UNIQUE,
  role TEXT NOT NULL,
  rpc_socket TEXT NOT NULL,
  address TEXT NOT NULL,
  port BIGINT NOT NULL,
  vhost_dir TEXT NOT NULL,
  state TEXT NOT NULL,
  reason TEXT NOT NULL,
  seen_ms BIGINT NOT NULL,
  created_ms BIGINT NOT NULL
);
CREATE TABLE disks (
  id BIGINT PRIMARY KEY,
  node_id BIGINT NOT NULL REFERENCES nodes(id),
  path TEXT NOT NULL,
  uuid TEXT NOT NULL,
  block_size BIGINT NOT NULL,
  capacity_bytes BIGINT NOT NULL,
  state TEXT NOT NULL,
  reason TEXT NOT NULL,
  created_ms BIGINT NOT NULL,
  UNIQUE (node_id, path)
);
CREATE TABLE volumes (
  id BIGINT PRIMARY KEY,
  name TEXT NOT NULL UNIQUE,
  size_bytes BIGINT NOT NULL,
  block_size BIGINT NOT NULL,
  epoch BIGINT NOT NULL,
  writer BIGINT NOT NULL,
  in_sync TEXT NOT NULL,
  wanted BIGINT NOT NULL,
  state TEXT NOT NULL,
  reason TEXT NOT NULL,
  created_ms BIGINT NOT NULL
);
CREATE TABLE lvols (
  id BIGINT PRIMARY KEY,
  uuid TEXT UNIQUE,
  disk_id BIGINT NOT NULL REFERENCES disks(id),
  size_bytes BIGINT NOT NULL,
  block_size BIGINT NOT NULL,
  provisioned BIGINT NOT NULL,
  wanted BIGINT NOT NULL,
  state TEXT NOT NULL,
  reason TEXT NOT NULL,
  created_ms BIGINT NOT NULL
);
CREATE TABLE volume_lvol_mapping (
  id BIGINT PRIMARY KEY,
  volume_id BIGINT NOT NULL REFERENCES volumes(id),
  lvol_id BIGINT NOT NULL REFERENCES lvols(id),
  slot BIGINT NOT NULL,
  nqn TEXT NOT NULL UNIQUE,
  admitted_host TEXT NOT NULL,
  state TEXT NOT NULL,
  reason TEXT NOT NULL,
  created_ms BIGINT NOT NULL,
  UNIQUE (volume_id, slot)
);
CREATE TABLE volume_vm_mapping (
  id BIGINT PRIMARY KEY,
  volume_id BIGINT NOT NULL UNIQUE REFERENCES volumes(id),
  node_id BIGINT NOT NULL REFERENCES nodes(id),
  epoch BIGINT NOT NULL,
  socket_path TEXT NOT NULL,
  rebuild_percent BIGINT NOT NULL,
  wanted BIGINT NOT NULL,
  state TEXT NOT NULL,
  reason TEXT NOT NULL,
  created_ms BIGINT NOT NULL
);
CREATE TABLE snapshots (
  id BIGINT PRIMARY KEY,
  volume_id BIGINT NOT NULL REFERENCES volumes(id),
  name TEXT NOT NULL,
  state TEXT NOT NULL,
  reason TEXT NOT NULL,
  created_ms BIGINT NOT NULL,
  UNIQUE (volume_id, name)
);
CREATE TABLE operations (
  id BIGINT PRIMARY KEY,
  kind TEXT NOT NULL,
  object_kind TEXT NOT NULL,
  object_id BIGINT NOT NULL,
  object_name TEXT NOT NULL,
  state TEXT NOT NULL,
  started_ms BIGINT NOT NULL,
  finished_ms BIGINT NOT NULL
);
CREATE INDEX operations_by_object ON operations (object_kind, object_id);
CREATE TABLE events (
  id BIGINT PRIMARY KEY,
  time_ms BIGINT NOT NULL,
  object_kind TEXT NOT NULL,
  object_id BIGINT NOT NULL,
  object_name TEXT NOT NULL,
  state TEXT NOT NULL,
  reason TEXT NOT NULL
);
)sql";

// One row per connection of a process: the number of its last writing transaction that was committed (postgres.h).
constexpr std::string_view kCommitReceipts = R"sql(
CREATE TABLE commit_receipts (
  session BIGINT PRIMARY KEY,
  receipt BIGINT NOT NULL,
  committed_ms BIGINT NOT NULL
);
)sql";

// The highest epoch at which the replica is known to admit nobody but the volume's writer, with nothing of a former
// host under way.
constexpr std::string_view kFencing = R"sql(
ALTER TABLE volume_lvol_mapping ADD COLUMN fenced_epoch BIGINT NOT NULL DEFAULT 0;
)sql";

// How often a decision about in_sync was made, so that none is made on an old one; and whether a compute node's data
// plane holds writes until an exclusion is on record.
constexpr std::string_view kHeldWrites = R"sql(
ALTER TABLE volumes ADD COLUMN in_sync_version BIGINT NOT NULL DEFAULT 0;
ALTER TABLE nodes ADD COLUMN holds_writes BIGINT NOT NULL DEFAULT 0;
)sql";

// Volumes whose replicas have superblocks, and which compute nodes can use them.
constexpr std::string_view kSuperblocks = R"sql(
ALTER TABLE volumes ADD COLUMN uuid TEXT NOT NULL DEFAULT '';
ALTER TABLE volumes ADD COLUMN superblock BIGINT NOT NULL DEFAULT 0;
ALTER TABLE nodes ADD COLUMN assembles BIGINT NOT NULL DEFAULT 0;
)sql";

// Which process runs a node's loops (model.h, NodeLease).
constexpr std::string_view kNodeLeases = R"sql(
CREATE TABLE node_leases (
  node_id BIGINT PRIMARY KEY REFERENCES nodes(id),
  owner TEXT NOT NULL,
  number BIGINT NOT NULL,
  beat BIGINT NOT NULL
);
)sql";

// When a replica left in_sync: since then it lacks what was acknowledged.
constexpr std::string_view kLeft = R"sql(
ALTER TABLE volume_lvol_mapping ADD COLUMN left_ms BIGINT NOT NULL DEFAULT 0;
)sql";

constexpr std::string_view kVersionTable =
    "CREATE TABLE IF NOT EXISTS schema_migrations (version BIGINT PRIMARY KEY, name TEXT NOT NULL, applied_ms BIGINT "
    "NOT "
    "NULL)";

Result<int64_t> current_version(SqlConnection& connection) {
  TRY_ASSIGN(const auto rows, connection.query("SELECT COALESCE(MAX(version), 0) FROM schema_migrations", {}));
  return rows.at(0).integer(0);
}

}  // namespace

const std::vector<Migration>& migrations() {
  static const std::vector<Migration> all = {{1, "first cut", kFirstCut},      {2, "commit receipts", kCommitReceipts},
                                             {3, "fencing", kFencing},         {4, "held writes", kHeldWrites},
                                             {5, "superblocks", kSuperblocks}, {6, "node leases", kNodeLeases},
                                             {7, "when replicas left", kLeft}};
  return all;
}

Result<void> migrate(SqlConnection& connection, int64_t now_ms) {
  // The first look is inside the write lock too: two processes may start on a new file at once.
  TRY_ASSIGN(SqlTransaction transaction, SqlTransaction::write(connection));
  TRY(connection.script(kVersionTable));
  TRY_ASSIGN(const int64_t version, current_version(connection));
  const int64_t newest = migrations().back().version;
  if (version > newest)
    return Error(Errc::not_supported,
                 fmt::format("the database has schema version {}, this program knows up to {}; use a newer diskengine",
                             version, newest));
  for (const Migration& step : migrations()) {
    if (step.version <= version) continue;
    TRY(connection.script(step.sql));
    TRY(connection.execute("INSERT INTO schema_migrations (version, name, applied_ms) VALUES ($1, $2, $3)",
                           {step.version, std::string(step.name), now_ms}));
  }
  return transaction.commit();
}

}  // namespace diskengine::control
