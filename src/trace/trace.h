// What one I/O did on its way: a tree of visits, one for each layer that it entered, with the times of entering and
// leaving. A layer that starts an I/O asks its reactor's Recorder whether this one is traced; from then on the block
// contract notes every entering and leaving by Request::visit, and layers add what only they know.
//
// Threads: a trace belongs to the reactor that the I/O runs on. Memory comes from the Recorder's pool, which keeps the
// traces that ended until it needs them again; nothing here allocates.
#pragma once

#include <array>
#include <cstdint>
#include <string_view>

#include "base/list.h"
#include "runtime/clock.h"

namespace diskengine::trace {

class Recorder;
struct Root;
struct Trace;

// Who noted a visit.
enum class Layer : uint8_t { other, vhost, raid, nvme, nvmf, lvol, disk };
inline constexpr size_t kLayers = 7;
std::string_view name_of(Layer layer) noexcept;

// What was unusual about a visit: bits.
enum class Note : uint16_t {
  failed = 1,
  retried = 2,
  split = 4,        // went down in several parts
  held = 8,         // waited for an exclusion to be confirmed
  ordered = 16,     // waited for an overlapping write
  marked = 32,      // waited for the dirty-region log
  locked = 64,      // waited for a rebuild to leave its blocks
  queued = 128,     // waited for a free command, buffer or slot
  allocated = 256,  // a cluster was allocated for it
  copied = 512,     // a cluster's content was copied for it
};

struct Visit {
  Trace* trace = nullptr;
  Layer layer = Layer::other;
  uint8_t op = 0;      // block's Op
  uint8_t parent = 0;  // index in the trace; the root's is 0, its own
  uint16_t notes = 0;
  uint16_t queue_id = 0;  // nvme, nvmf: with the command id, what both sides know a command by
  uint16_t command_id = 0;
  // Ticks; 0: not, or not yet. All on one processor clock.
  uint64_t entered = 0;
  uint64_t left = 0;
  uint64_t sent = 0;      // nvme: the command went to the transport. vhost: the device has answered
  uint64_t answered = 0;  // nvme: the answer was taken from it. vhost: the guest can see the completion
  uint64_t waiting = 0;   // lvol: the first write to its cluster began to be prepared
  uint64_t prepared = 0;  // and the mapping was durable
  uint64_t lba = 0;
  uint64_t blocks = 0;
  std::array<char, 64> name{};  // of the device, cut to size

  // A visit below this one; nullptr once the trace is full. `parent_of` is that of a request which `this` layer sent.
  Visit* enter(std::string_view device, Layer in, uint8_t operation, uint64_t first, uint64_t count) noexcept;
  // The last thing that happens to a visit; the trace may end with it.
  void leave(bool ok) noexcept;
  void note(Note what) noexcept { notes |= static_cast<uint16_t>(what); }
  bool has(Note what) const noexcept { return (notes & static_cast<uint16_t>(what)) != 0; }
};

// Of a request's visit, which most requests have not.
inline void note(Visit* visit, Note what) noexcept {
  if (visit != nullptr) [[unlikely]]
    visit->note(what);
}

struct Trace : ListHook {
  static constexpr size_t kVisitsMax = 16;

  Recorder* recorder = nullptr;
  Root* root = nullptr;
  uint8_t count = 0;            // visits
  uint8_t open = 0;             // of them, those not left
  bool cut = false;             // there were more
  std::array<char, 96> peer{};  // nvmf: host NQN, cut to size
  std::array<Visit, kVisitsMax> visits;

  const Visit& top() const noexcept { return visits[0]; }
  uint64_t ticks() const noexcept { return visits[0].left - visits[0].entered; }
};

}  // namespace diskengine::trace
