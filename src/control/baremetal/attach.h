// ensure_vhost: an attachment whose mirror is online has its vhost-user-blk controller vhost<mapping id> on it, and one
// that is being deleted has none.
//
// Runs on the thread of its node's loops.
#pragma once

#include "base/result.h"
#include "control/baremetal/attachment_wish.h"
#include "control/loop.h"

namespace diskengine::control {

enum class VhostStep { none, create, remove };

// `raid_online`: the mirror may be written to.
VhostStep plan_vhost(const AttachmentWish& wish, const ComputeView& view, bool raid_online);

Result<int> ensure_vhost(LoopContext& context, const AttachmentWish& wish, const ComputeView& view, bool raid_online);

}  // namespace diskengine::control
