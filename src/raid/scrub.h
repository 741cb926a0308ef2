// Reads all of a volume from every leg in sync and compares, window by window, while the volume is in use: writes to a
// window wait until it is compared. Blocks that a leg cannot read are rewritten from one that can. Where legs differ
// nothing says which one is right (what the log knows of is made alike by a rebuild, which a scrub waits for), so that
// is reported and left as it is.
//
// Threads: the main reactor. Owner: the volume, which stops it and waits before it goes; one that ended is kept for its
// findings until the next.
#pragma once

#include <string>
#include <vector>

#include "raid/leg_io.h"
#include "raid/progress.h"
#include "runtime/dma_buffer.h"

namespace diskengine::raid {

class Scrub {
 public:
  static constexpr uint64_t kWindowBytes = 1024 * 1024;        // locked and compared at a time
  static constexpr uint64_t kLimitedWindowBytes = 128 * 1024;  // with a bandwidth limit
  static constexpr size_t kDifferencesMax = 64;                // that are named; all are counted
  static constexpr uint64_t kWaitNs = 50'000'000;              // between two looks whether it can go on

  enum class State : uint8_t { running, waiting, done, stopped };

  // A range in which legs differ, with a checksum of what each of them holds there.
  struct Difference {
    uint64_t lba = 0;
    uint64_t blocks = 0;
    std::vector<std::pair<std::string, uint32_t>> legs;
  };
  struct Findings {
    uint64_t differing_blocks = 0;
    uint64_t healed_blocks = 0;
    uint64_t unreadable_blocks = 0;  // of a leg, and not healed
    std::vector<Difference> differences;
  };

  // `max_bandwidth_mb_sec` of the volume, MiB a second; 0: no limit.
  Scrub(Volume& volume, uint64_t max_bandwidth_mb_sec);

  Task<void> run();
  void stop(std::string why);
  // Told to end; it may still be about to.
  bool ended() const noexcept { return state_ == State::done || state_ == State::stopped; }
  bool runs() const noexcept { return running_; }
  State state() const noexcept { return state_; }
  const std::string& reason() const noexcept { return reason_; }
  const Progress& progress() const noexcept { return progress_; }
  const Findings& findings() const noexcept { return findings_; }
  std::string json(uint64_t now_ns) const;

 private:
  struct Copy {
    LegRef leg;
    std::span<uint8_t> data;
    IoStatus status;
  };

  Task<bool> wait_until_possible();
  Task<void> scrub_window(uint64_t begin, uint64_t end);
  Task<void> read_all(std::vector<Copy>& copies, uint64_t lba);
  Task<void> read_one(Copy& copy, uint64_t lba, size_t& left, OneShot<bool>& all);
  Task<void> heal(std::vector<Copy>& copies, uint64_t lba);
  void compare(const std::vector<Copy>& copies, uint64_t lba);
  void note_difference(const std::vector<Copy>& copies, uint64_t lba, uint64_t first, uint64_t blocks);
  Task<void> throttle(uint64_t blocks, uint64_t since_ns);
  unsigned legs_to_compare() const noexcept;

  Volume& volume_;
  const uint64_t max_bandwidth_mb_sec_;
  State state_ = State::running;
  bool running_ = true;
  std::string reason_;  // why it waits or was stopped
  Progress progress_;
  uint64_t total_blocks_ = 0;
  uint64_t ended_ns_ = 0;
  std::vector<DmaBuffer> buffers_;  // one for each leg
  Findings findings_;
};

}  // namespace diskengine::raid
