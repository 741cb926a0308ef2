// NVM Express commands as both ends of a queue see them: submission and completion queue entries, opcodes, status
// codes, data pointers, and the fields of the commands that this project sends or serves. NVM Express base
// specification 2.0 and NVM command set specification 1.0. docs/formats/nvme.md is its page.
//
// Layouts only, no I/O; any thread. All integers are little endian. A structure is copied out of or into wire memory
// (load_le, store_le): wire memory has no alignment.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string_view>

namespace diskengine::spec {

// An unsigned 128-bit little-endian number.
struct Uint128 {
  uint64_t low = 0;
  uint64_t high = 0;
};
static_assert(sizeof(Uint128) == 16);

// Base 2.0 figure 88: where a command's data is.
struct SglDescriptor {
  uint64_t address = 0;  // or the offset into the capsule
  uint32_t length = 0;   // bytes
  uint8_t reserved[3] = {};
  uint8_t type = 0;  // type in the high nibble, sub type in the low one
};
static_assert(sizeof(SglDescriptor) == 16 && offsetof(SglDescriptor, type) == 15);

struct SglType {
  enum Code : uint8_t {
    data_block_address = 0x00,
    in_capsule = 0x01,    // a data block, its address an offset into the capsule
    last_segment = 0x30,  // PCIe: a list of data blocks, and nothing after it
    keyed_data_block = 0x40,
    keyed_data_block_invalidate = 0x4f,
    transport_data = 0x5a,  // NVMe/TCP: the transport's own PDUs carry the data
  };
};

// Base 2.0 figure 87, with the dwords of a command by number.
struct Sqe {
  uint8_t opcode = 0;
  uint8_t flags = 0;  // bits 1:0 fused, bits 7:6 what kind of data pointer
  uint16_t cid = 0;
  uint32_t nsid = 0;
  uint32_t cdw2 = 0;
  uint32_t cdw3 = 0;
  uint64_t metadata = 0;
  SglDescriptor data;
  uint32_t cdw10 = 0;
  uint32_t cdw11 = 0;
  uint32_t cdw12 = 0;
  uint32_t cdw13 = 0;
  uint32_t cdw14 = 0;
  uint32_t cdw15 = 0;

  uint64_t slba() const noexcept { return uint64_t{cdw11} << 32 | cdw10; }
  void set_slba(uint64_t lba) noexcept {
    cdw10 = static_cast<uint32_t>(lba);
    cdw11 = static_cast<uint32_t>(lba >> 32);
  }
};
static_assert(sizeof(Sqe) == 64);
static_assert(offsetof(Sqe, cid) == 2 && offsetof(Sqe, nsid) == 4 && offsetof(Sqe, metadata) == 16);
static_assert(offsetof(Sqe, data) == 24 && offsetof(Sqe, cdw10) == 40 && offsetof(Sqe, cdw15) == 60);

inline constexpr uint8_t kSqeFuseMask = 0x03;
inline constexpr uint8_t kSqeSgl = 0x40;  // flags: the data pointer is an SGL, as it always is over fabrics
inline constexpr uint8_t kSqePsdtMask = 0xc0;
inline constexpr uint32_t kNsidAll = 0xffffffff;

// Base 2.0 figure 90.
struct Cqe {
  uint32_t cdw0 = 0;
  uint32_t cdw1 = 0;
  uint16_t sq_head = 0;
  uint16_t sq_id = 0;  // reserved over fabrics
  uint16_t cid = 0;
  uint16_t status = 0;  // bit 0 phase (0 over fabrics), 8:1 code, 11:9 code type, 13:12 retry delay, 14 more, 15 DNR

