// Registered memory for transfers whose own memory a device cannot reach: one region, cut into equal units, handed out
// in contiguous runs, so that one key and one address name a whole transfer. Who finds no run waits in line; a long one
// is not overtaken, so it cannot starve.
//
// Threads: one reactor.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <span>
#include <utility>
#include <vector>

#include "base/assert.h"
#include "base/list.h"
#include "runtime/dma_buffer.h"

namespace diskengine::fabric {

class BouncePool {
 public:
  // Waits for a run; told when some memory came back, and then asks again.
  class Waiter : public ListHook {
   public:
    virtual void on_memory_free() noexcept = 0;

   protected:
    ~Waiter() = default;
  };

  BouncePool(size_t unit_bytes, size_t units) : BouncePool(unit_bytes, DmaBuffer(unit_bytes * units)) {}
  BouncePool(size_t unit_bytes, DmaBuffer memory)
      : unit_bytes_(unit_bytes),
        memory_(std::move(memory)),
        used_(memory_.size() / unit_bytes, false),
        free_units_(used_.size()) {}

  std::span<uint8_t> memory() noexcept { return memory_.span(); }
  size_t free_units() const noexcept { return free_units_; }

  // The first run of free units that holds `bytes`, or nullptr. `waiter` lines up then, and may take nothing before
  // its turn.
  uint8_t* take(size_t bytes, Waiter& waiter) noexcept {
    const bool first = waiting_.empty() || &waiting_.front() == &waiter;
    uint8_t* const taken = first ? find(bytes) : nullptr;
    if (taken == nullptr && !waiter.linked()) waiting_.push_back(waiter);
    if (taken != nullptr && waiter.linked()) waiter.unlink();
    return taken;
  }
  void give_back(uint8_t* at, size_t bytes) noexcept {
    const size_t from = static_cast<size_t>(at - memory_.data()) / unit_bytes_;
    for (size_t i = from; i < from + units_for(bytes); ++i) {
      DE_ASSERT(used_[i]);
      used_[i] = false;
      ++free_units_;
    }
    offer();
  }

 private:
  size_t units_for(size_t bytes) const noexcept { return (bytes + unit_bytes_ - 1) / unit_bytes_; }

  uint8_t* find(size_t bytes) noexcept {
    const size_t wanted = units_for(bytes);
    if (wanted > free_units_) return nullptr;
    size_t run = 0;
    for (size_t i = 0; i < used_.size(); ++i) {
      run = used_[i] ? 0 : run + 1;
      if (run < wanted) continue;
      const size_t from = i + 1 - wanted;
      std::fill_n(used_.begin() + static_cast<std::ptrdiff_t>(from), wanted, true);
      free_units_ -= wanted;
      return memory_.data() + from * unit_bytes_;
    }
    return nullptr;
  }

  // Asks the first in line, and the next as long as each leaves.
  void offer() noexcept {
    if (offered_) return;
    offered_ = true;
    while (!waiting_.empty()) {
      Waiter& first = waiting_.front();
      first.on_memory_free();
      if (!waiting_.empty() && &waiting_.front() == &first) break;
    }
    offered_ = false;
  }

  size_t unit_bytes_;
  DmaBuffer memory_;
  std::vector<bool> used_;
  size_t free_units_;
  bool offered_ = false;
  List<Waiter> waiting_;
};

}  // namespace diskengine::fabric
