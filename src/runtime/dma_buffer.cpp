#include "runtime/dma_buffer.h"

#include <linux/mman.h>
#include <sys/mman.h>

#include <utility>

#include "base/assert.h"
#include "base/checked.h"

namespace diskengine {

DmaBuffer::DmaBuffer(size_t bytes) {
  Result<DmaBuffer> allocated = allocate(bytes);
  DE_ASSERT(allocated.has_value());
  *this = std::move(*allocated);
}

Result<DmaBuffer> DmaBuffer::allocate(size_t bytes) {
  DmaBuffer buffer;
  const size_t size = round_up(bytes, kAlignment);
  if (size == 0) return buffer;
  void* mapped = mmap(nullptr, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (mapped == MAP_FAILED)
    return Error(Errc::no_memory, "no memory for a buffer of " + std::to_string(size) + " bytes");
  // Large buffers are used all over: fewer misses in the page tables are worth up to a tenth of a busy core. A kernel
  // without huge pages says no, which changes nothing.
  if (size >= kHugePageBytes) madvise(mapped, size, MADV_HUGEPAGE);
  buffer.data_ = static_cast<uint8_t*>(mapped);
  buffer.size_ = size;
  return buffer;
}

Result<DmaBuffer> DmaBuffer::allocate_huge(size_t bytes) {
  DmaBuffer buffer;
  const size_t size = round_up(bytes, kHugePageBytes);
  constexpr int kFlags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_HUGETLB | MAP_HUGE_2MB | MAP_POPULATE;
  void* mapped = mmap(nullptr, size, PROT_READ | PROT_WRITE, kFlags, -1, 0);
  if (mapped == MAP_FAILED)
    return Error(Errc::no_memory, "no " + std::to_string(size / kHugePageBytes) +
                                      " free huge pages of 2 MiB: give the kernel more (sysctl vm.nr_hugepages)");
  buffer.data_ = static_cast<uint8_t*>(mapped);
  buffer.size_ = size;
  return buffer;
}

DmaBuffer::DmaBuffer(DmaBuffer&& other) noexcept
    : data_(std::exchange(other.data_, nullptr)), size_(std::exchange(other.size_, 0)) {}

DmaBuffer& DmaBuffer::operator=(DmaBuffer&& other) noexcept {
  std::swap(data_, other.data_);
  std::swap(size_, other.size_);
  return *this;
}

DmaBuffer::~DmaBuffer() {
  if (data_ != nullptr) munmap(data_, size_);
}

}  // namespace diskengine
