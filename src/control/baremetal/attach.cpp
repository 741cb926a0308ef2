#include "control/baremetal/attach.h"

namespace diskengine::control {

VhostStep plan_vhost(const AttachmentWish& wish, const ComputeView& view, bool raid_online) {
  const VhostView* vhost = view.vhost(wish.vhost_name);
  if (!wish.wanted) return vhost != nullptr ? VhostStep::remove : VhostStep::none;
  if (vhost == nullptr) return raid_online ? VhostStep::create : VhostStep::none;
  // A controller that lost its bdev, or stands on another one, cannot be given the right one: make it anew.
  const bool on_the_mirror = !vhost->bdev_name || *vhost->bdev_name == wish.raid_name;
  return on_the_mirror || !raid_online ? VhostStep::none : VhostStep::remove;
}

Result<int> ensure_vhost(LoopContext& context, const AttachmentWish& wish, const ComputeView& view, bool raid_online) {
  const VhostStep step = plan_vhost(wish, view, raid_online);
  if (step == VhostStep::none) return 0;
  return take_step(context, Kind::attachment, wish.id, "controller " + wish.vhost_name, [&]() -> Result<void> {
    if (step == VhostStep::remove) return context.data_plane.delete_vhost(wish.vhost_name);
    return context.data_plane.create_vhost(wish.vhost_name, wish.raid_name);
  });
}

}  // namespace diskengine::control
