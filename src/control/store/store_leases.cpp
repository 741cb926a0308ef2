#include "control/store/store.h"

namespace diskengine::control {
namespace {

constexpr std::string_view kColumns = "SELECT node_id, owner, number, beat FROM node_leases";

Result<std::vector<NodeLease>> leases(SqlConnection& connection, const std::string& where,
                                      const std::vector<SqlValue>& parameters) {
  TRY_ASSIGN(const std::vector<SqlRow> rows,
             connection.query(std::string(kColumns) + where + " ORDER BY node_id", parameters));
  std::vector<NodeLease> found;
  for (const SqlRow& row : rows)
    found.push_back(
        {.node_id = row.integer(0), .owner = row.text(1), .number = row.integer(2), .beat = row.integer(3)});
  return found;
}

}  // namespace

Result<std::vector<NodeLease>> Store::node_leases() {
  const std::lock_guard lock(mutex_);
  return leases(*connection_, "", {});
}

Result<bool> Store::take_node_lease(const NodeLease& seen, const std::string& owner) {
  const std::lock_guard lock(mutex_);
  TRY_ASSIGN(SqlTransaction transaction, SqlTransaction::write(*connection_));
  TRY(
      connection_->execute("INSERT INTO node_leases (node_id, owner, number, beat) VALUES ($1, '', 0, 0) ON CONFLICT "
                           "(node_id) DO NOTHING",
                           {seen.node_id}));
  TRY_ASSIGN(const int64_t changed,
             connection_->execute("UPDATE node_leases SET owner = $1, number = number + 1, beat = 0 WHERE node_id = $2 "
                                  "AND owner = $3 AND number = $4 AND beat = $5",
                                  {owner, seen.node_id, seen.owner, seen.number, seen.beat}));
  TRY(transaction.commit());
  return changed == 1;
}

Result<std::vector<NodeLease>> Store::renew_node_leases(const std::string& owner) {
  const std::lock_guard lock(mutex_);
  TRY_ASSIGN(SqlTransaction transaction, SqlTransaction::write(*connection_));
  TRY(connection_->execute("UPDATE node_leases SET beat = beat + 1 WHERE owner = $1", {owner}));
  TRY_ASSIGN(std::vector<NodeLease> held, leases(*connection_, " WHERE owner = $1", {owner}));
  TRY(transaction.commit());
  return held;
}

Result<void> Store::give_back_node_leases(const std::string& owner) {
  const std::lock_guard lock(mutex_);
  TRY(connection_->execute("UPDATE node_leases SET owner = '' WHERE owner = $1", {owner}));
  return {};
}

}  // namespace diskengine::control
