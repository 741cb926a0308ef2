// The dirty-region log of one volume: in which regions its legs may differ. A region is marked on every leg before the
// first write into it is sent, and stays marked until all legs have everything that was written there and have flushed
// it. So after a crash, or when a leg returns, only marked regions have to be copied.
//
//   asked       a channel wants to write (raid/marks.h). What several ask for meanwhile is written together.
//   marked      durable on every leg that the superblocks call in sync; the channel writes as it likes
//   swept       every kSweepNs channels give up what they no longer write to; if all legs are well they are flushed and
//               the regions that no channel kept are cleared
//
// A volume without superblocks has no room for a log: there it only holds what a rebuild has still to copy.
//
// Threads: the main reactor. Owner: the volume.
#pragma once

#include <memory>
#include <vector>

#include "format/raid_dirty_log.h"
#include "raid/control_io.h"
#include "raid/marks.h"

namespace diskengine::raid {

class Volume;

class DirtyLog {
 public:
  static constexpr uint64_t kRegionBytesMin = 1024 * 1024;
  static constexpr uint64_t kRegionsWanted = 1024 * 1024;  // regions are larger where there would be more
  static constexpr uint64_t kRegionsMax = spec::kRaidDirtyLogPagesMax * spec::kRaidDirtyLogRegionsPerPage;
  static constexpr uint64_t kSweepNs = 5'000'000'000;
  static constexpr unsigned kWriteTries = 3;
  static constexpr uint64_t kWriteRetryNs = 20'000'000;
  static constexpr uint64_t kWaitForRecordNs = 1'000'000;

  explicit DirtyLog(Volume& volume);
  ~DirtyLog();

  // Nothing is marked. `region_kb` 0: as large as suits the size.
  void reset(bool persistent, uint64_t log_id, uint32_t block_size, uint64_t size_blocks, uint32_t region_kb);
  // False: it has no room for so many regions.
  bool grow(uint64_t size_blocks);
  bool persistent() const noexcept { return persistent_; }
  uint64_t log_id() const noexcept { return log_id_; }
  void set_log_id(uint64_t log_id) noexcept { log_id_ = log_id; }
  unsigned region_shift() const noexcept { return region_shift_; }
  uint64_t region_blocks() const noexcept { return uint64_t{1} << region_shift_; }
  uint64_t regions() const noexcept { return marked_.size(); }
  const RegionBits& marked() const noexcept { return marked_; }

  // A channel's question; answered once what it asks for is marked.
  void ask(std::shared_ptr<MarkExchange> question);
  // Marks in memory, and on the legs with the next write_pages().
  void mark(uint64_t region);
  void mark_all();
  // Writes to every leg what it lacks; all pages if told. False: not even one leg could be written.
  Task<bool> write_pages(bool all = false);
  // With nobody using the volume: clears everything and writes that, if all legs are well and flushed.
  Task<void> close();

  // What a copy has still to bring to a leg. A region in it stays marked.
  RegionBits& to_copy() noexcept { return to_copy_; }
  // Begins to sweep some time after now.
  void arm_sweep();

 private:
  Task<void> answer_all();
  Task<bool> write_leg(unsigned slot, const std::vector<uint32_t>& pages, std::span<uint8_t> bytes);
  Task<void> write_leg_counted(unsigned slot, const std::vector<uint32_t>& pages, std::span<uint8_t> bytes,
                               unsigned& left, bool& failed, OneShot<bool>& done);
  Task<bool> write_legs(const std::vector<uint32_t>& pages, std::span<uint8_t> bytes);
  Task<void> sweep();
  Task<bool> clear(RegionBits idle);
  void take_out_wanted(RegionBits& idle) const;
  Task<bool> flush_legs();

  Volume& volume_;
  bool persistent_ = false;
  uint64_t log_id_ = 0;
  unsigned region_shift_ = 0;
  RegionBits marked_;
  RegionBits to_copy_;
  RegionBits asked_since_;  // granted since the sweep under way began
  std::vector<bool> page_changed_;
  uint64_t generation_ = 0;
  std::vector<std::shared_ptr<MarkExchange>> questions_;
  std::vector<std::shared_ptr<MarkExchange>> batch_;  // being answered
  bool answering_ = false;
  bool sweeping_ = false;
  TaskMutex mutex_;  // one write of pages at a time
  Timer sweep_timer_;
};

}  // namespace diskengine::raid