  uint64_t result() const noexcept { return uint64_t{cdw1} << 32 | cdw0; }
  void set_result(uint64_t value) noexcept {
    cdw0 = static_cast<uint32_t>(value);
    cdw1 = static_cast<uint32_t>(value >> 32);
  }
};
static_assert(sizeof(Cqe) == 16);
static_assert(offsetof(Cqe, sq_head) == 8 && offsetof(Cqe, cid) == 12 && offsetof(Cqe, status) == 14);

// Status code type (bits 10:8) and status code (bits 7:0).
enum class Status : uint16_t {
  success = 0x000,
  invalid_opcode = 0x001,
  invalid_field = 0x002,
  command_id_conflict = 0x003,
  data_transfer_error = 0x004,
  aborted_power_loss = 0x005,
  internal_error = 0x006,
  aborted_by_request = 0x007,
  aborted_sq_deletion = 0x008,
  aborted_failed_fused = 0x009,
  aborted_missing_fused = 0x00a,
  invalid_namespace = 0x00b,
  command_sequence_error = 0x00c,
  invalid_sgl_segment = 0x00d,
  invalid_sgl_count = 0x00e,
  invalid_sgl_data_length = 0x00f,
  invalid_sgl_metadata_length = 0x010,
  invalid_sgl_type = 0x011,
  operation_denied = 0x015,
  invalid_sgl_offset = 0x016,
  host_id_inconsistent = 0x018,
  keep_alive_expired = 0x019,
  keep_alive_invalid = 0x01a,
  sanitize_in_progress = 0x01d,
  namespace_write_protected = 0x020,
  command_interrupted = 0x021,
  transient_transport_error = 0x022,
  lba_out_of_range = 0x080,
  capacity_exceeded = 0x081,
  namespace_not_ready = 0x082,
  reservation_conflict = 0x083,
  format_in_progress = 0x084,

  invalid_completion_queue = 0x100,
  invalid_queue_id = 0x101,
  invalid_queue_size = 0x102,
  abort_limit_exceeded = 0x103,
  async_event_limit_exceeded = 0x105,
  invalid_log_page = 0x109,
  invalid_format = 0x10a,
  feature_not_saveable = 0x10d,
  feature_not_changeable = 0x10e,
  feature_not_namespace_specific = 0x10f,
  namespace_already_attached = 0x118,
  namespace_not_attached = 0x11a,
  // 80h to ffh of this type depend on the command set: these are the fabrics commands' ...
  connect_incompatible_format = 0x180,
  connect_controller_busy = 0x181,
  connect_invalid_parameters = 0x182,
  connect_restart_discovery = 0x183,
  connect_invalid_host = 0x184,
  connect_invalid_queue_type = 0x185,
  discover_restart = 0x190,
  authentication_required = 0x191,
  // ... and these the NVM command set's, with the same numbers.
  conflicting_attributes = 0x180,
  invalid_protection_information = 0x181,
  write_to_read_only_range = 0x182,

  write_fault = 0x280,
  unrecovered_read_error = 0x281,
  guard_check_error = 0x282,
  compare_failure = 0x285,
  access_denied = 0x286,
  deallocated_block = 0x287,

