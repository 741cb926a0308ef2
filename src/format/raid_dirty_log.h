// The dirty-region log that stands on every leg of a mirror between superblock and data: layout and codec. Little
// endian. Described in docs/formats/raid-dirty-log.md. Pure functions, any thread.
//
// It says in which regions of the volume the legs may differ. Pages are checked one by one: whoever finds a page that
// does not decode takes all its regions for dirty.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>

#include "base/result.h"
#include "base/uuid.h"

namespace diskengine::spec {

inline constexpr uint64_t kRaidDirtyLogOffsetBytes = 128 * 1024;  // of the header page, from the leg's start
inline constexpr size_t kRaidDirtyLogPageBytes = 4096;
inline constexpr size_t kRaidDirtyLogPagesMax = (1024 - 128) * 1024 / kRaidDirtyLogPageBytes - 1;  // of the bitmap
inline constexpr size_t kRaidDirtyLogBitmapBytes = kRaidDirtyLogPageBytes - 64;
inline constexpr uint64_t kRaidDirtyLogRegionsPerPage = kRaidDirtyLogBitmapBytes * 8;
inline constexpr unsigned kRaidDirtyLogLegsMax = 8;
inline constexpr char kRaidDirtyLogSignature[8] = {'D', 'E', 'D', 'I', 'R', 'T', 'Y', '1'};
inline constexpr uint32_t kRaidDirtyLogPageSignature = 0x47505244;  // "DRPG"

// A leg that left the volume under this log.
struct RaidDirtyLogLeg {
  uint8_t uuid[16];
  uint64_t left_sequence;  // of the first superblock that calls it out; 0: it did not leave
};
static_assert(sizeof(RaidDirtyLogLeg) == 24);

struct RaidDirtyLogHeaderPage {
  uint8_t signature[8];
  uint32_t crc;      // CRC32C of the page with this field zero
  uint32_t version;  // 1
  uint8_t volume_uuid[16];
  uint64_t log_id;         // the same in every page of the log
  uint64_t sequence;       // seq_number of the superblock that was on this leg when this was written
  uint64_t epoch;          // of the volume's writer; 0: it has none
  uint64_t region_blocks;  // a power of two
  uint64_t region_count;
  uint32_t block_size;  // bytes
  uint32_t page_count;
  RaidDirtyLogLeg legs[kRaidDirtyLogLegsMax];  // by slot
  uint32_t unsynced;  // bit by slot: the leg is in sync but for what is marked, and not the one that is read
  uint32_t reserved;
  uint8_t machine[16];                       // the boot of the machine that the writer ran on; zeroes: not known
  uint8_t caches[kRaidDirtyLogLegsMax][16];  // by slot: Device::cache_instance() of the leg; zeroes: not known
  uint8_t more_reserved[kRaidDirtyLogPageBytes - 104 - kRaidDirtyLogLegsMax * (sizeof(RaidDirtyLogLeg) + 16)];
};
static_assert(sizeof(RaidDirtyLogHeaderPage) == kRaidDirtyLogPageBytes);
static_assert(offsetof(RaidDirtyLogHeaderPage, crc) == 8);
static_assert(offsetof(RaidDirtyLogHeaderPage, log_id) == 32);
static_assert(offsetof(RaidDirtyLogHeaderPage, legs) == 80);
static_assert(offsetof(RaidDirtyLogHeaderPage, unsynced) == 272);
static_assert(offsetof(RaidDirtyLogHeaderPage, machine) == 280);
static_assert(offsetof(RaidDirtyLogHeaderPage, caches) == 296);

struct RaidDirtyLogPage {
  uint32_t signature;
  uint32_t crc;    // CRC32C of the page with this field zero
  uint32_t index;  // of the page within the bitmap
  uint32_t reserved;
  uint64_t log_id;
  uint64_t generation;  // higher at every write of any page
  uint8_t more_reserved[32];
  uint8_t bitmap[kRaidDirtyLogBitmapBytes];  // region n of the page is bit n % 8 of byte n / 8
};
static_assert(sizeof(RaidDirtyLogPage) == kRaidDirtyLogPageBytes);
static_assert(offsetof(RaidDirtyLogPage, bitmap) == 64);

struct RaidDirtyLogHeader {
  struct Left {
    Uuid uuid;
    uint64_t sequence = 0;
    bool operator==(const Left&) const = default;
  };
  Uuid volume_uuid;
  uint64_t log_id = 0;
  uint64_t sequence = 0;
  uint64_t epoch = 0;
  uint64_t region_blocks = 0;
  uint64_t region_count = 0;
  uint32_t block_size = 0;
  std::array<Left, kRaidDirtyLogLegsMax> left;
  uint32_t unsynced = 0;
  Uuid machine;                                   // nil: not known, as in the logs of earlier versions
  std::array<Uuid, kRaidDirtyLogLegsMax> caches;  // by slot, of the leg in `left`; nil: not known

  bool operator==(const RaidDirtyLogHeader&) const = default;
};

using RaidDirtyLogPageSpan = std::span<uint8_t, kRaidDirtyLogPageBytes>;
using RaidDirtyLogPageView = std::span<const uint8_t, kRaidDirtyLogPageBytes>;

// Pages of a bitmap of so many regions.
constexpr uint64_t raid_dirty_log_pages(uint64_t regions) noexcept {
  return (regions + kRaidDirtyLogRegionsPerPage - 1) / kRaidDirtyLogRegionsPerPage;
}

// The geometry must be valid (asserted: it comes from us).
void encode(const RaidDirtyLogHeader& header, RaidDirtyLogPageSpan page);
// Errc::not_found: no log there. Errc::corrupt: a wrong checksum or an impossible geometry. Errc::not_supported: a
// later version.
Result<RaidDirtyLogHeader> decode_raid_dirty_log_header(RaidDirtyLogPageView page);

// `bits` holds the page's regions, kRaidDirtyLogBitmapBytes at most; the rest of the page is clean.
void encode_raid_dirty_log_page(uint64_t log_id, uint32_t index, uint64_t generation, std::span<const uint8_t> bits,
                                RaidDirtyLogPageSpan page);
// The page's bitmap, within `page`. Errc::corrupt: another signature, index or log, or a wrong checksum.
Result<std::span<const uint8_t>> decode_raid_dirty_log_page(RaidDirtyLogPageView page, uint64_t log_id, uint32_t index);

}  // namespace diskengine::spec
