// One submission queue and one completion queue in memory that the controller reaches, and their doorbells.
//
//   Input object: spec::Sqe. Output object: spec::Cqe, as the controller wrote it.
//
// Threads: its reactor. The device and the memory outlive it.
#pragma once

#include <cstdint>

#include "fabric/pcie/pci_device.h"
#include "format/nvme_pcie.h"

namespace diskengine::fabric::pcie {

// Where a queue's shadow doorbells and event indices are; all null: it has none.
struct ShadowDoorbells {
  uint32_t* sq = nullptr;
  uint32_t* cq = nullptr;
  const uint32_t* sq_event = nullptr;
  const uint32_t* cq_event = nullptr;
};

class QueuePair {
 public:
  // Of memory, for queues of `entries` each; both begin at a page.
  static size_t bytes_for(uint32_t entries) noexcept;

  QueuePair(PciDevice& device, uint16_t id, uint32_t entries, uint32_t stride, uint8_t* memory) noexcept;

  uint16_t id() const noexcept { return id_; }
  uint32_t entries() const noexcept { return entries_; }
  const uint8_t* sq_memory() const noexcept { return sq_; }
  const uint8_t* cq_memory() const noexcept { return cq_; }

  // Empty, as the controller expects them when it is told of them.
  void restart() noexcept;
  void use_shadow(const ShadowDoorbells& shadow) noexcept { shadow_ = shadow; }

  // The caller keeps at most entries - 1 commands in flight.
  void push(const spec::Sqe& sqe) noexcept;
  // Tells the controller of what was pushed: one doorbell for all of it, or none where it looks by itself.
  void ring_submissions() noexcept;
  bool pending() const noexcept;
  // Takes the next completion; false if there is none.
  bool pop(spec::Cqe* cqe) noexcept;
  // Tells the controller of the room that was taken out.
  void ring_completions() noexcept;
  uint64_t doorbells() const noexcept { return doorbells_; }

 private:
  void ring(uint32_t doorbell, uint32_t* shadow, const uint32_t* event, uint16_t before, uint16_t after) noexcept;

  PciDevice& device_;
  const uint16_t id_;
  const uint32_t entries_;
  const uint32_t sq_doorbell_;
  const uint32_t cq_doorbell_;
  uint8_t* const sq_;
  uint8_t* const cq_;
  ShadowDoorbells shadow_;
  uint32_t tail_ = 0;
  uint32_t told_tail_ = 0;
  uint32_t head_ = 0;
  uint32_t told_head_ = 0;
  uint16_t phase_ = spec::kCqePhase;
  uint64_t doorbells_ = 0;  // written
};

}  // namespace diskengine::fabric::pcie
