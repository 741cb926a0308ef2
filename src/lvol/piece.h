// The part of a request that lies within one cluster of a lvol: what the channel sends to the disk, or to the main
// reactor where metadata is needed for it. Taken from the pool of the store's channel on that reactor; whoever holds it
// passes it on, and it ends where it was taken.
#pragma once

#include <array>
#include <cstdint>
#include <span>

#include "block/request.h"
#include "runtime/reactor.h"

namespace diskengine::lvol {

class LvolChannel;
class Provisioner;

struct Piece final : Request, Message {
  // Of a request that spans clusters; a piece that would need more is made shorter.
  static constexpr size_t kSliceMax = 16;

  LvolChannel* channel_above = nullptr;
  Request* whole = nullptr;
  Op what = Op::read;
  bool gives_up = false;  // the cluster need not stay allocated: unmap, or write_zeroes that may unmap
  uint64_t cluster = 0;   // of the lvol
  uint64_t offset = 0;    // in the cluster, lvol blocks
  uint64_t units = 0;     // lvol blocks
  std::span<const iovec> payload;

  // At the main reactor, and back.
  enum class Stop : uint8_t { owner, home };
  Stop stop = Stop::owner;
  Provisioner* provisioner = nullptr;
  bool again = false;  // look the cluster up anew: something has changed; else `verdict` is the end of it
  IoStatus verdict;
  bool copied = false;  // what its cluster held in a parent was copied for it

  uint8_t era = 0;  // of StoreChannel, while it is with the disk
  Piece* next_free = nullptr;
  std::array<iovec, kSliceMax> slice;

  void deliver() noexcept override;
};

}  // namespace diskengine::lvol
