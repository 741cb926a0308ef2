// initialise_disk: makes a disk ready to hold lvols. A disk of kind `dir` is a directory of the storage node; a marker
// file in it carries the disk's UUID, so that a directory which is not the one that was initialised (a file system that
// is not mounted, a disk that was swapped) is noticed and never filled in its place.
//
// Runs on the thread of its node's loops, on the machine that has the directory.
#pragma once

#include "base/result.h"
#include "control/loop.h"
#include "control/model.h"

namespace diskengine::control {

inline constexpr std::string_view kDiskMarkerFile = "diskengine-disk";

// Returns the number of steps taken; the disk's state and reason are in the database afterwards.
Result<int> initialise_disk(LoopContext& context, const Disk& disk);

}  // namespace diskengine::control
