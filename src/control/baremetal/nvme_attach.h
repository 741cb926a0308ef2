// reconcile_nvme_connections: the compute node's data plane holds one NVMe/TCP controller per replica of each volume
// attached there, connected as the attachment's host NQN, and none for a volume that is not.
//
// Runs on the thread of its node's loops.
#pragma once

#include <string>

#include "base/result.h"
#include "control/baremetal/attachment_wish.h"
#include "control/loop.h"

namespace diskengine::control {

enum class ConnectionStep { none, attach, detach };

struct ConnectionPlan {
  ConnectionStep step = ConnectionStep::none;
  std::string reason;  // why no step is taken although something is amiss

  bool operator==(const ConnectionPlan&) const = default;
};

ConnectionPlan plan_connection(const AttachmentWish& wish, const LegWish& leg, const ComputeView& view);

// One step for each leg of the attachment. A leg that cannot be connected is no error here: ensure_raid and
// run_health_iteration decide what it means. `last_trouble` gets the last failure, for their reasons.
Result<int> reconcile_nvme_connections(LoopContext& context, const AttachmentWish& wish, const ComputeView& view,
                                       std::string* last_trouble);

}  // namespace diskengine::control
