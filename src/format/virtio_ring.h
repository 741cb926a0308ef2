// The split virtqueue of Virtio 1.2 section 2.7: three arrays in guest memory through which a driver hands buffers to a
// device and gets them back. Also the buffer in which a vhost-user back end remembers which of them it has taken, so
// that another back end can take over (vhost-user, "Inflight I/O tracking"). Layouts only; docs/formats/vhost-user.md.
#pragma once

#include <cstddef>
#include <cstdint>

#include "base/checked.h"

namespace diskengine::spec {

inline constexpr uint16_t kVirtqueueSizeMax = 1024;  // our limit; the format allows 32768

// Feature bits of the ring and of virtio itself.
inline constexpr unsigned kVirtioRingFIndirectDesc = 28;
inline constexpr unsigned kVirtioRingFEventIdx = 29;
inline constexpr unsigned kVirtioFVersion1 = 32;

struct VringDesc {
  uint64_t addr;  // guest physical
  uint32_t len;
  uint16_t flags;
  uint16_t next;  // with kDescNext
};
static_assert(sizeof(VringDesc) == 16 && offsetof(VringDesc, len) == 8 && offsetof(VringDesc, flags) == 12);
inline constexpr size_t kVringDescAlign = 16;

inline constexpr uint16_t kDescNext = 1;
inline constexpr uint16_t kDescWrite = 2;     // the device writes into the buffer
inline constexpr uint16_t kDescIndirect = 4;  // the buffer holds a table of descriptors

// Followed by ring[size], then used_event (with kVirtioRingFEventIdx).
struct VringAvail {
  uint16_t flags;
  uint16_t idx;
};
static_assert(sizeof(VringAvail) == 4);
inline constexpr size_t kVringAvailAlign = 2;
inline constexpr uint16_t kAvailNoInterrupt = 1;

struct VringUsedElem {
  uint32_t id;
  uint32_t len;
};
static_assert(sizeof(VringUsedElem) == 8);

// Followed by ring[size] of VringUsedElem, then avail_event (with kVirtioRingFEventIdx).
struct VringUsed {
  uint16_t flags;
  uint16_t idx;
};
static_assert(sizeof(VringUsed) == 4);
inline constexpr size_t kVringUsedAlign = 4;
inline constexpr uint16_t kUsedNoNotify = 1;

constexpr size_t vring_desc_bytes(uint16_t size) noexcept { return sizeof(VringDesc) * size; }
// Both with their event word, which drivers lay out whether or not it is used.
constexpr size_t vring_avail_bytes(uint16_t size) noexcept { return sizeof(VringAvail) + size_t{2} * size + 2; }
constexpr size_t vring_used_bytes(uint16_t size) noexcept {
  return sizeof(VringUsed) + sizeof(VringUsedElem) * size + 2;
}
constexpr bool valid_virtqueue_size(uint64_t size) noexcept {
  return size <= kVirtqueueSizeMax && is_power_of_two(size);
}

// With event index: the other side asked to be told when the index passes `event`; it moved from `before` to `now`.
constexpr bool vring_need_event(uint16_t event, uint16_t now, uint16_t before) noexcept {
  return static_cast<uint16_t>(now - event - 1) < static_cast<uint16_t>(now - before);
}

// One per descriptor; only those of chain heads are in use.
struct InflightDesc {
  uint8_t inflight;  // the back end has taken this head and not returned it
  uint8_t reserved[5];
  uint16_t next;     // links the heads of the last batch that was returned
  uint64_t counter;  // order in which heads were taken
};
static_assert(sizeof(InflightDesc) == 16 && offsetof(InflightDesc, next) == 6 && offsetof(InflightDesc, counter) == 8);

// Per queue, followed by desc[desc_num] of InflightDesc.
struct InflightQueue {
  uint64_t features;  // 0
  uint16_t version;   // kInflightVersion; 0: never used
  uint16_t desc_num;  // equals the queue's size
  uint16_t last_batch_head;
  uint16_t used_idx;  // the used ring's index after the last batch was wholly accounted for
};
static_assert(sizeof(InflightQueue) == 16 && offsetof(InflightQueue, used_idx) == 14);
inline constexpr uint16_t kInflightVersion = 1;
inline constexpr size_t kInflightAlign = 64;

// Distance between two queues' parts of the buffer.
constexpr size_t inflight_queue_bytes(uint16_t size) noexcept {
  return round_up(sizeof(InflightQueue) + sizeof(InflightDesc) * size, kInflightAlign);
}

}  // namespace diskengine::spec