  internal_path_error = 0x300,
  ana_persistent_loss = 0x301,
  ana_inaccessible = 0x302,
  ana_transition = 0x303,
  controller_path_error = 0x360,
  host_path_error = 0x370,
  aborted_by_host = 0x371,
};

inline constexpr uint16_t kCqeDnr = 0x8000;   // do not retry
inline constexpr uint16_t kCqeMore = 0x4000;  // the error log page has more about it

constexpr uint8_t status_code_type(Status status) noexcept { return static_cast<uint16_t>(status) >> 8; }
constexpr uint8_t status_code(Status status) noexcept { return static_cast<uint16_t>(status) & 0xff; }
constexpr Status make_status(uint8_t type, uint8_t code) noexcept {
  return static_cast<Status>(static_cast<uint16_t>((type & 7) << 8 | code));
}
// Cqe::status of a completion over fabrics.
constexpr uint16_t status_field(Status status, bool do_not_retry = false) noexcept {
  return static_cast<uint16_t>(static_cast<uint16_t>(status) << 1 | (do_not_retry ? kCqeDnr : 0));
}
constexpr Status status_of(uint16_t field) noexcept { return static_cast<Status>((field >> 1) & 0x7ff); }
constexpr bool do_not_retry(uint16_t field) noexcept { return (field & kCqeDnr) != 0; }
// What the specification calls it; "unknown status" for numbers this project does not know. Where two command sets
// share a number, the fabrics name.
std::string_view name_of(Status status) noexcept;

// Opcode bits 1:0 say which way the data goes (base 2.0 section 3.3.4).
enum class DataDirection : uint8_t { none = 0, to_controller = 1, from_controller = 2, both = 3 };
constexpr DataDirection data_direction(uint8_t opcode) noexcept { return static_cast<DataDirection>(opcode & 3); }

struct AdminOp {
  enum Code : uint8_t {
    delete_sq = 0x00,
    create_sq = 0x01,
    get_log_page = 0x02,
    delete_cq = 0x04,
    create_cq = 0x05,
    identify = 0x06,
    abort = 0x08,
    set_features = 0x09,
    get_features = 0x0a,
    async_event = 0x0c,
    namespace_management = 0x0d,
    firmware_commit = 0x10,
    firmware_download = 0x11,
    device_self_test = 0x14,
    namespace_attachment = 0x15,
    keep_alive = 0x18,
    doorbell_buffer_config = 0x7c,
    fabrics = 0x7f,
    format_nvm = 0x80,
    security_send = 0x81,
    security_receive = 0x82,
    sanitize = 0x84,
  };
};

struct IoOp {
  enum Code : uint8_t {
    flush = 0x00,
    write = 0x01,
    read = 0x02,
    write_uncorrectable = 0x04,
    compare = 0x05,
    write_zeroes = 0x08,
    dataset_management = 0x09,
    verify = 0x0c,
    reservation_register = 0x0d,
    reservation_report = 0x0e,
    reservation_acquire = 0x11,
    reservation_release = 0x15,
    copy = 0x19,
    fabrics = 0x7f,
  };
};

struct Feature {
  enum Code : uint8_t {
    arbitration = 0x01,
    power_management = 0x02,
    temperature_threshold = 0x04,
    error_recovery = 0x05,
    volatile_write_cache = 0x06,
    number_of_queues = 0x07,  // cdw11 and result: submission queues 15:0, completion queues 31:16, both 0's based
    interrupt_coalescing = 0x08,
    interrupt_vector = 0x09,
    write_atomicity = 0x0a,
    async_event_config = 0x0b,  // cdw11: the bits of AsyncEventBits
    timestamp = 0x0e,
    keep_alive_timer = 0x0f,  // cdw11: milliseconds
    host_behavior = 0x16,
    host_identifier = 0x81,
    reservation_notification_mask = 0x82,
    reservation_persistence = 0x83,
    namespace_write_protection = 0x84,
  };
};

// cdw10 of Set Features and Get Features.
inline constexpr uint32_t kFeatureIdMask = 0xff;
inline constexpr uint32_t kFeatureSave = 0x80000000;        // Set Features
inline constexpr uint32_t kFeatureSelectMask = 0x00000700;  // Get Features: 0 current, 1 default, 2 saved, 3 supported

// IdentifyController::oaes and the cdw11 of Feature::async_event_config.
inline constexpr uint32_t kAsyncCriticalWarnings = 0x3f;  // of SmartLog::critical_warning; no bits of oaes
inline constexpr uint32_t kAsyncNamespaceAttribute = 1u << 8;
inline constexpr uint32_t kAsyncFirmwareActivation = 1u << 9;
inline constexpr uint32_t kAsyncAnaChange = 1u << 11;
inline constexpr uint32_t kAsyncDiscoveryChange = 1u << 31;

// cdw0 of an asynchronous event's completion: bits 2:0 type, 15:8 information, 23:16 the log page to read.
enum class AsyncEventType : uint8_t { error = 0, smart = 1, notice = 2, command_set = 6, vendor = 7 };
struct AsyncNotice {
  enum Code : uint8_t {
    namespace_attribute = 0x00,
    firmware_activation = 0x01,
    telemetry = 0x02,
    ana_change = 0x03,
    discovery_change = 0xf0,
  };
};
constexpr uint32_t async_event(AsyncEventType type, uint8_t information, uint8_t log_page) noexcept {
  return static_cast<uint32_t>(type) | uint32_t{information} << 8 | uint32_t{log_page} << 16;
}
constexpr AsyncEventType async_event_type(uint32_t cdw0) noexcept { return static_cast<AsyncEventType>(cdw0 & 7); }
constexpr uint8_t async_event_information(uint32_t cdw0) noexcept { return static_cast<uint8_t>(cdw0 >> 8); }
constexpr uint8_t async_event_log_page(uint32_t cdw0) noexcept { return static_cast<uint8_t>(cdw0 >> 16); }

// Read, write, compare, write zeroes: cdw10 and cdw11 the first block, cdw12 the rest.
inline constexpr uint32_t kRwBlocksMask = 0x0000ffff;  // number of blocks, 0's based
inline constexpr uint32_t kRwDeallocate = 1u << 25;    // write zeroes: the blocks may be deallocated
inline constexpr uint32_t kRwFua = 1u << 30;
inline constexpr uint32_t kRwLimitedRetry = 1u << 31;
inline constexpr uint32_t kRwBlocksMax = 65536;

// Dataset management: cdw10 bits 7:0 the number of ranges, 0's based; cdw11 what to do.
inline constexpr uint32_t kDsmRangesMax = 256;
inline constexpr uint32_t kDsmDeallocate = 1u << 2;
struct DsmRange {
  uint32_t attributes = 0;
  uint32_t blocks = 0;
  uint64_t slba = 0;
};
static_assert(sizeof(DsmRange) == 16 && offsetof(DsmRange, slba) == 8);

// Get Log Page: cdw10 bits 7:0 page, 14:8 specific, 15 retain the event, 31:16 low half of the dword count (0's based);
// cdw11 bits 15:0 its high half; cdw12 and cdw13 the byte offset.
struct LogPage {
  enum Code : uint8_t {
    supported_pages = 0x00,
    error = 0x01,
    smart = 0x02,
    firmware_slot = 0x03,
    changed_namespaces = 0x04,
    commands_supported = 0x05,
    ana = 0x0c,
    discovery = 0x70,
    reservation = 0x80,
  };
};
inline constexpr uint32_t kLogRetainEvent = 1u << 15;
constexpr uint64_t log_page_bytes(const Sqe& sqe) noexcept {
  return ((uint64_t{sqe.cdw11 & 0xffff} << 16 | sqe.cdw10 >> 16) + 1) * 4;
}
constexpr uint64_t log_page_offset(const Sqe& sqe) noexcept { return uint64_t{sqe.cdw13} << 32 | sqe.cdw12; }
inline void set_log_page(Sqe& sqe, uint8_t page, uint32_t bytes, uint64_t offset) noexcept {
  const uint32_t dwords = bytes / 4 - 1;
  sqe.cdw10 = page | dwords << 16;
  sqe.cdw11 = dwords >> 16;
  sqe.cdw12 = static_cast<uint32_t>(offset);
  sqe.cdw13 = static_cast<uint32_t>(offset >> 32);
}

// Abort: cdw10 bits 15:0 the submission queue, 31:16 the command. Result bit 0 set: it was not aborted.
constexpr uint32_t abort_target(uint16_t sq_id, uint16_t cid) noexcept { return uint32_t{cid} << 16 | sq_id; }

// Number of queues feature, both directions: `queues` of each kind.
constexpr uint32_t queue_count(uint16_t queues) noexcept {
  const uint32_t zeroes_based = queues - 1u;
  return zeroes_based << 16 | zeroes_based;
}

}  // namespace diskengine::spec
