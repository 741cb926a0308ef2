// The in-flight buffer of one queue: memory that the front end keeps for us while we die. It says which heads we took
// from the available ring and have not returned, so that the next back end on the same ring replays exactly those.
//
// Each step is written so that a kill between any two instructions leaves a state that recover() understands: a head is
// marked before it is worked on; a batch is linked before the used index moves, and unmarked after. The buffer is
// shared with the front end, so whatever is read from it is checked.
//
// One reactor's thread at a time; the mapping is kept alive by the owner.
#pragma once

#include <cstdint>
#include <vector>

#include "format/virtio_ring.h"

namespace diskengine::vhost {

class Inflight {
 public:
  Inflight() = default;
  // `part` is this queue's spec::inflight_queue_bytes(size) of the buffer, 8-byte aligned.
  Inflight(uint8_t* part, uint16_t size) noexcept
      : queue_(reinterpret_cast<spec::InflightQueue*>(part)),
        desc_(reinterpret_cast<spec::InflightDesc*>(part + sizeof(spec::InflightQueue))),
        size_(size) {}

  explicit operator bool() const noexcept { return queue_ != nullptr; }

  // Once before the queue starts: finishes a batch that was cut off, given the used ring's index, and returns the heads
  // to replay in the order in which they were taken. A buffer never used before is initialised.
  std::vector<uint16_t> recover(uint16_t used_index);

  // Before a head is worked on.
  void take(uint16_t head) noexcept {
    __atomic_store_n(&desc_[head].counter, ++counter_, __ATOMIC_RELAXED);
    __atomic_store_n(&desc_[head].inflight, uint8_t{1}, __ATOMIC_RELEASE);
  }
  // For each head of a batch, before the used index moves.
  void link(uint16_t head) noexcept {
    __atomic_store_n(&desc_[head].next, __atomic_load_n(&queue_->last_batch_head, __ATOMIC_RELAXED), __ATOMIC_RELAXED);
    __atomic_store_n(&queue_->last_batch_head, head, __ATOMIC_RELEASE);
  }
  // For each head of the batch, after the used index moved.
  void release(uint16_t head) noexcept { __atomic_store_n(&desc_[head].inflight, uint8_t{0}, __ATOMIC_RELEASE); }
  // After the whole batch was released.
  void settle(uint16_t used_index) noexcept { __atomic_store_n(&queue_->used_idx, used_index, __ATOMIC_RELEASE); }

 private:
  spec::InflightQueue* queue_ = nullptr;
  spec::InflightDesc* desc_ = nullptr;
  uint16_t size_ = 0;
  uint64_t counter_ = 0;
};

}  // namespace diskengine::vhost
