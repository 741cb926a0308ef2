// What a channel of a mirror must know to serve I/O: an immutable snapshot of the legs and the locked ranges. The
// volume (raid/volume.h, main reactor) makes a new one, with the next generation, at every change; the board
// (raid/board.h) brings it to all channels. A channel reads its snapshot without locks.
//
// Two snapshots matter to a channel: the current one (which legs to send to) and the released one (the latest that
// every channel is known to have adopted). A write is acknowledged only by the released one: until then another reactor
// might still read from a leg that lacks the write.
#pragma once

#include <array>
#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>

#include "block/device.h"

namespace diskengine::raid {

inline constexpr unsigned kLegsMin = 2;
inline constexpr unsigned kLegsMax = 4;
// Legs of one volume that exist at a time, with those that left but still have I/O to drain. Each has a tag below this.
inline constexpr unsigned kTagsMax = 8;
inline constexpr unsigned kRangeLocksMax = 4;

using LegMask = uint8_t;  // by tag
static_assert(kTagsMax <= 8 * sizeof(LegMask));
constexpr LegMask mask_of(unsigned tag) noexcept { return static_cast<LegMask>(1u << tag); }

// One leg as channels use it. Shared by the volume, the views and the channels; when the last of them lets go, nothing
// is outstanding on the leg any more, and `released` runs on the main reactor with the device.
class Leg {
 public:
  using Released = std::function<void(std::shared_ptr<Device>)>;

  Leg(Reactor& main, std::shared_ptr<Device> device, unsigned tag, uint64_t data_offset, Released released)
      : main_(main), device_(std::move(device)), tag_(tag), data_offset_(data_offset), released_(std::move(released)) {}
  ~Leg() {
    main_.post(
        [device = std::move(device_), released = std::move(released_)]() mutable { released(std::move(device)); });
  }
  Leg(const Leg&) = delete;
  Leg& operator=(const Leg&) = delete;

  Device& device() const noexcept { return *device_; }
  const std::shared_ptr<Device>& device_ref() const noexcept { return device_; }
  unsigned tag() const noexcept { return tag_; }
  uint64_t data_offset() const noexcept { return data_offset_; }  // blocks

  // Requests that it failed, over all reactors.
  std::atomic<uint64_t> read_errors{0};
  std::atomic<uint64_t> write_errors{0};

 private:
  Reactor& main_;
  std::shared_ptr<Device> device_;
  unsigned tag_;
  uint64_t data_offset_;
  Released released_;
};

// Counts who still has writes in flight within a range that is being locked. `drained` runs on the main reactor when
// nobody has.
class DrainTicket {
 public:
  DrainTicket(Reactor& main, std::function<void()> drained) : main_(main), drained_(std::move(drained)) {}
  void add() noexcept { pending_.fetch_add(1, std::memory_order_relaxed); }
  void drop() noexcept {
    if (pending_.fetch_sub(1, std::memory_order_acq_rel) == 1) main_.post(std::move(drained_));
  }

 private:
  Reactor& main_;
  std::function<void()> drained_;
  std::atomic<uint32_t> pending_{1};  // the volume's own, dropped once every channel has adopted the lock
};

// Writes that overlap [begin, end) wait while this is in the view.
struct RangeLock {
  uint64_t begin = 0;
  uint64_t end = 0;
  std::shared_ptr<DrainTicket> ticket;  // null: no lock

  bool overlaps(uint64_t lba, uint64_t blocks) const noexcept {
    return ticket != nullptr && lba < end && begin < lba + blocks;
  }
};

struct View {
  uint64_t generation = 0;
  std::array<std::shared_ptr<Leg>, kTagsMax> legs;  // by tag; null: no such leg
  LegMask in_sync = 0;                              // written to; read from, but for those in `unread`
  LegMask rebuilding = 0;                           // written to below copied_until, never read from
  uint64_t copied_until = 0;
  LegMask unread = 0;    // of in_sync: written to as the others, but not read from
  bool stopped = false;  // nothing is begun, and no read or flush is answered, until it goes on
  bool fenced = false;   // the writer is stopped for good: nothing is acknowledged or taken any more
  // No leg to read from can be reached (raid/volume_reach.cpp).
  bool waiting = false;   // nothing is begun until one can
  bool may_wait = false;  // what finds that out waits and has it reported, instead of failing
  bool gave_up = false;   // it has lasted too long: what waits fails, and so does what comes
  std::array<RangeLock, kRangeLocksMax> locks;
  bool logs = false;          // regions are marked before they are written to (raid/marks.h)
  unsigned region_shift = 0;  // of a block's number, to that of its region

  bool locked(uint64_t lba, uint64_t blocks) const noexcept {
    for (const RangeLock& lock : locks)
      if (lock.overlaps(lba, blocks)) return true;
    return false;
  }
};

}  // namespace diskengine::raid
