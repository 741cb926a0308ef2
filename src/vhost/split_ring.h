// The device's side of one split virtqueue in guest memory. Nothing in it is trusted: every index and address is read
// once and checked before use, because the guest may change it while we look.
//
//   Input object: heads of descriptor chains in the available ring. Output object: iovecs into guest memory (Chain);
//   used elements. Completion callback: none, the owner polls.
//
// One reactor's thread at a time. The memory table is kept alive by the owner.
#pragma once

#include <sys/uio.h>

#include <cstdint>

#include "base/result.h"
#include "format/virtio_ring.h"
#include "vhost/guest_memory.h"

namespace diskengine::vhost {

// The pieces of guest memory of one request: those the device reads, then those it writes. Short chains fit in the
// chain itself; longer ones use `overflow`, room for kPiecesMax that the owner provides.
struct Chain {
  static constexpr uint16_t kInlinePieces = 6;
  static constexpr uint16_t kPiecesMax = 256;

  iovec* pieces = nullptr;
  uint16_t readable = 0;
  uint16_t writable = 0;
  uint16_t capacity = 0;
  uint64_t readable_bytes = 0;
  uint64_t writable_bytes = 0;
  iovec* overflow = nullptr;
  iovec room[kInlinePieces];

  void clear() noexcept {
    pieces = room;
    readable = writable = 0;
    capacity = kInlinePieces;
    readable_bytes = writable_bytes = 0;
  }
  uint16_t count() const noexcept { return static_cast<uint16_t>(readable + writable); }
  bool push(uint8_t* base, uint64_t bytes, bool writes) noexcept;
};

// Why a chain cannot be served.
enum class ChainFault : uint8_t { none, loop, outside_memory, bad_indirect, empty_buffer, wrong_order, too_long };
std::string_view name_of(ChainFault fault) noexcept;

class SplitRing {
 public:
  struct Options {
    uint16_t size = 0;
    uint64_t desc = 0;  // user addresses of the front end
    uint64_t avail = 0;
    uint64_t used = 0;
    bool event_idx = false;
    bool indirect = false;
  };
  static constexpr uint16_t kBroken = UINT16_MAX;

  // Errc::invalid_argument if the arrays are unaligned or outside `memory`, or the size is not one of ours.
  Result<void> attach(const Options& options, const GuestMemory& memory);
  // The same ring in another memory table.
  Result<void> remap(const GuestMemory& memory);

  uint16_t size() const noexcept { return options_.size; }
  // Where we are in the available ring.
  uint16_t position() const noexcept { return next_avail_; }
  void set_position(uint16_t next_avail) noexcept { next_avail_ = next_avail; }
  // The used ring's index in memory.
  uint16_t used_index() const noexcept;

  // How many heads wait in the available ring; kBroken if the driver says more than the ring holds.
  uint16_t available() const noexcept;
  // The head `ahead` places on from our position; size() or more if the driver wrote nonsense.
  uint16_t peek(uint16_t ahead) const noexcept;
  void prefetch(uint16_t head) const noexcept { __builtin_prefetch(desc_ + size_t{head} * sizeof(spec::VringDesc)); }
  void advance(uint16_t by) noexcept { next_avail_ = static_cast<uint16_t>(next_avail_ + by); }
  // Follows the chain from `head` (which is in range).
  ChainFault read_chain(uint16_t head, Chain& chain) const noexcept;

  // How many published completions the driver has not looked at, as far as its wish for the next notification tells: 0
  // without event index, and for a driver that polls and leaves that wish behind.
  uint16_t unseen() const noexcept;

  // Puts a used element behind those not published yet; at most size() of them.
  void push_used(uint16_t head, uint32_t bytes_written) noexcept;
  uint16_t unpublished() const noexcept { return unpublished_; }
  // The used index that the driver is shown.
  uint16_t used_position() const noexcept { return static_cast<uint16_t>(next_used_ - unpublished_); }
  // Shows the driver what was pushed; returns whether it wants to be notified of it.
  bool publish() noexcept;

  // Asks the driver for notifications; returns false, and asks for none again, if heads came in meanwhile.
  bool enable_notifications() noexcept;
  void disable_notifications() noexcept;

 private:
  ChainFault read_descriptors(uint16_t head, Chain& chain) const noexcept;
  ChainFault push_buffer(const spec::VringDesc& desc, Chain& chain) const noexcept;

  Options options_;
  const GuestMemory* memory_ = nullptr;
  mutable const GuestMemory::Region* last_region_ = nullptr;
  const uint8_t* desc_ = nullptr;
  uint8_t* avail_ = nullptr;
  uint8_t* used_ = nullptr;
  uint16_t next_avail_ = 0;
  uint16_t next_used_ = 0;    // index of the next element to write
  uint16_t unpublished_ = 0;  // elements before next_used_ that the driver has not been shown
};

}  // namespace diskengine::vhost
