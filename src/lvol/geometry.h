// Where things of a store lie on its disk, in blocks of the disk. Immutable while the store is loaded. Any thread.
#pragma once

#include <bit>
#include <cstdint>

#include "base/checked.h"
#include "format/blobstore.h"

namespace diskengine::lvol {

struct Geometry {
  uint32_t disk_block_bytes = 512;
  uint32_t unit_bytes = 512;   // block of a lvol
  uint32_t disk_per_unit = 1;  // disk blocks in a lvol block
  uint32_t units_per_cluster = 0;
  uint32_t cluster_shift = 0;  // 0: units_per_cluster is no power of two
  uint32_t md_start = 0;       // pages
  uint32_t md_len = 0;         // pages

  static Geometry of(const spec::blobstore::Super& super, uint32_t disk_block_bytes) noexcept {
    Geometry geometry;
    geometry.disk_block_bytes = disk_block_bytes;
    geometry.unit_bytes = super.io_unit_bytes;
    geometry.disk_per_unit = super.io_unit_bytes / disk_block_bytes;
    geometry.units_per_cluster = super.cluster_bytes / super.io_unit_bytes;
    if (is_power_of_two(geometry.units_per_cluster))
      geometry.cluster_shift = static_cast<uint32_t>(std::countr_zero(geometry.units_per_cluster));
    geometry.md_start = super.md_start;
    geometry.md_len = super.md_len;
    return geometry;
  }

  uint64_t cluster_of(uint64_t unit) const noexcept {
    return cluster_shift != 0 ? unit >> cluster_shift : unit / units_per_cluster;
  }
  uint64_t offset_in_cluster(uint64_t unit) const noexcept {
    return cluster_shift != 0 ? unit & ((uint64_t{1} << cluster_shift) - 1) : unit % units_per_cluster;
  }
  uint64_t blocks_per_cluster() const noexcept { return uint64_t{units_per_cluster} * disk_per_unit; }
  uint64_t cluster_bytes() const noexcept { return uint64_t{units_per_cluster} * unit_bytes; }
  uint64_t lba_of_cluster(uint32_t cluster) const noexcept { return cluster * blocks_per_cluster(); }
  // Block `unit` of a cluster.
  uint64_t lba_in_cluster(uint32_t cluster, uint64_t unit) const noexcept {
    return lba_of_cluster(cluster) + unit * disk_per_unit;
  }
  uint32_t blocks_per_page() const noexcept {
    return static_cast<uint32_t>(spec::blobstore::kPageBytes / disk_block_bytes);
  }
  uint64_t lba_of_disk_page(uint64_t page) const noexcept { return page * blocks_per_page(); }
  uint64_t lba_of_md_page(uint32_t page) const noexcept { return lba_of_disk_page(uint64_t{md_start} + page); }
};

}  // namespace diskengine::lvol
