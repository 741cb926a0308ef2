// What NVMe controllers and namespaces say of themselves: Identify data and log pages. NVM Express base 2.0 sections
// 5.16 and 5.17, NVM command set 1.0 section 4.1.5. docs/formats/nvme.md is its page.
//
// Layouts only, no I/O; any thread. All integers are little endian, all text is ASCII padded with spaces (NQNs: with
// zeroes).
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <iterator>

#include "base/uuid.h"
#include "format/nvme.h"

namespace diskengine::spec {

inline constexpr uint32_t kIdentifyBytes = 4096;

// Identify: cdw10 bits 7:0 what to return, 31:16 a controller id.
struct Cns {
  enum Code : uint8_t {
    ns = 0x00,
    controller = 0x01,
    active_namespaces = 0x02,
    ns_descriptors = 0x03,
    csi_ns = 0x05,
    csi_controller = 0x06,
    csi_active_namespaces = 0x07,
    csi_independent_ns = 0x08,
    allocated_namespaces = 0x10,
    allocated_ns = 0x11,
    ns_controllers = 0x12,
    controllers = 0x13,
    primary_capabilities = 0x14,
    secondary_controllers = 0x15,
    command_sets = 0x1c,
  };
};

struct PowerState {
  uint16_t max_power_centiwatts = 0;
  uint8_t reserved2[30] = {};
};
static_assert(sizeof(PowerState) == 32);

// Base 2.0 figure 276.
struct IdentifyController {
  uint16_t vid = 0;
  uint16_t ssvid = 0;
  char serial_number[20] = {};
  char model_number[40] = {};
  char firmware_revision[8] = {};
  uint8_t rab = 0;
  uint8_t ieee_oui[3] = {};
  uint8_t cmic = 0;  // bit 0 several ports, 1 several controllers, 3 ANA
  uint8_t mdts = 0;  // longest transfer: 2^mdts pages of CAP.MPSMIN; 0: no limit
  uint16_t cntlid = 0;
  uint32_t version = 0;
  uint32_t rtd3_resume_us = 0;
  uint32_t rtd3_entry_us = 0;
  uint32_t oaes = 0;    // kAsync... bits
  uint32_t ctratt = 0;  // bit 0: 128-bit host identifiers
  uint16_t rrls = 0;
  uint8_t reserved102[9] = {};
  uint8_t controller_type = 0;  // ControllerType
  uint8_t fguid[16] = {};
  uint16_t crdt[3] = {};  // command retry delays in 100 ms
  uint8_t reserved134[106] = {};
  uint8_t reserved240[16] = {};
  uint16_t oacs = 0;
  uint8_t acl = 0;   // most aborts at once, 0's based
  uint8_t aerl = 0;  // most asynchronous event requests at once, 0's based
  uint8_t frmw = 0;
  uint8_t lpa = 0;   // bit 1 commands-supported page, bit 2 extended offsets in Get Log Page
  uint8_t elpe = 0;  // entries of the error log page, 0's based
  uint8_t npss = 0;  // power states, 0's based
  uint8_t avscc = 0;
  uint8_t apsta = 0;
  uint16_t warning_temperature_k = 0;
  uint16_t critical_temperature_k = 0;
  uint16_t mtfa = 0;
  uint32_t hmpre = 0;
  uint32_t hmmin = 0;
  Uint128 total_capacity;        // bytes; at 280
  Uint128 unallocated_capacity;  // bytes
  uint32_t rpmbs = 0;
  uint16_t edstt = 0;
  uint8_t dsto = 0;
  uint8_t fwug = 0;
  uint16_t keep_alive_granularity = 0;  // in 100 ms; 0: no keep-alive
  uint16_t hctma = 0;
  uint16_t mntmt = 0;
  uint16_t mxtmt = 0;
  uint32_t sanitize_capabilities = 0;
  uint32_t hmminds = 0;
  uint16_t hmmaxd = 0;
  uint16_t nsetidmax = 0;
  uint16_t endgidmax = 0;
  uint8_t ana_transition_time_s = 0;
  uint8_t ana_capabilities = 0;
  uint32_t ana_group_max = 0;
  uint32_t ana_group_count = 0;
  uint32_t pels = 0;
  uint8_t reserved356[156] = {};
  uint8_t sqes = 0;  // log2 of the entry size: required 3:0, largest 7:4
  uint8_t cqes = 0;
  uint16_t maxcmd = 0;      // most commands a queue should hold; required over fabrics
  uint32_t namespaces = 0;  // highest namespace id
  uint16_t oncs = 0;        // kOncs...
  uint16_t fuses = 0;
  uint8_t fna = 0;
  uint8_t vwc = 0;  // bit 0: there is a volatile write cache; bits 2:1 = 3: flush takes nsid ffffffffh
  uint16_t awun = 0;
  uint16_t awupf = 0;
  uint8_t nvscc = 0;
  uint8_t nwpc = 0;
  uint16_t acwu = 0;
  uint16_t copy_formats = 0;
  uint32_t sgls = 0;  // kSgls...
  uint32_t namespaces_allowed = 0;
  Uint128 maxdna;  // at 544
  uint32_t maxcna = 0;
  uint8_t reserved564[204] = {};
  char subsystem_nqn[256] = {};  // at 768
  uint8_t reserved1024[768] = {};
  // Over fabrics only, at 1792.
  uint32_t ioccsz = 0;  // command capsule of I/O queues, in 16 bytes: 4 and the in-capsule data
  uint32_t iorcsz = 0;  // response capsule, in 16 bytes: 1
  uint16_t icdoff = 0;  // where in-capsule data starts after the SQE, in 16 bytes
  uint8_t fcatt = 0;    // bit 0: the dynamic controller model is not used
  uint8_t msdbd = 0;    // most SGL data blocks in a capsule
  uint16_t ofcs = 0;    // bit 0: disconnect command
  uint8_t discovery_type = 0;
  uint8_t reserved1807[241] = {};
  PowerState power_states[32];
  uint8_t vendor[1024] = {};
};
static_assert(sizeof(IdentifyController) == kIdentifyBytes);
static_assert(offsetof(IdentifyController, firmware_revision) == 64 && offsetof(IdentifyController, mdts) == 77);
static_assert(offsetof(IdentifyController, cntlid) == 78 && offsetof(IdentifyController, version) == 80);
static_assert(offsetof(IdentifyController, controller_type) == 111 && offsetof(IdentifyController, oacs) == 256);
static_assert(offsetof(IdentifyController, warning_temperature_k) == 266);
static_assert(offsetof(IdentifyController, total_capacity) == 280);
static_assert(offsetof(IdentifyController, keep_alive_granularity) == 320);
static_assert(offsetof(IdentifyController, sanitize_capabilities) == 328);
static_assert(offsetof(IdentifyController, ana_transition_time_s) == 342 && offsetof(IdentifyController, pels) == 352);
static_assert(offsetof(IdentifyController, sqes) == 512 && offsetof(IdentifyController, namespaces) == 516);
static_assert(offsetof(IdentifyController, oncs) == 520 && offsetof(IdentifyController, vwc) == 525);
static_assert(offsetof(IdentifyController, acwu) == 532 && offsetof(IdentifyController, sgls) == 536);
static_assert(offsetof(IdentifyController, maxdna) == 544 && offsetof(IdentifyController, subsystem_nqn) == 768);
static_assert(offsetof(IdentifyController, ioccsz) == 1792 && offsetof(IdentifyController, icdoff) == 1800);
static_assert(offsetof(IdentifyController, msdbd) == 1803 && offsetof(IdentifyController, discovery_type) == 1806);
static_assert(offsetof(IdentifyController, power_states) == 2048 && offsetof(IdentifyController, vendor) == 3072);

enum class ControllerType : uint8_t { not_reported = 0, io = 1, discovery = 2, administrative = 3 };

// Ours, at the start of the vendor's part of what Identify says of a controller and of a namespace: a mark and a UUID.
// A controller's is new with each start of the target's process. A namespace's names what holds the writes that were
// completed and not flushed (Device::cache_instance): as long as it is the same, none of them was lost.
inline constexpr char kInstanceMark[8] = {'D', 'E', 'I', 'N', 'S', 'T', '0', '1'};
template <typename Identify>
void put_instance(Identify& id, const Uuid& instance) noexcept {
  std::copy(std::begin(kInstanceMark), std::end(kInstanceMark), id.vendor);
  std::copy(instance.bytes.begin(), instance.bytes.end(), id.vendor + sizeof kInstanceMark);
}
// Nil: nothing of that kind is said.
template <typename Identify>
Uuid instance_of(const Identify& id) noexcept {
  Uuid instance;
  const uint8_t* from = id.vendor + sizeof kInstanceMark;
  if (std::equal(std::begin(kInstanceMark), std::end(kInstanceMark), id.vendor))
    std::copy(from, from + instance.bytes.size(), instance.bytes.begin());
  return instance;
}

inline constexpr uint8_t kCmicMultipleControllers = 1u << 1;
inline constexpr uint8_t kCmicAna = 1u << 3;
inline constexpr uint32_t kCtrattHostId128 = 1u << 0;
inline constexpr uint8_t kLpaCommandsSupported = 1u << 1;
inline constexpr uint8_t kLpaExtended = 1u << 2;
inline constexpr uint16_t kOacsDoorbellBuffer = 1u << 8;
inline constexpr uint16_t kOncsCompare = 1u << 0;
inline constexpr uint16_t kOncsDatasetManagement = 1u << 2;
inline constexpr uint16_t kOncsWriteZeroes = 1u << 3;
inline constexpr uint16_t kOncsReservations = 1u << 5;
inline constexpr uint16_t kOncsTimestamp = 1u << 6;
inline constexpr uint8_t kVwcPresent = 1u << 0;
inline constexpr uint8_t kVwcFlushAll = 3u << 1;
inline constexpr uint32_t kSglsSupported = 1u << 0;
inline constexpr uint32_t kSglsAligned = 1u << 1;  // with addresses and lengths in units of 4 bytes
inline constexpr uint32_t kSglsKeyed = 1u << 2;
inline constexpr uint32_t kSglsOffset = 1u << 20;       // the address of an SGL may be an offset: in-capsule data
inline constexpr uint8_t kQueueEntrySizes = 0x66;       // sqes: 64 bytes
inline constexpr uint8_t kCompletionEntrySizes = 0x44;  // cqes: 16 bytes

struct LbaFormat {
  uint16_t metadata_bytes = 0;
  uint8_t data_size_log2 = 0;  // 9: 512 bytes, 12: 4096 bytes
  uint8_t relative_performance = 0;
};
static_assert(sizeof(LbaFormat) == 4);

// NVM command set 1.0 figure 97.
struct IdentifyNamespace {
  uint64_t size_blocks = 0;
  uint64_t capacity_blocks = 0;
  uint64_t used_blocks = 0;
  uint8_t features = 0;     // bit 0 thin provisioning, bit 4: the preferred sizes below are valid
  uint8_t lba_formats = 0;  // 0's based
  uint8_t lba_format = 0;   // bits 3:0 the format in use (and 6:5 its high bits), bit 4 metadata at the end of the data
  uint8_t metadata_capabilities = 0;
  uint8_t protection_capabilities = 0;
  uint8_t protection = 0;
  uint8_t nmic = 0;  // bit 0: may be shared by several controllers
  uint8_t reservation_capabilities = 0;
  uint8_t format_progress = 0;
  uint8_t deallocate_features =
      0;  // bits 2:0 = 1: deallocated blocks read as zeroes; bit 3: write zeroes may deallocate
  uint16_t nawun = 0;
  uint16_t nawupf = 0;
  uint16_t nacwu = 0;
  uint16_t nabsn = 0;
  uint16_t nabo = 0;
  uint16_t nabspf = 0;
  uint16_t optimal_io_boundary = 0;  // blocks
  Uint128 capacity_bytes;
  uint16_t preferred_write_granularity = 0;  // blocks, 0's based
  uint16_t preferred_write_alignment = 0;
  uint16_t preferred_deallocate_granularity = 0;
  uint16_t preferred_deallocate_alignment = 0;
  uint16_t optimal_write_size = 0;
  uint16_t mssrl = 0;
  uint32_t mcl = 0;
  uint8_t msrc = 0;
  uint8_t reserved81[11] = {};
  uint32_t ana_group = 0;
  uint8_t reserved96[3] = {};
  uint8_t attributes = 0;  // bit 0: write protected
  uint16_t nvm_set = 0;
  uint16_t endurance_group = 0;
  uint8_t nguid[16] = {};
  uint8_t eui64[8] = {};
  LbaFormat lba_format_table[64];
  uint8_t vendor[3712] = {};
};
static_assert(sizeof(IdentifyNamespace) == kIdentifyBytes);
static_assert(offsetof(IdentifyNamespace, features) == 24 && offsetof(IdentifyNamespace, deallocate_features) == 33);
static_assert(offsetof(IdentifyNamespace, optimal_io_boundary) == 46);
static_assert(offsetof(IdentifyNamespace, capacity_bytes) == 48 &&
              offsetof(IdentifyNamespace, optimal_write_size) == 72);
static_assert(offsetof(IdentifyNamespace, mcl) == 76 && offsetof(IdentifyNamespace, ana_group) == 92);
static_assert(offsetof(IdentifyNamespace, attributes) == 99 && offsetof(IdentifyNamespace, nguid) == 104);
static_assert(offsetof(IdentifyNamespace, eui64) == 120 && offsetof(IdentifyNamespace, lba_format_table) == 128);
static_assert(offsetof(IdentifyNamespace, vendor) == 384);

inline constexpr uint8_t kNsFeatureThin = 1u << 0;
inline constexpr uint8_t kNsFeaturePreferred = 1u << 4;
inline constexpr uint8_t kNsReadOnly = 1u << 0;  // attributes
inline constexpr uint8_t kNsShared = 1u << 0;    // nmic
inline constexpr uint8_t kNsDeallocatedReadZero = 0x01;
inline constexpr uint8_t kNsWriteZeroesDeallocate = 1u << 3;
inline constexpr uint8_t kNsFormatMetadataInline = 1u << 4;
constexpr uint8_t lba_format_index(uint8_t lba_format) noexcept {
  return static_cast<uint8_t>((lba_format & 0x0f) | (lba_format >> 5 & 3) << 4);
}

// Base 2.0 figure 277: one entry of the namespace descriptor list; `length` bytes follow, length 0 ends the list.
struct NsDescriptorHeader {
  uint8_t type = 0;
  uint8_t length = 0;
  uint8_t reserved[2] = {};
};
static_assert(sizeof(NsDescriptorHeader) == 4);
enum class NsDescriptorType : uint8_t { eui64 = 1, nguid = 2, uuid = 3, command_set = 4 };

inline constexpr uint32_t kNamespaceListEntries = kIdentifyBytes / 4;  // active and changed namespace lists

// Bits of SmartLog::critical_warning.
inline constexpr uint8_t kWarningSpare = 1u << 0;        // the available spare is below its threshold
inline constexpr uint8_t kWarningTemperature = 1u << 1;  // a temperature is over, or under, its threshold
inline constexpr uint8_t kWarningReliability = 1u << 2;  // degraded by media or internal errors
inline constexpr uint8_t kWarningReadOnly = 1u << 3;
inline constexpr uint8_t kWarningBackup = 1u << 4;  // the volatile memory's backup failed
inline constexpr uint8_t kWarningPersistentMemory = 1u << 5;

// Base 2.0 figure 207.
struct SmartLog {
  uint8_t critical_warning = 0;
  uint8_t temperature_k_bytes[2] = {};  // not aligned
  uint8_t available_spare_percent = 0;
  uint8_t available_spare_threshold_percent = 0;
  uint8_t percentage_used = 0;
  uint8_t endurance_critical_warning = 0;
  uint8_t reserved7[25] = {};
  Uint128 data_units_read;  // thousands of 512 bytes
  Uint128 data_units_written;
  Uint128 host_reads;
  Uint128 host_writes;
  Uint128 controller_busy_minutes;
  Uint128 power_cycles;
  Uint128 power_on_hours;
  Uint128 unsafe_shutdowns;
  Uint128 media_errors;
  Uint128 error_log_entries;
  uint32_t warning_temperature_minutes = 0;
  uint32_t critical_temperature_minutes = 0;
  uint16_t sensor_temperatures_k[8] = {};
  uint32_t thermal_transitions[2] = {};
  uint32_t thermal_seconds[2] = {};
  uint8_t reserved232[280] = {};

