// A set of small integers as bits, in the byte order of the blobstore's masks. One thread.
#pragma once

#include <bit>
#include <cstdint>
#include <cstring>
#include <span>
#include <vector>

#include "base/assert.h"

namespace diskengine::lvol {

class Bitmap {
 public:
  static constexpr uint32_t kNone = UINT32_MAX;

  explicit Bitmap(uint32_t size = 0) { resize(size); }
  // New bits are clear; shrinking drops bits.
  void resize(uint32_t size) {
    words_.resize((size_t{size} + 63) / 64);
    if (size < size_ && size % 64 != 0) words_.back() &= (uint64_t{1} << (size % 64)) - 1;
    size_ = size;
    count_ = 0;
    for (const uint64_t word : words_) count_ += static_cast<uint32_t>(std::popcount(word));
  }
  uint32_t size() const noexcept { return size_; }
  uint32_t count() const noexcept { return count_; }
  uint32_t clear_count() const noexcept { return size_ - count_; }

  bool test(uint32_t bit) const noexcept { return (words_[bit / 64] >> (bit % 64) & 1) != 0; }
  void set(uint32_t bit) noexcept {
    DE_ASSERT(bit < size_ && !test(bit));
    words_[bit / 64] |= uint64_t{1} << (bit % 64);
    ++count_;
  }
  void clear(uint32_t bit) noexcept {
    DE_ASSERT(bit < size_ && test(bit));
    words_[bit / 64] &= ~(uint64_t{1} << (bit % 64));
    --count_;
  }
  // The first clear bit at or after `from`, or kNone.
  uint32_t find_clear(uint32_t from) const noexcept {
    for (size_t word = from / 64; word < words_.size(); ++word) {
      uint64_t free = ~words_[word];
      if (word == from / 64) free &= ~uint64_t{0} << (from % 64);
      if (free == 0) continue;
      const uint64_t bit = word * 64 + static_cast<unsigned>(std::countr_zero(free));
      return bit < size_ ? static_cast<uint32_t>(bit) : kNone;
    }
    return kNone;
  }
  // `bytes` holds size() bits or more, lowest first.
  void load(std::span<const uint8_t> bytes) {
    DE_ASSERT(bytes.size() >= (size_t{size_} + 7) / 8);
    std::memset(words_.data(), 0, words_.size() * 8);
    std::memcpy(words_.data(), bytes.data(), (size_t{size_} + 7) / 8);
    if (size_ % 64 != 0) words_.back() &= (uint64_t{1} << (size_ % 64)) - 1;
    resize(size_);
  }
  std::span<const uint8_t> bytes() const noexcept {
    return {reinterpret_cast<const uint8_t*>(words_.data()), (size_t{size_} + 7) / 8};
  }

 private:
  uint32_t size_ = 0;
  uint32_t count_ = 0;
  std::vector<uint64_t> words_;
};

}  // namespace diskengine::lvol
