// Data buffers of one reactor for transfers too long for a command's own buffer: equal chunks of DMA memory, reserved
// at set-up, touched only as far as they are used, handed out last-in first-out so that hot ones stay hot. Who finds
// too few waits in line.
//
// Threads: one reactor.
#pragma once

#include <sys/uio.h>

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "base/list.h"
#include "runtime/dma_buffer.h"
#include "runtime/dma_regions.h"

namespace diskengine::fabric {

class BufferPool {
 public:
  // Waits for chunks; told once when some came back, and then asks again.
  class Waiter : public ListHook {
   public:
    virtual void on_chunks_free() noexcept = 0;

   protected:
    ~Waiter() = default;
  };

  // Listed in `regions` if not null, which outlives the pool.
  BufferPool(size_t chunk_bytes, size_t chunks, DmaRegions* regions = nullptr)
      : chunk_bytes_(chunk_bytes), memory_(chunk_bytes * chunks) {
    if (regions != nullptr) listed_ = regions->list(memory_.data(), memory_.size());
    free_.reserve(chunks);
    for (size_t i = chunks; i > 0; --i) free_.push_back(memory_.data() + (i - 1) * chunk_bytes);
  }

  size_t chunk_bytes() const noexcept { return chunk_bytes_; }
  // All of it, for registration with a device.
  std::span<uint8_t> memory() noexcept { return memory_.span(); }
  size_t free_chunks() const noexcept { return free_.size(); }
  size_t chunks_for(size_t bytes) const noexcept { return (bytes + chunk_bytes_ - 1) / chunk_bytes_; }

  // Fills `iov` with chunks for `bytes`; false, taking none, if there are too few.
  bool take(size_t bytes, iovec* iov) noexcept {
    const size_t count = chunks_for(bytes);
    if (count > free_.size()) return false;
    for (size_t i = 0; i < count; ++i) {
      const size_t length = bytes < chunk_bytes_ ? bytes : chunk_bytes_;
      iov[i] = {free_.back(), length};
      free_.pop_back();
      bytes -= length;
    }
    return true;
  }
  void give_back(const iovec* iov, size_t count) noexcept {
    for (size_t i = count; i > 0; --i) free_.push_back(static_cast<uint8_t*>(iov[i - 1].iov_base));
    wake();
  }
  void wait(Waiter& waiter) noexcept {
    if (!waiter.linked()) waiting_.push_back(waiter);
  }

 private:
  // Each waiter is asked once; it may line up again.
  void wake() noexcept {
    if (waiting_.empty()) return;
    List<Waiter> due;
    due.splice_back(waiting_);
    while (!due.empty()) due.pop_front().on_chunks_free();
  }

  size_t chunk_bytes_;
  DmaBuffer memory_;
  DmaRegions::Listed listed_;
  std::vector<uint8_t*> free_;
  List<Waiter> waiting_;
};

}  // namespace diskengine::fabric
