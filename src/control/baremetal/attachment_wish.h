// How one attachment should stand in its compute node's data plane: the names of its objects and the legs of its
// mirror, derived from the database alone. The four loops of the compute node all plan from it.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "control/dataplane/views.h"
#include "control/model.h"

namespace diskengine::control {

struct LegWish {
  int64_t replica_id = 0;
  int64_t slot = 0;
  std::string nqn;
  std::string controller_name;
  std::string bdev_name;
  std::string node_name;
  std::string address;
  int64_t port = 0;
  bool admitted = false;  // its export admits this attachment's host NQN, and is fenced at the attachment's epoch
  bool in_sync = false;
  std::string replica_reason;  // why it is not admitted yet

  // "replica 12 on stor2"
  std::string describe() const;
};

struct AttachmentWish {
  int64_t id = 0;
  bool wanted = true;
  bool lost_epoch = false;  // the volume has another epoch or writer: this attachment may never write again
  int64_t volume_epoch = 0;
  int64_t volume_id = 0;
  std::string volume_name;
  std::string volume_uuid;
  bool superblock = false;
  int64_t size_bytes = 0;
  int64_t replica_bytes = 0;  // with what a superblock takes
  int64_t block_size = 512;
  int64_t epoch = 0;
  std::vector<int64_t> in_sync;
  int64_t in_sync_version = 0;
  std::string host_nqn;
  std::string raid_name;
  std::string vhost_name;
  std::vector<LegWish> legs;  // by slot
};

AttachmentWish attachment_wish(const Graph& graph, const VolumeVmMapping& attachment);

// True when the leg is fenced for this attachment, its controller can do I/O and its bdev is there.
bool leg_usable(const LegWish& leg, const ComputeView& view);
// Why it is not, for people.
std::string leg_trouble(const LegWish& leg, const ComputeView& view);
// Places in the mirror that a stand-in holds.
bool has_stand_in(const AttachmentWish& wish, const RaidView& raid);

}  // namespace diskengine::control
