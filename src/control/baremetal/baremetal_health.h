// run_health_iteration: watches the mirror of each attachment. It records in the database which replicas are in sync,
// brings a replica that left the mirror back in once it is reachable (a full rebuild), and says how the attachment is:
// ready, degraded, or rebuilding with its progress.
//
// Of a data plane that holds no writes, `in_sync` follows the mirror: it is recorded after a leg has left, within one
// tick. Otherwise a leg leaves by exclusions.h, and what is recorded here is that one has come back.
//
// Runs on the thread of its node's loops.
#pragma once

#include <string>
#include <vector>

#include "base/result.h"
#include "control/baremetal/attachment_wish.h"
#include "control/loop.h"

namespace diskengine::control {

enum class HealthStep { none, record_in_sync, add_leg };

struct HealthPlan {
  HealthStep step = HealthStep::none;
  std::vector<int64_t> in_sync;  // of record_in_sync
  std::string bdev;              // of add_leg
  Status status;                 // how the attachment is
  int64_t rebuild_percent = -1;

  bool operator==(const HealthPlan&) const = default;
};

HealthPlan plan_health(const AttachmentWish& wish, const ComputeView& view, const RaidView& raid);

// For an attachment whose mirror is online and which has its vhost controller.
Result<int> run_health_iteration(LoopContext& context, const AttachmentWish& wish, const ComputeView& view,
                                 int64_t recorded_percent);

}  // namespace diskengine::control
