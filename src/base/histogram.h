// Log-linear histogram of unsigned values (latencies in ticks or nanoseconds): each power of two is cut into
// 2^precision_bits equal buckets, so a value is known to within 1 / 2^precision_bits of itself. Fixed memory, allocated
// by the constructor; record() never allocates. One thread records; others read copies made on that thread.
// The bucket layout is the one SPDK's histogram_data.h describes, so bdev_get_histogram can return it.
#pragma once

#include <bit>
#include <cstddef>
#include <cstdint>
#include <vector>

namespace diskengine {

class Histogram {
 public:
  static constexpr unsigned kDefaultPrecisionBits = 4;

  explicit Histogram(unsigned precision_bits = kDefaultPrecisionBits);

  void record(uint64_t value) noexcept { ++counts_[index_of(value)]; }
  void merge(const Histogram& other) noexcept;  // same precision
  void reset() noexcept;

  uint64_t total() const noexcept;
  // An upper bound of the value below which `fraction` (0 to 1) of the recorded values lie; 0 if there are none.
  uint64_t quantile(double fraction) const noexcept;

  unsigned precision_bits() const noexcept { return precision_bits_; }
  const std::vector<uint64_t>& counts() const noexcept { return counts_; }
  // The first value past bucket `index`.
  uint64_t bucket_end(size_t index) const noexcept;

 private:
  size_t index_of(uint64_t value) const noexcept {
    const unsigned width = static_cast<unsigned>(std::bit_width(value));
    const unsigned range = width > precision_bits_ ? width - precision_bits_ : 0;
    const unsigned shift = range > 0 ? range - 1 : 0;
    const uint64_t within = (value >> shift) & ((uint64_t{1} << precision_bits_) - 1);
    return (static_cast<size_t>(range) << precision_bits_) + within;
  }

  unsigned precision_bits_;
  std::vector<uint64_t> counts_;
};

}  // namespace diskengine
