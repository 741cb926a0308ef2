#include "control/baremetal/attachment_wish.h"

#include <fmt/format.h>

#include <algorithm>

#include "base/assert.h"
#include "control/naming.h"

namespace diskengine::control {

std::string LegWish::describe() const { return fmt::format("replica {} on {}", replica_id, node_name); }

AttachmentWish attachment_wish(const Graph& graph, const VolumeVmMapping& attachment) {
  const Volume* volume = graph.volume(attachment.volume_id);
  DE_ASSERT(volume != nullptr);
  AttachmentWish wish;
  wish.id = attachment.id;
  wish.wanted = attachment.wanted;
  wish.volume_id = volume->id;
  wish.volume_name = volume->name;
  wish.volume_uuid = volume->uuid;
  wish.superblock = volume->superblock;
  wish.size_bytes = volume->size_bytes;
  wish.replica_bytes = volume->replica_bytes();
  wish.block_size = volume->block_size;
  wish.epoch = attachment.epoch;
  wish.volume_epoch = volume->epoch;
  wish.lost_epoch = volume->epoch != attachment.epoch || volume->writer != attachment.id;
  wish.in_sync = volume->in_sync;
  wish.in_sync_version = volume->in_sync_version;
  wish.host_nqn = host_nqn(attachment.id, attachment.epoch);
  wish.raid_name = raid_bdev_name(volume->id);
  wish.vhost_name = vhost_controller_name(attachment.id);
  for (const VolumeLvolMapping* replica : graph.replicas_of(volume->id)) {
    LegWish leg;
    leg.replica_id = replica->id;
    leg.slot = replica->slot;
    leg.nqn = replica->nqn;
    leg.controller_name = controller_name_from_nqn(replica->nqn);
    leg.bdev_name = base_bdev_name_from_nqn(replica->nqn);
    if (const Node* node = graph.node_of(*replica)) {
      leg.node_name = node->name;
      leg.address = node->address;
      leg.port = node->port;
    }
    leg.admitted = replica->admitted_host == wish.host_nqn && replica->fenced_epoch == wish.epoch;
    leg.in_sync = std::find(volume->in_sync.begin(), volume->in_sync.end(), replica->id) != volume->in_sync.end();
    leg.replica_reason = replica->status.state == state::kReady
                             ? "its export does not admit this attachment yet"
                             : fmt::format("its export is {}: {}", replica->status.state, replica->status.reason);
    wish.legs.push_back(std::move(leg));
  }
  return wish;
}

bool leg_usable(const LegWish& leg, const ComputeView& view) {
  const ControllerView* controller = view.controller(leg.controller_name);
  return leg.admitted && controller != nullptr && controller->state == "enabled" && view.bdev(leg.bdev_name) != nullptr;
}

std::string leg_trouble(const LegWish& leg, const ComputeView& view) {
  const ControllerView* controller = view.controller(leg.controller_name);
  if (controller == nullptr && leg.admitted) return fmt::format("{} is not connected", leg.describe());
  if (!leg.admitted) return fmt::format("{}: {}", leg.describe(), leg.replica_reason);
  if (controller->state != "enabled")
    return fmt::format("{} does not answer at {}:{} (controller is {}); is its data plane running?", leg.describe(),
                       leg.address, leg.port, controller->state);
  return fmt::format("{} is connected but shows no namespace", leg.describe());
}

bool has_stand_in(const AttachmentWish& wish, const RaidView& raid) {
  return std::any_of(wish.legs.begin(), wish.legs.end(),
                     [&](const LegWish& leg) { return raid.leg(stand_in_name(wish.volume_id, leg.slot)) != nullptr; });
}

}  // namespace diskengine::control
