// Memory that disks and network cards may reach directly: page aligned, zeroed, freed by its owner. Its one place of
// allocation is here, so that registration with an RDMA device or an IOMMU has one place to hook into. Allocated at
// set-up, never on the I/O path.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "base/result.h"

namespace diskengine {

class DmaBuffer {
 public:
  static constexpr size_t kAlignment = 4096;
  static constexpr size_t kHugePageBytes = size_t{2} << 20;

  DmaBuffer() = default;
  // Rounded up to kAlignment; aborts when the machine has no memory left: for buffers of our own choosing.
  explicit DmaBuffer(size_t bytes);
  // The same for sizes that a user chose: Errc::no_memory.
  static Result<DmaBuffer> allocate(size_t bytes);
  // Of the kernel's pool of huge pages (vm.nr_hugepages), which stay where they are, rounded up to them and aligned to
  // kHugePageBytes. Errc::no_memory.
  static Result<DmaBuffer> allocate_huge(size_t bytes);
  DmaBuffer(DmaBuffer&& other) noexcept;
  DmaBuffer& operator=(DmaBuffer&& other) noexcept;
  ~DmaBuffer();

  uint8_t* data() noexcept { return data_; }
  const uint8_t* data() const noexcept { return data_; }
  size_t size() const noexcept { return size_; }
  std::span<uint8_t> span() noexcept { return {data_, size_}; }

 private:
  uint8_t* data_ = nullptr;
  size_t size_ = 0;
};

}  // namespace diskengine
