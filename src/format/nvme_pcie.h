// NVM Express over PCIe: controller registers, doorbells, the commands that make and delete queues, and how a command
// points to its data. NVM Express base 2.0 sections 3.1, 4.1, 5.4 to 5.8, PCIe transport 1.0. docs/formats/nvme.md is
// its page.
//
// Layouts only, no I/O; any thread. All integers are little endian.
#pragma once

#include <cstddef>
#include <cstdint>

#include "base/endian.h"
#include "format/nvme.h"
#include "format/nvme_fabrics.h"

namespace diskengine::spec {

// What an access to a device that is gone, or whose link is down, reads.
inline constexpr uint32_t kRegisterGone = 0xffffffff;

// Registers of BAR 0 beside those that fabrics have too (Property).
struct Register {
  enum Offset : uint32_t {
    aqa = 0x24,  // sizes of the admin queues
    asq = 0x28,  // 8 bytes
    acq = 0x30,  // 8 bytes
    doorbells = 0x1000,
  };
};

inline constexpr uint32_t kPcieQueueEntriesMax = 65536;
inline constexpr uint32_t kAdminEntriesMax = 4096;

constexpr uint32_t make_aqa(uint32_t sq_entries, uint32_t cq_entries) noexcept {
  return (cq_entries - 1) << 16 | (sq_entries - 1);
}
// Bytes between doorbells, from the capabilities.
constexpr uint32_t doorbell_stride(Cap cap) noexcept { return 4u << (cap.value >> 32 & 0xf); }
constexpr uint32_t sq_doorbell(uint16_t queue_id, uint32_t stride) noexcept {
  return Register::doorbells + 2u * queue_id * stride;
}
constexpr uint32_t cq_doorbell(uint16_t queue_id, uint32_t stride) noexcept {
  return Register::doorbells + (2u * queue_id + 1) * stride;
}

// Cqe::status: alternates each time the controller goes round the queue, 1 in the first round.
inline constexpr uint16_t kCqePhase = 0x0001;

// Create I/O Completion Queue and Submission Queue: cdw10 which one and how long, cdw11 the rest; PRP 1 where it is.
constexpr uint32_t create_queue_cdw10(uint16_t queue_id, uint32_t entries) noexcept {
  return (entries - 1) << 16 | queue_id;
}
inline constexpr uint32_t kQueueContiguous = 1u << 0;
inline constexpr uint32_t kQueueInterrupts = 1u << 1;
constexpr uint32_t create_cq_cdw11(uint16_t vector) noexcept {
  return uint32_t{vector} << 16 | kQueueInterrupts | kQueueContiguous;
}
constexpr uint32_t create_sq_cdw11(uint16_t cq_id) noexcept { return uint32_t{cq_id} << 16 | kQueueContiguous; }

// Where a command's data is, in place of the SGL descriptor: page pointers. `second` points to the second page, or to
// a list of pointers to all pages after the first.
struct PrpPair {
  uint64_t first = 0;
  uint64_t second = 0;
};
static_assert(sizeof(PrpPair) == sizeof(SglDescriptor));
inline constexpr size_t kPrpPageBytes = 4096;  // CC.MPS 0
inline constexpr size_t kPrpListEntries = kPrpPageBytes / sizeof(uint64_t);
inline constexpr uint64_t kPrpAlignment = 4;

inline void set_prps(Sqe& sqe, const PrpPair& pair) noexcept { store_le(&sqe.data, pair); }
inline PrpPair prps_of(const Sqe& sqe) noexcept { return load_le<PrpPair>(&sqe.data); }

// Doorbell Buffer Config: PRP 1 the shadow doorbells, PRP 2 the event indices, a page each, laid out as the doorbells.
inline constexpr size_t kDoorbellBufferBytes = 4096;
// The controller wants the doorbell itself written if the move from `before` to `after` passes `event`.
constexpr bool doorbell_wanted(uint16_t event, uint16_t before, uint16_t after) noexcept {
  return static_cast<uint16_t>(after - event - 1) < static_cast<uint16_t>(after - before);
}

}  // namespace diskengine::spec
