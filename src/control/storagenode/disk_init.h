// initialise_disk: a disk of a storage node is a file, a block device, or an NVMe disk on the PCI bus under the bdev
// NvmeDisk<disk id>n1, with an lvol store whose name carries the disk's UUID. A disk that holds something is not taken
// unless it was added to be overwritten. A disk that comes back with another store, or with none, is noticed and
// never filled in the place of the one that was initialised.
//
// Runs on the thread of its node's loops.
#pragma once

#include "base/result.h"
#include "control/loop.h"
#include "control/model.h"

namespace diskengine::control {

// Bytes of a cluster of the stores made here; volume sizes are multiples of it (docs/lvol.md has the figures).
inline constexpr int64_t kClusterBytes = 1 << 20;

enum class DiskStep {
  none,
  open_bdev,        // the bdev over the file or block device
  choose_identity,  // the disk's UUID, recorded before the store that carries it exists
  create_store,
  record_capacity,
};

struct DiskPlan {
  DiskStep step = DiskStep::none;
  Status status;  // to record when no step is taken

  bool operator==(const DiskPlan&) const = default;
};

// The one next step towards a usable disk.
DiskPlan plan_disk(const Disk& disk, const TargetView& view);

// Returns the number of steps taken; the disk's state and reason are in the database afterwards.
Result<int> initialise_disk(LoopContext& context, const Disk& disk, const TargetView& view);

}  // namespace diskengine::control