  uint16_t temperature_k() const noexcept {
    return static_cast<uint16_t>(temperature_k_bytes[0] | temperature_k_bytes[1] << 8);
  }
  void set_temperature_k(uint16_t kelvin) noexcept {
    temperature_k_bytes[0] = static_cast<uint8_t>(kelvin);
    temperature_k_bytes[1] = static_cast<uint8_t>(kelvin >> 8);
  }
};
static_assert(sizeof(SmartLog) == 512);
static_assert(offsetof(SmartLog, data_units_read) == 32 && offsetof(SmartLog, error_log_entries) == 176);
static_assert(offsetof(SmartLog, sensor_temperatures_k) == 200 && offsetof(SmartLog, reserved232) == 232);

// Base 2.0 figure 206.
struct ErrorLogEntry {
  uint64_t count = 0;  // 0: an empty entry
  uint16_t sq_id = 0;
  uint16_t cid = 0;
  uint16_t status = 0;
  uint16_t parameter_location = 0;
  uint64_t lba = 0;
  uint32_t nsid = 0;
  uint8_t vendor_log = 0;
  uint8_t transport = 0;
  uint8_t reserved30[2] = {};
  uint64_t command_specific = 0;
  uint16_t transport_specific = 0;
  uint8_t reserved42[22] = {};
};
static_assert(sizeof(ErrorLogEntry) == 64 && offsetof(ErrorLogEntry, nsid) == 24);
static_assert(offsetof(ErrorLogEntry, command_specific) == 32);

struct FirmwareSlotLog {
  uint8_t active = 0;
  uint8_t reserved1[7] = {};
  char revisions[7][8] = {};
  uint8_t reserved64[448] = {};
};
static_assert(sizeof(FirmwareSlotLog) == 512 && offsetof(FirmwareSlotLog, revisions) == 8);

// Base 2.0 figure 210: one dword for each opcode.
struct CommandsSupportedLog {
  uint32_t admin[256] = {};
  uint32_t io[256] = {};
  uint8_t reserved2048[2048] = {};
};
static_assert(sizeof(CommandsSupportedLog) == 4096);
inline constexpr uint32_t kCommandSupported = 1u << 0;
inline constexpr uint32_t kCommandChangesBlocks = 1u << 1;

// Base 2.0 figures 219 and 220: the asymmetric namespace access log page; `nsids` namespace ids follow each group.
struct AnaLogHeader {
  uint64_t change_count = 0;
  uint16_t groups = 0;
  uint8_t reserved10[6] = {};
};
static_assert(sizeof(AnaLogHeader) == 16);
struct AnaGroup {
  uint32_t id = 0;
  uint32_t nsids = 0;
  uint64_t change_count = 0;
  uint8_t state = 0;  // AnaState in bits 3:0
  uint8_t reserved17[15] = {};
};
static_assert(sizeof(AnaGroup) == 32 && offsetof(AnaGroup, state) == 16);
enum class AnaState : uint8_t {
  optimized = 1,
  non_optimized = 2,
  inaccessible = 3,
  persistent_loss = 4,
  change = 15,
};

}  // namespace diskengine::spec
