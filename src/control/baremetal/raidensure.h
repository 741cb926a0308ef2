// ensure_raid: an attached volume has its RAID1 bdev raid_<volume id> over the base bdevs of its replicas, and a volume
// that is not attached has none.
//
// Only replicas that the database calls in sync and that are fenced at the attachment's epoch are put together, and
// only while the database, asked right before, has that epoch, writer and set; the others come in by rebuild
// (run_health_iteration). An in-sync replica that stays away, or not fenced, longer than the grace leaves `in_sync` in
// the database first, by compare-and-set, and only then the mirror starts without it.
//
// A volume with superblocks is assembled under the attachment's epoch from exactly those replicas
// (diskengine_raid_assemble). One without is created; since RAID1 cannot be created so with a place free, a stand-in
// bdev holds the place for a moment and is taken out before anyone reads or writes.
//
// Where the data plane holds writes until an exclusion is on record (diskengine_raid_*), the mirror gets the
// attachment's epoch right after it exists and before the vhost controller is made; one whose epoch is over is fenced
// at once, before anything is taken apart.
//
// Runs on the thread of its node's loops.
#pragma once

#include <string>
#include <vector>

#include "base/result.h"
#include "control/baremetal/attachment_wish.h"
#include "control/loop.h"

namespace diskengine::control {

enum class RaidStep {
  none,
  exclude_missing,
  create_stand_in,
  create,
  assemble,
  remove_stand_in,
  delete_stand_in,
  set_epoch,
  fence,
  delete_raid,
};

struct RaidPlan {
  RaidStep step = RaidStep::none;
  bool online = false;            // whole enough for a vhost controller
  std::string bdev;               // the stand-in of a stand-in step
  std::vector<std::string> legs;  // of create and assemble
  std::vector<int64_t> in_sync;   // of exclude_missing: what remains
  Status status;                  // to record when no step is taken and it is not online

  bool operator==(const RaidPlan&) const = default;
};

// The mirror's writer has lost the volume to a later epoch and may not know yet.
bool must_be_fenced(const AttachmentWish& wish, const RaidView& raid);

// `waited_ms`: for how long an in-sync replica has been missing.
RaidPlan plan_raid(const AttachmentWish& wish, const ComputeView& view, int64_t waited_ms, const LoopLimits& limits);

struct RaidOutcome {
  int steps = 0;
  bool online = false;
};
Result<RaidOutcome> ensure_raid(LoopContext& context, const AttachmentWish& wish, const ComputeView& view,
                                const std::string& connection_trouble);

}  // namespace diskengine::control
