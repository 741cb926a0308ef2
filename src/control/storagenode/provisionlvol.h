// provision_lvol: an lvol that is wanted exists in its disk's lvol store and is recorded with the UUID that names its
// bdev; one that is not wanted goes, after its export has gone. An lvol that has existed and is missing is never made
// anew: an empty one under an old name would be a replica that lies.
//
// Runs on the thread of its node's loops.
#pragma once

#include "base/result.h"
#include "control/loop.h"

namespace diskengine::control {

enum class LvolStep {
  none,
  create,
  adopt,  // made in an earlier try that ended before its UUID was recorded
  remove,
  forget,
};

struct LvolPlan {
  LvolStep step = LvolStep::none;
  Status status;  // to record when no step is taken

  bool operator==(const LvolPlan&) const = default;
};

// `bdev`: of the lvol, or nullptr. `export_gone`: nothing exports the lvol any more.
LvolPlan plan_lvol(const Lvol& lvol, const Disk& disk, const BdevView* bdev, bool export_gone);

Result<int> provision_lvol(LoopContext& context, const Graph& graph, const TargetView& view, const Lvol& lvol);

}  // namespace diskengine::control
