// Tells in constant time whether a write may overlap one that is under way: counters per region of the device, hashed
// into a fixed table. "No" is certain; "maybe" is settled by the caller, who compares with the writes themselves.
// One channel owns it.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>

#include "base/assert.h"

namespace diskengine::raid {

class WriteTracker {
 public:
  static constexpr unsigned kBuckets = 1024;
  // A write over more regions than this is "wide": it may overlap everything.
  static constexpr uint64_t kRegionsMax = 8;
  static constexpr uint64_t kRegionBytes = 64 * 1024;

  explicit WriteTracker(uint32_t block_size) noexcept : region_blocks_(kRegionBytes / block_size) {}

  void add(uint64_t lba, uint64_t blocks) noexcept {
    ++count_;
    change(lba, blocks, 1);
  }
  void remove(uint64_t lba, uint64_t blocks) noexcept {
    DE_ASSERT(count_ > 0);
    --count_;
    change(lba, blocks, static_cast<uint32_t>(-1));
  }
  bool may_overlap(uint64_t lba, uint64_t blocks) const noexcept {
    if (count_ == 0) return false;
    if (wide_ > 0) return true;
    const uint64_t first = lba / region_blocks_, last = (lba + blocks - 1) / region_blocks_;
    if (last - first >= kRegionsMax) return true;
    for (uint64_t region = first; region <= last; ++region)
      if (buckets_[bucket_of(region)] > 0) return true;
    return false;
  }
  uint32_t count() const noexcept { return count_; }

 private:
  static size_t bucket_of(uint64_t region) noexcept { return (region * 0x9e3779b97f4a7c15u) >> 54; }
  static_assert(kBuckets == 1u << (64 - 54));
  void change(uint64_t lba, uint64_t blocks, uint32_t by) noexcept {
    const uint64_t first = lba / region_blocks_, last = (lba + blocks - 1) / region_blocks_;
    if (last - first >= kRegionsMax) {
      wide_ += by;
      return;
    }
    for (uint64_t region = first; region <= last; ++region) buckets_[bucket_of(region)] += by;
  }

  uint64_t region_blocks_;
  uint32_t count_ = 0;
  uint32_t wide_ = 0;
  std::array<uint32_t, kBuckets> buckets_{};
};

}  // namespace diskengine::raid
