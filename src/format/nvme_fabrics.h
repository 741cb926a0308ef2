// NVMe over Fabrics: the commands that connect a queue and reach controller properties, the properties themselves, and
// the discovery log page. NVM Express base 2.0 sections 3.1.3, 5.17.1.22 and 6. docs/formats/nvme.md is its page.
//
// Layouts only, no I/O; any thread. All integers are little endian.
#pragma once

#include <cstddef>
#include <cstdint>

#include "format/nvme.h"

namespace diskengine::spec {

inline constexpr char kDiscoveryNqn[] = "nqn.2014-08.org.nvmexpress.discovery";
inline constexpr size_t kNqnBytesMax = 223;  // without the terminating zero
inline constexpr uint16_t kDiscoveryPort = 8009;
inline constexpr uint16_t kNvmePort = 4420;

// The low byte of Sqe::nsid of a command with opcode AdminOp::fabrics.
struct FabricsType {
  enum Code : uint8_t {
    property_set = 0x00,
    connect = 0x01,
    property_get = 0x04,
    authentication_send = 0x05,
    authentication_receive = 0x06,
    disconnect = 0x08,
  };
};

struct FabricsConnect {
  uint8_t opcode = AdminOp::fabrics;
  uint8_t flags = kSqeSgl;
  uint16_t cid = 0;
  uint8_t type = FabricsType::connect;
  uint8_t reserved5[19] = {};
  SglDescriptor data;
  uint16_t record_format = 0;
  uint16_t queue_id = 0;
  uint16_t queue_size = 0;  // entries, 0's based
  uint8_t attributes = 0;   // kConnect...
  uint8_t reserved47 = 0;
  uint32_t keep_alive_ms = 0;
  uint8_t reserved52[12] = {};
};
static_assert(sizeof(FabricsConnect) == 64 && offsetof(FabricsConnect, type) == 4);
static_assert(offsetof(FabricsConnect, data) == 24 && offsetof(FabricsConnect, record_format) == 40);
static_assert(offsetof(FabricsConnect, queue_size) == 44 && offsetof(FabricsConnect, keep_alive_ms) == 48);

inline constexpr uint8_t kConnectNoFlowControl = 1u << 2;  // attributes: the submission queue's head is not used

struct FabricsConnectData {
  uint8_t host_id[16] = {};
  uint16_t controller_id = 0;  // kControllerIdAny in the dynamic model
  uint8_t reserved18[238] = {};
  char subsystem_nqn[256] = {};
  char host_nqn[256] = {};
  uint8_t reserved768[256] = {};
};
static_assert(sizeof(FabricsConnectData) == 1024 && offsetof(FabricsConnectData, subsystem_nqn) == 256);
static_assert(offsetof(FabricsConnectData, host_nqn) == 512);
inline constexpr uint16_t kControllerIdAny = 0xffff;

// cdw0 of a successful connect: bits 15:0 the controller id, bits 31:16 whether authentication is asked for.
constexpr uint16_t connect_controller_id(uint32_t cdw0) noexcept { return static_cast<uint16_t>(cdw0); }
constexpr bool connect_needs_authentication(uint32_t cdw0) noexcept { return cdw0 >> 16 != 0; }
// cdw0 of one that failed with connect_invalid_parameters: the offset of the bad field.
constexpr uint32_t connect_bad_field(uint16_t offset, bool in_data) noexcept {
  return offset | (in_data ? 1u << 16 : 0u);
}

struct FabricsProperty {
  uint8_t opcode = AdminOp::fabrics;
  uint8_t flags = kSqeSgl;
  uint16_t cid = 0;
  uint8_t type = FabricsType::property_get;
  uint8_t reserved5[35] = {};
  uint8_t size = 0;  // bits 2:0: 0 four bytes, 1 eight bytes
  uint8_t reserved41[3] = {};
  uint32_t offset = 0;
  uint64_t value = 0;  // property set
  uint8_t reserved56[8] = {};
};
static_assert(sizeof(FabricsProperty) == 64 && offsetof(FabricsProperty, size) == 40);
static_assert(offsetof(FabricsProperty, offset) == 44 && offsetof(FabricsProperty, value) == 48);

struct FabricsDisconnect {
  uint8_t opcode = AdminOp::fabrics;
  uint8_t flags = kSqeSgl;
  uint16_t cid = 0;
  uint8_t type = FabricsType::disconnect;
  uint8_t reserved5[35] = {};
  uint16_t record_format = 0;
  uint8_t reserved42[22] = {};
};
static_assert(sizeof(FabricsDisconnect) == 64 && offsetof(FabricsDisconnect, record_format) == 40);

struct Property {
  enum Offset : uint32_t {
    cap = 0x00,  // 8 bytes
    vs = 0x08,
    cc = 0x14,
    csts = 0x1c,
    nssr = 0x20,
    crto = 0x68,
  };
};

// Controller capabilities (base 2.0 figure 36).
struct Cap {
  uint64_t value = 0;

