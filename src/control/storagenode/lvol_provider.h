// The seam under provision_lvol: how an lvol comes to be on a disk. Files in a directory now; lvol stores on
// NvmeDisk<disk id> take their place later without a change to the loops. The bdev of an lvol is named by its UUID.
//
// Runs on the thread of its node's loops.
#pragma once

#include <memory>
#include <string>

#include "base/result.h"
#include "control/dataplane/data_plane.h"
#include "control/model.h"

namespace diskengine::control {

enum class LvolPresence {
  absent,   // no data anywhere
  partial,  // creation was cut short; create() finishes it
  stored,   // the data is on the disk, the data plane has no bdev for it
  online,   // there is a bdev
};

class LvolProvider {
 public:
  virtual ~LvolProvider() = default;
  virtual Result<LvolPresence> observe(const Disk& disk, const Lvol& lvol, const TargetView& view) = 0;
  // absent or partial -> stored. All zeros.
  virtual Result<void> create(const Disk& disk, const Lvol& lvol) = 0;
  // stored -> online.
  virtual Result<void> open(const Disk& disk, const Lvol& lvol) = 0;
  // online -> stored.
  virtual Result<void> close(const Disk& disk, const Lvol& lvol, const TargetView& view) = 0;
  // stored or partial -> absent. The data is gone.
  virtual Result<void> remove(const Disk& disk, const Lvol& lvol) = 0;
};

// A sparse file named by the lvol's UUID in the disk's directory. `data_plane` outlives the provider.
std::unique_ptr<LvolProvider> make_file_lvol_provider(DataPlane& data_plane);
std::string lvol_file_path(const Disk& disk, const Lvol& lvol);

}  // namespace diskengine::control
