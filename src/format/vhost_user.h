// The vhost-user protocol: messages on a unix socket by which a front end (a hypervisor) hands guest memory and
// virtqueues to a back end. As described in QEMU's docs/interop/vhost-user. Layouts, and the check of a message's shape
// (type, flags, size, number of descriptors) that comes before anybody looks inside; docs/formats/vhost-user.md.
//
// Any thread; no state.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string_view>

#include "base/result.h"

namespace diskengine::spec {

inline constexpr size_t kVhostUserRegionsMax = 8;  // descriptors in one message, so regions in SET_MEM_TABLE
inline constexpr size_t kVhostUserFdsMax = 8;
inline constexpr size_t kVhostUserConfigBytesMax = 256;
inline constexpr unsigned kVhostUserQueuesMax = 64;  // our limit; the format allows 256

inline constexpr unsigned kVhostUserFProtocolFeatures = 30;  // among the virtio feature bits

// Protocol feature bits.
inline constexpr unsigned kVhostUserPMq = 0;
inline constexpr unsigned kVhostUserPReplyAck = 3;
inline constexpr unsigned kVhostUserPBackendReq = 5;
inline constexpr unsigned kVhostUserPConfig = 9;
inline constexpr unsigned kVhostUserPInflightShmfd = 12;
inline constexpr unsigned kVhostUserPConfigureMemSlots = 15;

enum class VhostUserRequest : uint32_t {
  get_features = 1,
  set_features = 2,
  set_owner = 3,
  reset_owner = 4,
  set_mem_table = 5,
  set_log_base = 6,
  set_log_fd = 7,
  set_vring_num = 8,
  set_vring_addr = 9,
  set_vring_base = 10,
  get_vring_base = 11,
  set_vring_kick = 12,
  set_vring_call = 13,
  set_vring_err = 14,
  get_protocol_features = 15,
  set_protocol_features = 16,
  get_queue_num = 17,
  set_vring_enable = 18,
  set_backend_req_fd = 21,
  get_config = 24,
  set_config = 25,
  get_inflight_fd = 31,
  set_inflight_fd = 32,
  get_max_mem_slots = 36,
  add_mem_reg = 37,
  rem_mem_reg = 38,
};
std::string_view name_of(VhostUserRequest request) noexcept;

// What a back end asks of a front end, on the channel of set_backend_req_fd.
inline constexpr uint32_t kVhostUserBackendConfigChange = 2;

struct VhostUserHeader {
  uint32_t request;
  uint32_t flags;
  uint32_t size;  // bytes of payload that follow
};
static_assert(sizeof(VhostUserHeader) == 12);
inline constexpr uint32_t kVhostUserVersionMask = 0x3;
inline constexpr uint32_t kVhostUserVersion = 0x1;
inline constexpr uint32_t kVhostUserReply = 1 << 2;
inline constexpr uint32_t kVhostUserNeedReply = 1 << 3;

struct VhostUserRegion {
  uint64_t guest_address;
  uint64_t size;
  uint64_t user_address;  // in the front end's address space
  uint64_t mmap_offset;
};
static_assert(sizeof(VhostUserRegion) == 32);

struct VhostUserMemory {
  uint32_t regions;
  uint32_t reserved;
  VhostUserRegion region[kVhostUserRegionsMax];
};
static_assert(offsetof(VhostUserMemory, region) == 8);

struct VhostUserSingleRegion {
  uint64_t reserved;
  VhostUserRegion region;
};
static_assert(sizeof(VhostUserSingleRegion) == 40);

struct VhostUserVringState {
  uint32_t index;
  uint32_t num;
};
static_assert(sizeof(VhostUserVringState) == 8);

struct VhostUserVringAddr {
  uint32_t index;
  uint32_t flags;
  uint64_t desc;  // user addresses
  uint64_t used;
  uint64_t avail;
  uint64_t log;
};
static_assert(sizeof(VhostUserVringAddr) == 40);
inline constexpr uint32_t kVhostVringFLog = 1;

// The u64 of set_vring_kick, call and err.
inline constexpr uint64_t kVhostUserVringIndexMask = 0xff;
inline constexpr uint64_t kVhostUserVringNoFd = 1 << 8;

struct VhostUserConfig {
  uint32_t offset;
  uint32_t size;
  uint32_t flags;
  uint8_t bytes[kVhostUserConfigBytesMax];
};
inline constexpr size_t kVhostUserConfigHeaderBytes = offsetof(VhostUserConfig, bytes);
static_assert(kVhostUserConfigHeaderBytes == 12);

struct VhostUserInflight {
  uint64_t mmap_size;
  uint64_t mmap_offset;
  uint16_t num_queues;
  uint16_t queue_size;
  uint32_t padding;  // as front ends send it
};
static_assert(sizeof(VhostUserInflight) == 24);

union VhostUserPayload {
  uint64_t u64;
  VhostUserMemory memory;
  VhostUserSingleRegion single_region;
  VhostUserVringState state;
  VhostUserVringAddr addr;
  VhostUserConfig config;
  VhostUserInflight inflight;
};
inline constexpr size_t kVhostUserPayloadBytesMax = sizeof(VhostUserPayload);

// How a front end's request of this type has to look; nullptr if we do not know the type.
struct VhostUserShape {
  VhostUserRequest request;
  uint16_t size_min;
  uint16_t size_max;
  uint8_t fds_min;
  uint8_t fds_max;
  bool has_reply;  // answered whether or not an acknowledgement is asked for
};
const VhostUserShape* shape_of(uint32_t request) noexcept;

// Checks a header on its own: before its payload is read. Errc::protocol says what is wrong.
Result<void> check_header(const VhostUserHeader& header);
// Checks the whole: a header that passed check_header, its payload's own counts and sizes, and the number of
// descriptors that came along. `payload` holds header.size valid bytes and zeroes after them.
Result<void> check_message(const VhostUserHeader& header, const VhostUserPayload& payload, size_t fds);

}  // namespace diskengine::spec
