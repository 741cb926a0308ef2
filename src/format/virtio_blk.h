// The virtio block device: feature bits, configuration space and requests, as in Virtio 1.2 section 5.2. All integers
// little endian. Layouts only; docs/formats/virtio-blk.md says which of it we offer.
#pragma once

#include <cstddef>
#include <cstdint>

namespace diskengine::spec {

inline constexpr uint32_t kVirtioBlkSectorBytes = 512;  // the unit of sectors, whatever the block size

inline constexpr unsigned kVirtioBlkFSizeMax = 1;
inline constexpr unsigned kVirtioBlkFSegMax = 2;
inline constexpr unsigned kVirtioBlkFRo = 5;
inline constexpr unsigned kVirtioBlkFBlkSize = 6;
inline constexpr unsigned kVirtioBlkFFlush = 9;
inline constexpr unsigned kVirtioBlkFTopology = 10;
inline constexpr unsigned kVirtioBlkFMq = 12;
inline constexpr unsigned kVirtioBlkFDiscard = 13;
inline constexpr unsigned kVirtioBlkFWriteZeroes = 14;

struct [[gnu::packed]] VirtioBlkConfig {
  uint64_t capacity;  // sectors
  uint32_t size_max;  // bytes of the longest segment
  uint32_t seg_max;   // data segments of a request
  uint16_t cylinders;
  uint8_t heads;
  uint8_t sectors;
  uint32_t blk_size;  // bytes
  uint8_t physical_block_exp;
  uint8_t alignment_offset;
  uint16_t min_io_size;  // blocks
  uint32_t opt_io_size;  // blocks
  uint8_t writeback;
  uint8_t unused0;
  uint16_t num_queues;
  uint32_t max_discard_sectors;
  uint32_t max_discard_seg;
  uint32_t discard_sector_alignment;
  uint32_t max_write_zeroes_sectors;
  uint32_t max_write_zeroes_seg;
  uint8_t write_zeroes_may_unmap;
  uint8_t unused1[3];
};
static_assert(sizeof(VirtioBlkConfig) == 60 && offsetof(VirtioBlkConfig, blk_size) == 20 &&
              offsetof(VirtioBlkConfig, writeback) == 32 && offsetof(VirtioBlkConfig, num_queues) == 34 &&
              offsetof(VirtioBlkConfig, max_discard_sectors) == 36 &&
              offsetof(VirtioBlkConfig, write_zeroes_may_unmap) == 56);

enum class VirtioBlkType : uint32_t {
  in = 0,
  out = 1,
  flush = 4,
  get_id = 8,
  discard = 11,
  write_zeroes = 13,
};

// Opens every request; device readable.
struct VirtioBlkHeader {
  uint32_t type;
  uint32_t reserved;
  uint64_t sector;
};
static_assert(sizeof(VirtioBlkHeader) == 16 && offsetof(VirtioBlkHeader, sector) == 8);

// The last byte of every request; device writable.
inline constexpr uint8_t kVirtioBlkOk = 0;
inline constexpr uint8_t kVirtioBlkIoErr = 1;
inline constexpr uint8_t kVirtioBlkUnsupp = 2;

inline constexpr size_t kVirtioBlkIdBytes = 20;

// The payload of discard and write_zeroes.
struct VirtioBlkRange {
  uint64_t sector;
  uint32_t num_sectors;
  uint32_t flags;
};
static_assert(sizeof(VirtioBlkRange) == 16 && offsetof(VirtioBlkRange, flags) == 12);
inline constexpr uint32_t kVirtioBlkRangeUnmap = 1;  // write_zeroes only

}  // namespace diskengine::spec
