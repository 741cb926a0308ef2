// The control plane's state: typed reads and writes over a SQL connection. Thread-safe: one lock around one connection,
// held for one transaction and never across a call to a data plane. Several processes may share one database, and it
// may go away and come back: then every call answers `unreachable`, with since when (sql.h).
//
// Every change of an object's state is also an event, in the same transaction; every change that a person asked for is
// an operation, done once its object is ready (or gone).
#pragma once

#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "base/result.h"
#include "control/environment.h"
#include "control/model.h"
#include "control/store/sql.h"

namespace diskengine::control {

struct NewVolume {
  std::string name;
  int64_t size_bytes = 0;
  int64_t block_size = 512;
  bool superblock = false;
  std::vector<int64_t> disk_ids;  // one replica on each
};

struct NewAttachment {
  int64_t volume_id = 0;
  int64_t node_id = 0;
  int64_t expected_epoch = 0;  // the volume's epoch the caller decided on
};

struct AttachmentMove {
  int64_t attachment_id = 0;
  int64_t node_id = 0;         // where it goes
  int64_t expected_epoch = 0;  // the epoch the caller decided on
};

// A decision about in_sync. `next` may be the same set: then it only ends what others decided on before.
struct InSyncChange {
  int64_t volume_id = 0;
  int64_t epoch = 0;
  int64_t version = 0;  // the decision this one is made on
  std::vector<int64_t> expected;
  std::vector<int64_t> next;  // never empty

  bool operator==(const InSyncChange&) const = default;
};

// An operator's word that the set is lost: one replica that is not in it counts from now on, under a new epoch.
struct Recovery {
  int64_t volume_id = 0;
  int64_t epoch = 0;    // the volume's, as it was decided on
  int64_t version = 0;  // of in_sync
  int64_t replica_id = 0;
  std::string lost;  // what may be lost, for the event
};

// What a step relies on, for a last look before it is taken.
struct HeldEpoch {
  int64_t volume_id = 0;
  int64_t epoch = 0;
  int64_t writer = 0;
  std::vector<int64_t> in_sync;  // empty: any
};

struct Fence {
  int64_t replica_id = 0;
  int64_t epoch = 0;
  std::string host_nqn;
};

class Store {
 public:
  // Brings the schema up to date. `environment` outlives the store.
  static Result<std::unique_ptr<Store>> open(std::unique_ptr<SqlConnection> connection, Environment& environment);
  ~Store();

  // --- reads
  // The database's clock, with which seen_ms and left_ms are recorded.
  Result<int64_t> unix_ms();
  // Whether the database answers.
  Result<void> check();
  Result<Graph> load_graph();
  // Whether the volume still has that epoch, writer and set.
  Result<bool> is_held(const HeldEpoch& held);
  // Those that somebody has, or had.
  Result<std::vector<NodeLease>> node_leases();
  // The newest first, at most `limit`.
  Result<std::vector<Event>> events(int64_t limit);
  Result<std::vector<Operation>> operations(int64_t limit);

  // --- what people ask for
  // Adds the node, or gives the one of that name its new addresses; the role of a node never changes.
  Result<int64_t> put_node(const Node& node);
  // `overwrite`: whatever the disk holds is not needed.
  Result<int64_t> add_disk(const Disk& disk, bool overwrite = false);
  // The volume, its lvols and their mapping in one transaction; all replicas start in sync (they are empty).
  Result<int64_t> create_volume(const NewVolume& volume);
  // Compare-and-set of the volume's (epoch, writer); `conflict` when the epoch moved or it is attached.
  Result<int64_t> create_attachment(const NewAttachment& attachment);
  // Gives the attachment to another node under the next epoch, whether its node answers or not: what it had there is
  // fenced and taken apart when that can be reached. `conflict` when the epoch moved.
  Result<void> move_attachment(const AttachmentMove& move);
  // The loops take the object apart; the row goes when nothing of it is left. Asking twice is no error.
  Result<void> request_delete_volume(int64_t volume_id);
  Result<void> request_delete_attachment(int64_t attachment_id);

  // --- what the loops found. Rows that are gone meanwhile are no error.
  // True if it differed from what was recorded. A reason alone that changes (progress) makes no event.
  Result<bool> set_status(Kind kind, int64_t id, const Status& status);
  // Now.
  Result<void> set_node_seen(int64_t node_id);
  Result<void> set_node_abilities(const Node& node);
  Result<void> set_disk_identity(int64_t disk_id, const std::string& uuid, int64_t capacity_bytes);
  // The lvol exists, under this UUID.
  Result<void> set_provisioned(int64_t lvol_id, const std::string& uuid);
  // The replica's export admits nobody that it is known of.
  Result<void> set_not_admitted(int64_t replica_id);
  // The replica's export admits exactly that host, and nothing of another one is under way there. False, and nothing
  // changed, when the volume has another epoch by now or the replica was fenced for a later one.
  Result<bool> set_fenced(const Fence& fence);
  Result<void> set_rebuild_percent(int64_t attachment_id, int64_t percent);
  // Compare-and-set of the lease that was seen (owner empty and zeroes: none yet) to a new number for `owner`; false
  // when it is no longer that one.
  Result<bool> take_node_lease(const NodeLease& seen, const std::string& owner);
  // Counts on in every lease of `owner`, and returns them: what is missing was lost.
  Result<std::vector<NodeLease>> renew_node_leases(const std::string& owner);
  Result<void> give_back_node_leases(const std::string& owner);
  // Compare-and-set, with an event; false when epoch, version or set was no longer the expected one. True means
  // durable. After an error nothing may be assumed: read the volume again and decide from that.
  Result<bool> change_in_sync(const InSyncChange& change);
  // Compare-and-set: epoch + 1, also of the volume's attachment, and in_sync holds the one replica alone. `conflict`
  // when the volume has changed since.
  Result<void> recover_volume(const Recovery& recovery);
  // The attachment's row, and the volume's writer if it was this one.
  Result<void> remove_attachment(int64_t attachment_id);
  // The lvol's row, its mapping, and the volume's row after its last replica.
  Result<void> remove_lvol(int64_t lvol_id);

 private:
  Store(std::unique_ptr<SqlConnection> connection, Environment& environment);

  Result<int64_t> next_id(std::string_view table);
  Result<void> add_event(Kind kind, int64_t id, const std::string& object_name, const Status& status);
  Result<void> add_operation(std::string_view what, Kind kind, int64_t id, const std::string& object_name);
  Result<void> finish_operations(Kind kind, int64_t id);
  Result<std::string> object_name(Kind kind, int64_t id);
  Result<void> add_replica(const NewVolume& volume, int64_t volume_id, size_t slot, int64_t* replica_id);
  Result<void> remove_volume_if_empty(int64_t volume_id);
  Result<void> note_who_left(const InSyncChange& change);

  std::mutex mutex_;
  std::unique_ptr<SqlConnection> connection_;
  Environment& environment_;
};

}  // namespace diskengine::control
