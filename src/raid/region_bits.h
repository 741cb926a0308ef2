// A set of regions of a volume, one bit each. Whoever has it owns it: no locks.
#pragma once

#include <bit>
#include <cstdint>
#include <span>
#include <vector>

#include "base/assert.h"

namespace diskengine::raid {

struct RegionRange {
  uint64_t first = 0;
  uint64_t last = 0;  // included
};

class RegionBits {
 public:
  uint64_t size() const noexcept { return size_; }
  // New regions are not in it.
  void resize(uint64_t regions) {
    DE_ASSERT(regions >= size_ || regions == 0);
    size_ = regions;
    words_.resize((regions + 63) / 64);
  }
  bool test(uint64_t region) const noexcept { return region < size_ && (words_[region / 64] & bit_of(region)) != 0; }
  bool test_all(RegionRange range) const noexcept {
    for (uint64_t region = range.first; region <= range.last; ++region)
      if (!test(region)) return false;
    return true;
  }
  void set(uint64_t region) noexcept {
    DE_ASSERT(region < size_);
    words_[region / 64] |= bit_of(region);
  }
  void set(RegionRange range) noexcept {
    for (uint64_t region = range.first; region <= range.last; ++region) set(region);
  }
  void clear(uint64_t region) noexcept { words_[region / 64] &= ~bit_of(region); }
  void set_all() noexcept {
    for (uint64_t region = 0; region < size_; ++region) set(region);
  }
  void clear_all() noexcept { words_.assign(words_.size(), 0); }
  // The sets may be of different sizes; what is past the end of this one is left out.
  void add(const RegionBits& other) noexcept {
    for (size_t i = 0; i < words_.size() && i < other.words_.size(); ++i) words_[i] |= other.words_[i];
  }
  void take_out(const RegionBits& other) noexcept {
    for (size_t i = 0; i < words_.size() && i < other.words_.size(); ++i) words_[i] &= ~other.words_[i];
  }
  void keep_only(const RegionBits& other) noexcept {
    for (size_t i = 0; i < words_.size(); ++i) words_[i] &= i < other.words_.size() ? other.words_[i] : 0;
  }
  bool empty() const noexcept {
    for (const uint64_t word : words_)
      if (word != 0) return false;
    return true;
  }
  uint64_t count() const noexcept {
    uint64_t sum = 0;
    for (const uint64_t word : words_) sum += static_cast<uint64_t>(std::popcount(word));
    return sum;
  }
  // The first region at or after `from` that is in it; size() if there is none.
  uint64_t next(uint64_t from) const noexcept {
    for (uint64_t at = from; at < size_;) {
      const uint64_t word = words_[at / 64] >> (at % 64);
      if (word != 0) return at + static_cast<uint64_t>(std::countr_zero(word));
      at = (at / 64 + 1) * 64;
    }
    return size_;
  }
  // Region n is bit n % 8 of byte n / 8.
  std::span<const uint8_t> bytes() const noexcept {
    return {reinterpret_cast<const uint8_t*>(words_.data()), (size_ + 7) / 8};
  }

 private:
  static uint64_t bit_of(uint64_t region) noexcept { return uint64_t{1} << (region % 64); }

  uint64_t size_ = 0;
  std::vector<uint64_t> words_;
};

}  // namespace diskengine::raid
