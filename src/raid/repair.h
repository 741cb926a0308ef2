// Rewrites what a leg could not read from a leg that can: one range at a time, locked against writes meanwhile. A leg
// that cannot be written either leaves as one that failed a write; one that takes the write and still cannot read it
// stays, is reported, and is not tried again there.
//
// Threads: the main reactor. Owner: the volume, which waits until it is idle before it goes.
#pragma once

#include <cstdint>
#include <deque>
#include <string>
#include <vector>

#include "raid/leg_io.h"
#include "runtime/dma_buffer.h"

namespace diskengine::raid {

class Repairs {
 public:
  static constexpr size_t kQueuedMax = 64;  // ranges; more are dropped: the next read that fails there asks again
  static constexpr size_t kHopelessMax = 64;
  static constexpr uint64_t kPieceBytes = 1024 * 1024;  // locked and rewritten at a time

  explicit Repairs(Volume& volume) noexcept : volume_(volume) {}

  // The leg failed to read these blocks.
  void add(Volume::Slot& slot, uint64_t lba, uint64_t blocks);
  bool idle() const noexcept { return !running_; }

  uint64_t repaired_blocks() const noexcept { return repaired_blocks_; }
  // {"blocks":…,"failed":…,"dropped":…,"waiting":…}
  std::string json() const;

 private:
  struct Range {
    LegRef leg;
    uint64_t attachment;
    uint64_t lba;
    uint64_t blocks;
  };
  Task<void> run();
  Task<void> repair(Range range);
  Task<bool> rewrite(const Range& range, uint64_t lba, std::span<uint8_t> buffer);
  Task<bool> read_from_another(const Range& range, uint64_t lba, std::span<uint8_t> buffer);
  static bool covers(const Range& known, const Range& range) noexcept;

  Volume& volume_;
  bool running_ = false;
  std::deque<Range> queue_;
  std::deque<Range> hopeless_;  // rewritten in vain
  uint64_t repaired_blocks_ = 0;
  uint64_t failed_ = 0;
  uint64_t dropped_ = 0;
};

}  // namespace diskengine::raid
