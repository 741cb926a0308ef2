// The rows of the control plane's database as plain values, and the whole graph of them as a loop sees it. Values: any
// thread may hold its own copy; nothing here talks to a database or a data plane.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace diskengine::control {

// The tables whose rows carry `state` and `reason`.
enum class Kind { node, disk, volume, lvol, replica, attachment };
std::string_view name_of(Kind kind) noexcept;   // what people read: "replica"
std::string_view table_of(Kind kind) noexcept;  // the table: "volume_lvol_mapping"

// What an object is doing, and in every state other than ready a reason that a person can act on.
struct Status {
  std::string state;
  std::string reason;

  bool operator==(const Status&) const = default;
};

namespace state {
inline constexpr std::string_view kNew = "new";                // recorded, no loop has looked at it yet
inline constexpr std::string_view kWaiting = "waiting";        // needs another object first; the reason names it
inline constexpr std::string_view kWorking = "working";        // steps are under way
inline constexpr std::string_view kReady = "ready";            // as wished
inline constexpr std::string_view kDegraded = "degraded";      // works with fewer copies than wished
inline constexpr std::string_view kRebuilding = "rebuilding";  // works, a copy is being filled
inline constexpr std::string_view kDown = "down";              // does not work; will when what the reason names returns
inline constexpr std::string_view kFailed = "failed";          // needs a person
inline constexpr std::string_view kDeleting = "deleting";      // on its way out
inline constexpr std::string_view kWithdrawn = "withdrawn";    // a replica's export is gone, its lvol may go now
}  // namespace state

inline constexpr std::string_view kRoleStorage = "storagenode";
inline constexpr std::string_view kRoleCompute = "baremetal";

struct Node {
  int64_t id = 0;
  std::string name;
  std::string role;        // kRoleStorage or kRoleCompute
  std::string rpc_socket;  // of the data plane this node's loops drive
  std::string address;     // storage node: where its NVMe/TCP exports listen
  int64_t port = 0;
  std::string vhost_dir;  // compute node: the data plane's socket directory (-S)
  Status status;
  int64_t seen_ms = 0;        // unix time, by the database, that the data plane last answered
  bool holds_writes = false;  // compute node: its data plane holds writes until an exclusion is on record
  std::string served_by;      // identity of the process whose loops serve it; empty: none
  bool assembles = false;     // compute node: its data plane puts mirrors with superblocks together as it is told
};

struct Disk {
  int64_t id = 0;
  int64_t node_id = 0;
  std::string path;  // of a file or block device on that node
  std::string uuid;  // in the name of its lvol store; empty until initialise_disk has chosen it
  int64_t block_size = 512;
  int64_t capacity_bytes = 0;  // of its lvol store; 0 until that exists
  Status status;
};

// What a superblock and the log beside it take at the front of every replica: fixed by SPDK's format.
inline constexpr int64_t kSuperblockRoomBytes = 1 << 20;

struct Volume {
  int64_t id = 0;
  std::string name;
  std::string uuid;         // of its mirror, in the superblocks; empty: it was made by an older program
  bool superblock = false;  // its replicas have superblocks: only data planes that assemble can use it
  int64_t size_bytes = 0;
  int64_t block_size = 512;
  int64_t epoch = 0;             // counts attachments: each gets the next one
  int64_t writer = 0;            // volume_vm_mapping id of the attachment that may write, or 0
  std::vector<int64_t> in_sync;  // volume_lvol_mapping ids whose data is current
  int64_t in_sync_version = 0;   // counts the decisions about in_sync; each is made on the one before
  bool wanted = true;            // false: to be deleted
  Status status;

  int64_t replica_bytes() const { return size_bytes + (superblock ? kSuperblockRoomBytes : 0); }
};

struct Lvol {
  int64_t id = 0;
  std::string uuid;  // the data plane's choice; empty until it is made
  int64_t disk_id = 0;
  int64_t size_bytes = 0;
  int64_t block_size = 512;
  bool provisioned = false;  // has existed once: never made anew, an empty one would lose data
  bool wanted = true;
  Status status;
};

// One replica of a volume: which lvol, under which NQN.
struct VolumeLvolMapping {
  int64_t id = 0;
  int64_t volume_id = 0;
  int64_t lvol_id = 0;
  int64_t slot = 0;
  std::string nqn;
  std::string admitted_host;  // host NQN that the export is known to admit; empty: none
  int64_t left_ms = 0;        // unix time it left in_sync; 0: it is in it, or nobody knows
  int64_t fenced_epoch = 0;   // the last epoch at which no other host had anything under way; never goes back
  Status status;
};

// One attachment of a volume to a VM on a compute node.
struct VolumeVmMapping {
  int64_t id = 0;
  int64_t volume_id = 0;
  int64_t node_id = 0;
  int64_t epoch = 0;
  std::string socket_path;
  int64_t rebuild_percent = -1;  // -1: no rebuild runs
  bool wanted = true;
  Status status;
};

// The right to run a node's loops. It counts, and holds no time: whoever wants it watches whether it goes on counting.
struct NodeLease {
  int64_t node_id = 0;
  std::string owner;   // identity of a process; empty: given back
  int64_t number = 0;  // of the lease, higher with each owner
  int64_t beat = 0;    // how often it was renewed

  bool operator==(const NodeLease&) const = default;
};

struct Event {
  int64_t id = 0;
  int64_t time_ms = 0;
  std::string object_kind;
  int64_t object_id = 0;
  std::string object_name;
  std::string state;
  std::string reason;
};

struct Operation {
  int64_t id = 0;
  std::string kind;  // "volume create", ...
  std::string object_kind;
  int64_t object_id = 0;
  std::string object_name;
  std::string state;  // running, done
  int64_t started_ms = 0;
  int64_t finished_ms = 0;
};

// A consistent copy of everything the loops decide from. Look-ups return nullptr for an id that is not there.
struct Graph {
  std::vector<Node> nodes;
  std::vector<Disk> disks;
  std::vector<Volume> volumes;
  std::vector<Lvol> lvols;
  std::vector<VolumeLvolMapping> replicas;  // by volume, then slot
  std::vector<VolumeVmMapping> attachments;

  const Node* node(int64_t id) const;
  const Node* node_named(std::string_view name) const;
  const Disk* disk(int64_t id) const;
  const Volume* volume(int64_t id) const;
  // By name, or by id when the text is a number and no name matches.
  const Volume* volume_named(std::string_view name_or_id) const;
  const Lvol* lvol(int64_t id) const;
  const VolumeLvolMapping* replica(int64_t id) const;
  const VolumeVmMapping* attachment(int64_t id) const;
  const VolumeVmMapping* attachment_of(int64_t volume_id) const;
  std::vector<const VolumeLvolMapping*> replicas_of(int64_t volume_id) const;
  // The storage node that holds a replica, or nullptr.
  const Node* node_of(const VolumeLvolMapping& replica) const;
  // Bytes of `disk` that its lvols may grow to.
  int64_t promised_bytes(int64_t disk_id) const;
};

}  // namespace diskengine::control
