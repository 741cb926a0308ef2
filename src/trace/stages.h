// How the time of a traced I/O divides into stages. Every moment between the root's entering and leaving belongs to
// exactly one: where parts run side by side, the one that was waited for counts.
#pragma once

#include <array>
#include <cstdint>
#include <string_view>

#include "trace/trace.h"

namespace diskengine::trace {

// In the order a write meets them, down and up again.
enum class Stage : uint8_t {
  vhost_submit,    // descriptor seen, until the volume has the request
  raid_submit,     // until the leg that was waited for has it: ordering, dirty-region log, payload copy
  nvme_submit,     // until the command is with the transport: waiting for a free one
  network_target,  // until the answer is here: wire, target, and wire again
  nvmf_submit,     // at the target: command taken, until the namespace's device has the request
  lvol_submit,     // until the disk has it
  lvol_allocate,   // preparing the first write to a cluster, copying included
  disk,            // at the disk
  lvol_complete,   // from there on the way back up
  nvmf_complete,   // until the answer is with the transport
  nvme_complete,
  raid_complete,   // holding a write until an exclusion is confirmed
  vhost_complete,  // until the guest can see it in the used ring
  vhost_notify,    // until its interrupt is sent
  other,           // in devices that are none of these
};
inline constexpr size_t kStages = static_cast<size_t>(Stage::other) + 1;
std::string_view name_of(Stage stage) noexcept;

using StageTicks = std::array<uint64_t, kStages>;
// Of a trace that has ended; adds up to trace.ticks().
StageTicks stages_of(const Trace& trace) noexcept;
// The child of visit `index` that was waited for: the last to leave. 0: it has none.
size_t waited_for(const Trace& trace, size_t index) noexcept;

}  // namespace diskengine::trace