  uint32_t queue_entries_max() const noexcept { return static_cast<uint32_t>(value & 0xffff) + 1; }
  uint32_t ready_timeout_ms() const noexcept { return static_cast<uint32_t>(value >> 24 & 0xff) * 500; }
  uint32_t page_bytes_min() const noexcept { return 4096u << (value >> 48 & 0xf); }
  uint32_t page_bytes_max() const noexcept { return 4096u << (value >> 52 & 0xf); }
  bool nvm_command_set() const noexcept { return (value >> 37 & 1) != 0; }
};
// Of a fabrics controller: contiguous queues, 4096-byte pages, the NVM command set.
constexpr Cap make_cap(uint32_t queue_entries_max, uint32_t ready_timeout_ms) noexcept {
  return {((queue_entries_max - 1) & 0xffff) | 1ull << 16 | uint64_t{(ready_timeout_ms / 500) & 0xff} << 24 |
          1ull << 37};
}

inline constexpr uint32_t kCcEnable = 1u << 0;
inline constexpr uint32_t kCcCommandSetMask = 7u << 4;
inline constexpr uint32_t kCcPageSizeMask = 0xfu << 7;
inline constexpr uint32_t kCcArbitrationMask = 7u << 11;
inline constexpr uint32_t kCcShutdownMask = 3u << 14;
inline constexpr uint32_t kCcShutdownNormal = 1u << 14;
inline constexpr uint32_t kCcShutdownAbrupt = 2u << 14;
inline constexpr uint32_t kCcSqEntrySizeMask = 0xfu << 16;
inline constexpr uint32_t kCcCqEntrySizeMask = 0xfu << 20;
inline constexpr uint32_t kCcEntrySizes = 6u << 16 | 4u << 20;  // 64 and 16 bytes

inline constexpr uint32_t kCstsReady = 1u << 0;
inline constexpr uint32_t kCstsFatal = 1u << 1;
inline constexpr uint32_t kCstsShutdownMask = 3u << 2;
inline constexpr uint32_t kCstsShutdownActive = 1u << 2;
inline constexpr uint32_t kCstsShutdownDone = 2u << 2;

constexpr uint32_t nvme_version(uint32_t major, uint32_t minor, uint32_t tertiary = 0) noexcept {
  return major << 16 | minor << 8 | tertiary;
}

enum class TransportType : uint8_t { rdma = 1, fc = 2, tcp = 3, loop = 254 };
enum class AddressFamily : uint8_t { ipv4 = 1, ipv6 = 2, ib = 3, fc = 4, loop = 254 };
enum class SubsystemType : uint8_t { referral = 1, nvm = 2, current_discovery = 3 };
// DiscoveryEntry::treq bits 1:0.
enum class SecureChannel : uint8_t { not_specified = 0, required = 1, not_required = 2 };

struct DiscoveryHeader {
  uint64_t generation = 0;
  uint64_t records = 0;
  uint16_t record_format = 0;
  uint8_t reserved18[1006] = {};
};
static_assert(sizeof(DiscoveryHeader) == 1024 && offsetof(DiscoveryHeader, record_format) == 16);

// Of a DiscoveryEntry's transport_specific for RDMA: bytes 0 (RDMA_QPTYPE), 1 (RDMA_PRTYPE, 0: not said), 2 (RDMA_CMS).
enum class RdmaQueueService : uint8_t { reliable_connected = 1, reliable_datagram = 2 };
enum class RdmaConnectionManager : uint8_t { rdma_cm = 1 };

// Text fields are ASCII padded with spaces, the NQN is padded with zeroes.
struct DiscoveryEntry {
  uint8_t transport_type = 0;
  uint8_t address_family = 0;
  uint8_t subsystem_type = 0;
  uint8_t treq = 0;
  uint16_t port_id = 0;
  uint16_t controller_id = 0;
  uint16_t admin_queue_size = 0;
  uint16_t flags = 0;
  uint8_t reserved12[20] = {};
  char service_id[32] = {};
  uint8_t reserved64[192] = {};
  char subsystem_nqn[256] = {};
  char address[256] = {};
  uint8_t transport_specific[256] = {};
};
static_assert(sizeof(DiscoveryEntry) == 1024 && offsetof(DiscoveryEntry, admin_queue_size) == 8);
static_assert(offsetof(DiscoveryEntry, service_id) == 32 && offsetof(DiscoveryEntry, subsystem_nqn) == 256);
static_assert(offsetof(DiscoveryEntry, address) == 512 && offsetof(DiscoveryEntry, transport_specific) == 768);

}  // namespace diskengine::spec
