#include "raid/dirty_log.h"

#include <algorithm>
#include <bit>

#include "base/log.h"
#include "raid/mutation.h"
#include "raid/volume.h"

namespace diskengine::raid {

DirtyLog::DirtyLog(Volume& volume) : volume_(volume), mutex_(volume.main()), sweep_timer_([this] { spawn(sweep()); }) {}

DirtyLog::~DirtyLog() {
  for (const auto& question : questions_) question->answer(false);
}

void DirtyLog::reset(bool persistent, uint64_t log_id, uint32_t block_size, uint64_t size_blocks, uint32_t region_kb) {
  uint64_t bytes = std::max(kRegionBytesMin, std::bit_ceil(size_blocks * block_size / kRegionsWanted));
  if (region_kb != 0) bytes = uint64_t{region_kb} * 1024;
  persistent_ = persistent;
  log_id_ = log_id;
  region_shift_ = static_cast<unsigned>(std::countr_zero(std::bit_ceil(bytes / block_size)));
  for (RegionBits* bits : {&marked_, &to_copy_, &asked_since_}) bits->resize(0);
  page_changed_.clear();
  const bool fits = grow(size_blocks);
  DE_ASSERT(fits);
}

bool DirtyLog::grow(uint64_t size_blocks) {
  const uint64_t regions = (size_blocks + region_blocks() - 1) / region_blocks();
  if (persistent_ && regions > kRegionsMax) return false;
  for (RegionBits* bits : {&marked_, &to_copy_, &asked_since_}) bits->resize(regions);
  page_changed_.resize(spec::raid_dirty_log_pages(regions), true);
  return true;
}

void DirtyLog::mark(uint64_t region) {
  if (marked_.test(region)) return;
  marked_.set(region);
  if constexpr (mutated(Mutation::dropped_dirty_bit)) return;
  page_changed_[region / spec::kRaidDirtyLogRegionsPerPage] = true;
}

void DirtyLog::mark_all() {
  for (uint64_t region = 0; region < regions(); ++region) mark(region);
}

// --- Questions of channels
// ---------------------------------------------------------------------------------------------

void DirtyLog::ask(std::shared_ptr<MarkExchange> question) {
  questions_.push_back(std::move(question));
  if (!answering_) spawn(answer_all());
}

Task<void> DirtyLog::answer_all() {
  const std::shared_ptr<Volume> volume = volume_.shared_from_this();
  answering_ = true;
  while (!questions_.empty()) {
    batch_ = std::exchange(questions_, {});
    for (const auto& question : batch_)
      for (const RegionRange& range : question->ranges())
        for (uint64_t region = range.first; region <= range.last && region < regions(); ++region) mark(region);
    bool written = co_await write_pages();
    // Any one leg that the superblocks call in sync has to have all marks: after a crash its log may be the only one.
    while (volume_.exclusion_unrecorded()) co_await sleep_for(volume_.main(), kWaitForRecordNs);
    if (volume_.fenced()) written = false;
    for (const auto& question : batch_) {
      for (const RegionRange& range : question->ranges())
        for (uint64_t region = range.first; region <= range.last && region < regions(); ++region)
          asked_since_.set(region);
      question->answer(written);
    }
    batch_.clear();
    arm_sweep();
  }
  answering_ = false;
}

// --- Pages
// -------------------------------------------------------------------------------------------------------------

Task<bool> DirtyLog::write_pages(bool all) {
  const std::shared_ptr<Volume> volume = volume_.shared_from_this();
  if (!persistent_) co_return true;
  co_await mutex_.lock();
  if (all) page_changed_.assign(page_changed_.size(), true);
  std::vector<uint32_t> pages;
  for (uint32_t i = 0; i < page_changed_.size(); ++i)
    if (page_changed_[i]) pages.push_back(i);
  page_changed_.assign(page_changed_.size(), false);
  bool written = true;
  if (!pages.empty()) {
    ++generation_;
    DmaBuffer buffer(pages.size() * spec::kRaidDirtyLogPageBytes);
    for (size_t i = 0; i < pages.size(); ++i) {
      const std::span<const uint8_t> bits = marked_.bytes();
      const size_t at = pages[i] * spec::kRaidDirtyLogBitmapBytes;
      spec::encode_raid_dirty_log_page(
          log_id_, pages[i], generation_, bits.subspan(at, std::min(spec::kRaidDirtyLogBitmapBytes, bits.size() - at)),
          spec::RaidDirtyLogPageSpan(buffer.data() + i * spec::kRaidDirtyLogPageBytes, spec::kRaidDirtyLogPageBytes));
    }
    written = co_await write_legs(pages, buffer.span());
    if (!written)
      for (const uint32_t page : pages) page_changed_[page] = true;
  }
  mutex_.unlock();
  co_return written;
}

// To all legs at once. A leg whose log cannot be written leaves before anything relies on the mark.
Task<bool> DirtyLog::write_legs(const std::vector<uint32_t>& pages, std::span<uint8_t> bytes) {
  OneShot<bool> done(volume_.main());
  std::vector<unsigned> targets;
  for (const auto& slot : volume_.slots())
    if (volume_.keeps_log(*slot)) targets.push_back(slot->index);
  if (targets.empty()) co_return false;
  auto left = static_cast<unsigned>(targets.size());
  bool failed = false;
  for (const unsigned slot : targets) spawn(write_leg_counted(slot, pages, bytes, left, failed, done));
  co_await done;
  co_return !failed;
}

Task<void> DirtyLog::write_leg_counted(unsigned slot, const std::vector<uint32_t>& pages, std::span<uint8_t> bytes,
                                       unsigned& left, bool& failed, OneShot<bool>& done) {
  const bool written = co_await write_leg(slot, pages, bytes);
  if (!written) failed = true;
  if (--left == 0) done.set(true);
}

// True if the leg has the pages, or is out.
Task<bool> DirtyLog::write_leg(unsigned index, const std::vector<uint32_t>& pages, std::span<uint8_t> bytes) {
  Volume::Slot& slot = *volume_.slots()[index];
  const uint64_t attachment = slot.attachments;
  const uint32_t block_size = volume_.block_size();
  IoStatus status;
  for (unsigned attempt = 0; attempt < kWriteTries; ++attempt) {
    for (size_t i = 0; i < pages.size(); ++i) {
      if (slot.attachments != attachment || !volume_.keeps_log(slot)) co_return true;
      const uint64_t at = spec::kRaidDirtyLogOffsetBytes + (1 + uint64_t{pages[i]}) * spec::kRaidDirtyLogPageBytes;
      status = co_await control_io(*slot.control, Op::write, at / block_size,
                                   bytes.subspan(i * spec::kRaidDirtyLogPageBytes, spec::kRaidDirtyLogPageBytes), true);
      if (!status.ok()) break;
    }
    if (status.ok()) co_return true;
    co_await sleep_for(volume_.main(), kWriteRetryNs);
  }
  if (slot.attachments != attachment || !volume_.keeps_log(slot)) co_return true;
  Result<void> out =
      co_await volume_.exclude(slot, spec::RaidBaseState::failed, "its dirty-region log cannot be written");
  if (!out)
    LOG_ERROR("raid", "{}: the dirty-region log of the last leg '{}' cannot be written", volume_.name(), slot.name);
  co_return out.has_value();
}

// --- Clearing
// ----------------------------------------------------------------------------------------------------------

void DirtyLog::arm_sweep() {
  if (persistent_ && !sweeping_ && !sweep_timer_.armed() && !marked_.empty())
    sweep_timer_.arm(volume_.main(), kSweepNs);
}

Task<void> DirtyLog::sweep() {
  const std::shared_ptr<Volume> volume = volume_.shared_from_this();
  if (sweeping_ || volume_.deleting() || volume_.state() != VolumeState::online) co_return;
  if (!volume_.legs_are_well()) co_return;  // armed again when they are
  sweeping_ = true;
  asked_since_.clear_all();
  auto kept = std::make_shared<RegionBits>();
  kept->resize(regions());
  OneShot<bool> swept(volume_.main());
  volume_.board().sweep(kept, [&swept] { swept.set(true); });
  co_await swept;
  RegionBits idle = marked_;
  idle.take_out(*kept);
  const bool cleared = co_await clear(std::move(idle));
  sweeping_ = false;
  if (cleared) arm_sweep();
}

// `idle` regions are complete on all legs; cleared once that is flushed, unless somebody asked for them meanwhile.
Task<bool> DirtyLog::clear(RegionBits idle) {
  take_out_wanted(idle);
  if (idle.empty()) co_return true;
  const uint64_t changes = volume_.leg_changes();
  const bool flushed = co_await flush_legs();
  if (!flushed || !volume_.legs_are_well() || volume_.leg_changes() != changes) co_return flushed;
  take_out_wanted(idle);
  for (uint64_t region = idle.next(0); region < idle.size(); region = idle.next(region + 1)) {
    marked_.clear(region);
    page_changed_[region / spec::kRaidDirtyLogRegionsPerPage] = true;
  }
  const bool written = co_await write_pages();
  co_return written;
}

// What was granted since the sweep began or is about to be, and what has still to be copied.
void DirtyLog::take_out_wanted(RegionBits& idle) const {
  idle.take_out(asked_since_);
  idle.take_out(to_copy_);
  for (const auto& question : batch_)
    for (const RegionRange& range : question->ranges())
      for (uint64_t region = range.first; region <= range.last && region < idle.size(); ++region) idle.clear(region);
}

Task<bool> DirtyLog::flush_legs() {
  if constexpr (mutated(Mutation::skipped_flush)) co_return true;
  for (const auto& slot : volume_.slots()) {
    if (!volume_.keeps_log(*slot)) continue;
    const IoStatus status = co_await control_io(*slot->control, Op::flush, 0, {}, false);
    if (!status.ok()) {
      LOG_WARN("raid", "{}: '{}' was not flushed ({}): its regions stay marked", volume_.name(), slot->name,
               diskengine::name_of(status.code));
      co_return false;
    }
  }
  co_return true;
}

Task<void> DirtyLog::close() {
  const std::shared_ptr<Volume> volume = volume_.shared_from_this();
  sweep_timer_.cancel();
  while (sweeping_ || answering_) co_await sleep_for(volume_.main(), 1'000'000);
  if (!persistent_ || marked_.empty() || !volume_.legs_are_well()) co_return;
  asked_since_.clear_all();
  const bool cleared = co_await clear(marked_);
  if (!cleared) LOG_WARN("raid", "{}: its dirty-region log stays as it is", volume_.name());
}

}  // namespace diskengine::raid
