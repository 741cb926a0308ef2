// The commands that a host queue has in flight, by command id. An id is the place of a command's slot and, above it, a
// generation that goes on with each use of the slot, so that a stale or invented id names nothing.
//
// Threads: one reactor. Owner: the queue. `Slot` derives from CommandSlot and has what the transport keeps of a
// command.
#pragma once

#include <bit>
#include <cstdint>
#include <vector>

#include "base/assert.h"
#include "fabric/host.h"

namespace diskengine::fabric {

struct CommandSlot : ListHook {
  HostCommand* command = nullptr;
  uint16_t generation = 0;
};

template <typename Slot>
class CommandSlots {
 public:
  CommandSlots() = default;
  // For so many commands, at most kQueueDepthMax. All slots are free.
  explicit CommandSlots(uint32_t depth) : bits_(static_cast<unsigned>(std::bit_width(depth - 1))), slots_(depth) {
    DE_ASSERT(depth > 0 && depth <= kQueueDepthMax);
    free_.reserve(depth);
    for (uint32_t i = depth; i > 0; --i) free_.push_back(static_cast<uint16_t>(i - 1));
  }

  // A free slot for `command`, which gets its id. The slot used last comes first: it is warm.
  Slot& take(HostCommand& command) noexcept {
    DE_ASSERT(!free_.empty());
    Slot& slot = slots_[free_.back()];
    free_.pop_back();
    // Ids of one slot differ for as long as there are numbers; ffffh is not to be used.
    slot.generation = static_cast<uint16_t>((slot.generation + 1u) % ((1u << (16 - bits_)) - 1));
    slot.command = &command;
    command.sqe.cid = static_cast<uint16_t>(unsigned{slot.generation} << bits_ | index_of(slot));
    return slot;
  }
  void give_back(Slot& slot) noexcept {
    slot.command = nullptr;
    if (slot.linked()) slot.unlink();
    free_.push_back(static_cast<uint16_t>(index_of(slot)));
  }
  // The command in flight that `cid` names, or nullptr.
  Slot* find(uint16_t cid) noexcept {
    const unsigned index = cid & ((1u << bits_) - 1);
    if (index >= slots_.size()) return nullptr;
    Slot& slot = slots_[index];
    return slot.command != nullptr && slot.generation == cid >> bits_ ? &slot : nullptr;
  }

  uint32_t in_flight() const noexcept { return static_cast<uint32_t>(slots_.size() - free_.size()); }
  uint32_t index_of(const Slot& slot) const noexcept { return static_cast<uint32_t>(&slot - slots_.data()); }
  Slot& operator[](uint32_t index) noexcept {
    DE_ASSERT(index < slots_.size());
    return slots_[index];
  }
  // `visit(slot)` for each that is taken; it may give the slot back.
  template <typename Visit>
  void for_each_in_flight(Visit visit) {
    for (Slot& slot : slots_)
      if (slot.command != nullptr) visit(slot);
  }

 private:
  unsigned bits_ = 0;
  std::vector<Slot> slots_;
  std::vector<uint16_t> free_;
};

}  // namespace diskengine::fabric
