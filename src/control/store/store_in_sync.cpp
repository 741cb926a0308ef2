// Who holds a volume's current data: every change of `in_sync` is here.
#include <fmt/format.h>

#include <algorithm>

#include "base/assert.h"
#include "control/store/rows.h"
#include "control/store/store.h"

namespace diskengine::control {
namespace {

// The states of events that tell of it.
constexpr std::string_view kInSyncEvent = "in_sync";
constexpr std::string_view kRecoveredEvent = "recovered";

}  // namespace

Result<void> Store::note_who_left(const InSyncChange& change) {
  const auto holds = [](const std::vector<int64_t>& set, int64_t id) {
    return std::find(set.begin(), set.end(), id) != set.end();
  };
  TRY_ASSIGN(const int64_t now_ms, connection_->unix_ms());
  for (const int64_t id : change.expected)
    if (!holds(change.next, id))
      TRY(connection_->execute("UPDATE volume_lvol_mapping SET left_ms = $1 WHERE id = $2", {now_ms, id}));
  for (const int64_t id : change.next)
    if (!holds(change.expected, id))
      TRY(connection_->execute("UPDATE volume_lvol_mapping SET left_ms = 0 WHERE id = $1", {id}));
  return {};
}

Result<bool> Store::change_in_sync(const InSyncChange& change) {
  DE_ASSERT(!change.next.empty());
  const std::lock_guard lock(mutex_);
  TRY_ASSIGN(SqlTransaction transaction, SqlTransaction::write(*connection_));
  TRY_ASSIGN(const int64_t changed,
             connection_->execute(
                 "UPDATE volumes SET in_sync = $1, in_sync_version = in_sync_version + 1 WHERE id = $2 AND epoch = $3 "
                 "AND in_sync = $4 AND in_sync_version = $5",
                 {text_from_ids(change.next), change.volume_id, change.epoch, text_from_ids(change.expected),
                  change.version}));
  if (changed == 0) return false;
  TRY(note_who_left(change));
  if (change.next != change.expected) {
    TRY_ASSIGN(const std::string name, object_name(Kind::volume, change.volume_id));
    TRY(add_event(Kind::volume, change.volume_id, name,
                  {std::string(kInSyncEvent),
                   fmt::format("replicas {} instead of {} hold the current data, epoch {}", text_from_ids(change.next),
                               text_from_ids(change.expected), change.epoch)}));
  }
  TRY(transaction.commit());
  return true;
}

Result<void> Store::recover_volume(const Recovery& recovery) {
  const std::lock_guard lock(mutex_);
  TRY_ASSIGN(SqlTransaction transaction, SqlTransaction::write(*connection_));
  TRY_ASSIGN(const std::string name, object_name(Kind::volume, recovery.volume_id));
  TRY_ASSIGN(const std::vector<SqlRow> before,
             connection_->query("SELECT in_sync FROM volumes WHERE id = $1", {recovery.volume_id}));
  TRY_ASSIGN(const int64_t changed,
             connection_->execute(
                 "UPDATE volumes SET epoch = epoch + 1, in_sync = $1, in_sync_version = "
                 "in_sync_version + 1 WHERE id = $2 AND epoch = $3 AND in_sync_version = $4 AND "
                 "wanted = 1",
                 {text_from_ids({recovery.replica_id}), recovery.volume_id, recovery.epoch, recovery.version}));
  if (changed == 0)
    return Error(Errc::conflict,
                 fmt::format("volume {} has changed meanwhile; look at `diskengine volume show {}`, and "
                             "decide anew",
                             name, name));
  TRY(connection_->execute("UPDATE volume_vm_mapping SET epoch = $1 WHERE volume_id = $2 AND epoch = $3",
                           {recovery.epoch + 1, recovery.volume_id, recovery.epoch}));
  const InSyncChange change{.volume_id = recovery.volume_id,
                            .epoch = recovery.epoch,
                            .version = recovery.version,
                            .expected = ids_from_text(before.at(0).text(0)),
                            .next = {recovery.replica_id}};
  TRY(note_who_left(change));
  TRY(add_event(Kind::volume, recovery.volume_id, name, {std::string(kRecoveredEvent), recovery.lost}));
  TRY(add_operation("volume recover", Kind::volume, recovery.volume_id, name));
  return transaction.commit();
}

}  // namespace diskengine::control
