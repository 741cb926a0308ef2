// The superblock that SPDK's RAID module keeps at the start of every base device of a volume: layout and codec.
// Little endian. Described in docs/formats/raid-superblock.md; the layout is that of SPDK's
// module/bdev/raid/bdev_raid.h, version 1.0. Pure functions, any thread.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "base/result.h"
#include "base/uuid.h"

namespace diskengine::spec {

inline constexpr char kRaidSuperblockSignature[8] = {'S', 'P', 'D', 'K', 'R', 'A', 'I', 'D'};
inline constexpr uint16_t kRaidSuperblockMajor = 1;
inline constexpr uint16_t kRaidSuperblockMinor = 0;
inline constexpr size_t kRaidNameBytes = 64;  // with the terminating zero
inline constexpr uint32_t kRaidLevel1 = 1;
// Where the data of a volume with a superblock starts unless the device asks for more: bytes.
inline constexpr uint64_t kRaidDataOffsetBytes = 1024 * 1024;

enum class RaidBaseState : uint32_t { missing = 0, configured = 1, failed = 2, spare = 3 };

struct RaidBaseDiskRecord {
  uint8_t uuid[16];
  uint64_t data_offset;  // blocks
  uint64_t data_size;    // blocks
  uint32_t state;        // RaidBaseState
  uint32_t flags;
  uint8_t slot;
  uint8_t reserved[23];
};
static_assert(sizeof(RaidBaseDiskRecord) == 64);
static_assert(offsetof(RaidBaseDiskRecord, data_offset) == 16);
static_assert(offsetof(RaidBaseDiskRecord, state) == 32);
static_assert(offsetof(RaidBaseDiskRecord, slot) == 40);

struct RaidSuperblockHeader {
  uint8_t signature[8];
  uint16_t version_major;
  uint16_t version_minor;
  uint32_t length;  // bytes of header and records, which `crc` covers
  uint32_t crc;     // CRC32C with initial value 0 and no final inversion, computed with this field zero
  uint32_t flags;
  uint8_t uuid[16];
  uint8_t name[kRaidNameBytes];
  uint64_t raid_size;   // blocks
  uint32_t block_size;  // bytes
  uint32_t level;
  uint32_t strip_size;  // blocks
  uint32_t state;
  uint64_t seq_number;  // one higher at every update
  uint8_t num_base_bdevs;
  uint8_t reserved[118];
  uint8_t base_bdevs_size;  // how many records follow
};
static_assert(sizeof(RaidSuperblockHeader) == 256);
static_assert(offsetof(RaidSuperblockHeader, crc) == 16);
static_assert(offsetof(RaidSuperblockHeader, name) == 40);
static_assert(offsetof(RaidSuperblockHeader, raid_size) == 104);
static_assert(offsetof(RaidSuperblockHeader, seq_number) == 128);
static_assert(offsetof(RaidSuperblockHeader, num_base_bdevs) == 136);
static_assert(offsetof(RaidSuperblockHeader, base_bdevs_size) == 255);

inline constexpr size_t kRaidSuperblockBytesMax = sizeof(RaidSuperblockHeader) + 255 * sizeof(RaidBaseDiskRecord);
static_assert(kRaidSuperblockBytesMax < kRaidDataOffsetBytes);

struct RaidBaseDisk {
  Uuid uuid;
  uint64_t data_offset = 0;  // blocks
  uint64_t data_size = 0;    // blocks
  RaidBaseState state = RaidBaseState::missing;
  uint32_t flags = 0;
  uint8_t slot = 0;

  bool operator==(const RaidBaseDisk&) const = default;
};

struct RaidSuperblock {
  uint16_t version_minor = kRaidSuperblockMinor;
  uint32_t flags = 0;
  Uuid uuid;
  std::string name;
  uint64_t raid_size = 0;   // blocks
  uint32_t block_size = 0;  // bytes
  uint32_t level = kRaidLevel1;
  uint32_t strip_size = 0;
  uint32_t state = 0;
  uint64_t seq_number = 0;
  uint8_t num_base_bdevs = 0;
  std::vector<RaidBaseDisk> base_bdevs;

  bool operator==(const RaidSuperblock&) const = default;
};

// The bytes to store, without padding to blocks. The name is at most kRaidNameBytes - 1 bytes and there are at most 255
// records (asserted: they come from us).
std::vector<uint8_t> encode(const RaidSuperblock& superblock);

// Bytes that a device's first bytes say the superblock takes. `bytes` holds at least the header.
// Errc::not_found: no superblock there. Errc::corrupt: a signature with an impossible length.
Result<size_t> raid_superblock_length(std::span<const uint8_t> bytes);

// Errc::not_found: no signature. Errc::corrupt: cut short, a wrong checksum or fields that contradict each other.
// Errc::not_supported: a later major version.
Result<RaidSuperblock> decode_raid_superblock(std::span<const uint8_t> bytes);

}  // namespace diskengine::spec
