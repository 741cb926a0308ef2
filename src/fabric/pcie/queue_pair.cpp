#include "fabric/pcie/queue_pair.h"

#include <atomic>
#include <cstring>

#include "base/assert.h"
#include "base/checked.h"

namespace diskengine::fabric::pcie {
namespace {

size_t sq_bytes(uint32_t entries) noexcept { return round_up(entries * sizeof(spec::Sqe), DmaBuffer::kAlignment); }
size_t cq_bytes(uint32_t entries) noexcept { return round_up(entries * sizeof(spec::Cqe), DmaBuffer::kAlignment); }

}  // namespace

size_t QueuePair::bytes_for(uint32_t entries) noexcept { return sq_bytes(entries) + cq_bytes(entries); }

QueuePair::QueuePair(PciDevice& device, uint16_t id, uint32_t entries, uint32_t stride, uint8_t* memory) noexcept
    : device_(device),
      id_(id),
      entries_(entries),
      sq_doorbell_(spec::sq_doorbell(id, stride)),
      cq_doorbell_(spec::cq_doorbell(id, stride)),
      sq_(memory),
      cq_(memory + sq_bytes(entries)) {
  DE_ASSERT(entries >= 2 && entries <= spec::kPcieQueueEntriesMax);
  DE_ASSERT(cq_doorbell_ + sizeof(uint32_t) <= device.register_bytes());
}

void QueuePair::restart() noexcept {
  std::memset(sq_, 0, bytes_for(entries_));
  tail_ = told_tail_ = head_ = told_head_ = 0;
  phase_ = spec::kCqePhase;
}

void QueuePair::push(const spec::Sqe& sqe) noexcept {
  std::memcpy(sq_ + tail_ * sizeof sqe, &sqe, sizeof sqe);
  tail_ = tail_ + 1 == entries_ ? 0 : tail_ + 1;
  DE_ASSERT(tail_ != told_tail_);
}

void QueuePair::ring_submissions() noexcept {
  if (tail_ == told_tail_) return;
  ring(sq_doorbell_, shadow_.sq, shadow_.sq_event, static_cast<uint16_t>(told_tail_), static_cast<uint16_t>(tail_));
  told_tail_ = tail_;
}

void QueuePair::ring_completions() noexcept {
  if (head_ == told_head_) return;
  ring(cq_doorbell_, shadow_.cq, shadow_.cq_event, static_cast<uint16_t>(told_head_), static_cast<uint16_t>(head_));
  told_head_ = head_;
}

void QueuePair::ring(uint32_t doorbell, uint32_t* shadow, const uint32_t* event, uint16_t before,
                     uint16_t after) noexcept {
  if (shadow != nullptr) {
    // The controller sets the event index and then looks at the shadow; here it is the other way round, so that one of
    // the two sees what the other did.
    std::atomic_thread_fence(std::memory_order_release);
    __atomic_store_n(shadow, after, __ATOMIC_RELAXED);
    std::atomic_thread_fence(std::memory_order_seq_cst);
    const uint32_t wanted = __atomic_load_n(event, __ATOMIC_RELAXED);
    if (!spec::doorbell_wanted(static_cast<uint16_t>(wanted), before, after)) return;
  }
  ++doorbells_;
  device_.write32(doorbell, after);
}

// The phase is in the last bytes of an entry, which the controller writes last.
bool QueuePair::pending() const noexcept {
  const auto* const entry = reinterpret_cast<const spec::Cqe*>(cq_) + head_;
  return (__atomic_load_n(&entry->status, __ATOMIC_ACQUIRE) & spec::kCqePhase) == phase_;
}

bool QueuePair::pop(spec::Cqe* cqe) noexcept {
  if (!pending()) return false;
  std::memcpy(cqe, cq_ + head_ * sizeof *cqe, sizeof *cqe);
  if (++head_ == entries_) {
    head_ = 0;
    phase_ ^= spec::kCqePhase;
  }
  return true;
}

}  // namespace diskengine::fabric::pcie
