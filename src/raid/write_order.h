// One order for writes of different channels that overlap: each takes the granules it covers before it is sent and
// gives them back when it is over. A granule belongs to one channel at a time, which may take it several times (its own
// writes it keeps in order by itself). Granules of a large device share the table; who meets a stranger there waits.
//
// A write takes its granules in ascending order and keeps what it has while it waits for the next, so no two writes
// wait for each other. A granule that somebody waits for is not taken anew by the channel that has it, so it comes
// free.
//
// Any thread, without locks. Owner: the board.
#pragma once

#include <array>
#include <atomic>
#include <cstdint>

#include "base/assert.h"

namespace diskengine::raid {

class WriteOrder {
 public:
  static constexpr uint64_t kGranuleBytes = 8192;
  static constexpr uint64_t kSlots = 8192;
  static constexpr uint32_t kChannelMax = 0x7fff;  // channels are numbered from 1

  // How many slots a write takes, and which is its n-th.
  static uint64_t slots_of(uint64_t first_granule, uint64_t last_granule) noexcept {
    return last_granule - first_granule >= kSlots ? kSlots : last_granule - first_granule + 1;
  }
  static uint64_t slot_of(uint64_t first_granule, uint64_t count, uint64_t n) noexcept {
    if (count == kSlots) return n;
    const uint64_t begin = first_granule % kSlots;
    const uint64_t wrapped = begin + count > kSlots ? begin + count - kSlots : 0;  // they come first
    return n < wrapped ? n : begin + n - wrapped;
  }

  // False: another channel has it. The giver is then told by give() that somebody waits.
  bool take(uint64_t slot, uint32_t channel) noexcept {
    std::atomic<uint32_t>& word = words_[slot];
    uint32_t value = word.load(std::memory_order_relaxed);
    for (;;) {
      const bool mine = value == 0 || ((value & kWanted) == 0 && value >> kOwnerShift == channel);
      const uint32_t next = !mine ? value | kWanted : value == 0 ? (channel << kOwnerShift) + 1 : value + 1;
      if (word.compare_exchange_weak(value, next, std::memory_order_acq_rel, std::memory_order_relaxed)) return mine;
    }
  }
  // True: it is free now, and somebody waits.
  bool give(uint64_t slot) noexcept {
    std::atomic<uint32_t>& word = words_[slot];
    uint32_t value = word.load(std::memory_order_relaxed);
    for (;;) {
      DE_ASSERT((value & kCount) > 0);
      const uint32_t next = (value & kCount) == 1 ? 0 : value - 1;
      if (word.compare_exchange_weak(value, next, std::memory_order_acq_rel, std::memory_order_relaxed))
        return next == 0 && (value & kWanted) != 0;
    }
  }

 private:
  static constexpr uint32_t kWanted = 0x80000000;
  static constexpr uint32_t kCount = 0xffff;
  static constexpr unsigned kOwnerShift = 16;

  std::array<std::atomic<uint32_t>, kSlots> words_{};
};

}  // namespace diskengine::raid
