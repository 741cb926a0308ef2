// Whether a volume can be put together from the legs that somebody else has on record as in sync
// (RaidManager::assemble), and by which superblock. A pure decision: reading the legs and acting is the manager's.
//
// Any thread.
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "raid/control_io.h"

namespace diskengine::raid {

struct AssembleOptions {
  std::string name;                     // 1 to 63 bytes
  Uuid uuid;                            // nil: that of the superblocks, or a random one
  uint64_t epoch = 0;                   // of the writer that asks; above 0
  bool confirm_exclusions = true;       // as Volume::set_epoch
  std::vector<std::string> base_bdevs;  // the legs on record as in sync
  unsigned slots = 0;                   // 0: as the superblocks say, or one for each base device
  bool create = true;                   // blank legs make a new volume
};

// While a new volume's superblocks have this number it was never online: a leg may still be blank.
inline constexpr uint64_t kSequenceOfCreation = 1;

// A device that was named, and what was found on it.
struct NamedLeg {
  std::shared_ptr<Device> device;
  LegContents contents;
  bool blank = false;  // it has no superblock, and nobody's data begin in its room
};

struct AssemblyPlan {
  Uuid uuid;  // nil: a random one
  unsigned slots = 0;
  std::optional<spec::RaidSuperblock> superblock;  // the newest; none: the volume is new
  uint64_t sequence = 0;                           // the highest that any of them has
  std::vector<NamedLeg> legs;
};

// Errc::conflict: a leg knows a later epoch, or is not in sync; already_exists: a leg of another volume, or somebody
// else's data; invalid_argument: sizes or numbers that do not fit; not_found: all blank, and nothing is to be created.
Result<AssemblyPlan> plan_assembly(const AssembleOptions& options, std::vector<NamedLeg> legs);

}  // namespace diskengine::raid
