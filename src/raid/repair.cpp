#include "raid/repair.h"

#include <fmt/format.h>

#include <algorithm>

#include "base/log.h"

namespace diskengine::raid {

std::string Repairs::json() const {
  return fmt::format(R"({{"blocks":{},"failed":{},"dropped":{},"waiting":{}}})", repaired_blocks_, failed_, dropped_,
                     queue_.size());
}

bool Repairs::covers(const Range& known, const Range& range) noexcept {
  return &known.leg.slot() == &range.leg.slot() && known.attachment == range.attachment && known.lba <= range.lba &&
         range.lba + range.blocks <= known.lba + known.blocks;
}

void Repairs::add(Volume::Slot& slot, uint64_t lba, uint64_t blocks) {
  if (volume_.deleting() || slot.role != SlotRole::in_sync || blocks == 0) return;
  const Range range{.leg = LegRef(slot), .attachment = slot.attachments, .lba = lba, .blocks = blocks};
  const auto known = [&](const Range& other) { return covers(other, range); };
  if (std::any_of(queue_.begin(), queue_.end(), known) || std::any_of(hopeless_.begin(), hopeless_.end(), known))
    return;
  if (queue_.size() == kQueuedMax) {
    ++dropped_;
    return;
  }
  queue_.push_back(range);
  if (!running_) spawn(run());
}

Task<void> Repairs::run() {
  const std::shared_ptr<Volume> volume = volume_.shared_from_this();
  running_ = true;
  while (!queue_.empty() && !volume_.deleting()) {
    const Range range = queue_.front();
    co_await repair(range);
    queue_.pop_front();  // until now, so that the same range is not asked for again meanwhile
  }
  queue_.clear();
  running_ = false;
}

Task<void> Repairs::repair(Range range) {
  const uint64_t most = kPieceBytes / volume_.block_size();
  DmaBuffer buffer(std::min(range.blocks, most) * volume_.block_size());
  for (uint64_t done = 0; done < range.blocks;) {
    if (!range.leg.synced() || volume_.deleting()) co_return;
    const uint64_t lba = range.lba + done;
    const uint64_t blocks = std::min(most, range.blocks - done);
    co_await volume_.process_mutex().lock();
    const unsigned lock = co_await volume_.lock_range(lba, lba + blocks);
    const bool rewritten = co_await rewrite(range, lba, buffer.span().first(blocks * volume_.block_size()));
    volume_.unlock_range(lock);
    co_await volume_.sync();
    volume_.process_mutex().unlock();
    if (!rewritten) co_return;
    repaired_blocks_ += blocks;
    done += blocks;
  }
  LOG_INFO("raid", "{}: '{}': {} blocks from {} on were rewritten from another leg", volume_.name(),
           range.leg.slot().name, range.blocks, range.lba);
}

Task<bool> Repairs::rewrite(const Range& range, uint64_t lba, std::span<uint8_t> buffer) {
  const bool found = co_await read_from_another(range, lba, buffer);
  if (!found) {
    ++failed_;
    co_return false;
  }
  const IoStatus written = co_await leg_io(range.leg, Op::write, lba, buffer);
  if (written.code == IoCode::canceled) co_return false;
  if (!written.ok()) {
    ++failed_;
    volume_.leg_failed_write(range.leg.slot(), written);
    co_return false;
  }
  const IoStatus read_back = co_await leg_io(range.leg, Op::read, lba, buffer);
  if (read_back.ok()) co_return true;
  if (read_back.code == IoCode::canceled) co_return false;
  ++failed_;
  if (hopeless_.size() == kHopelessMax) hopeless_.pop_front();
  hopeless_.push_back(range);
  volume_.announce(EventType::repair_failed, &range.leg.slot(),
                   fmt::format("blocks {} to {} cannot be read though they were rewritten: {}", range.lba,
                               range.lba + range.blocks - 1, diskengine::name_of(read_back.code)));
  co_return false;
}

Task<bool> Repairs::read_from_another(const Range& range, uint64_t lba, std::span<uint8_t> buffer) {
  for (size_t i = 0; i < volume_.slots().size(); ++i) {
    const LegRef source(*volume_.slots()[i]);
    if (&source.slot() == &range.leg.slot() || !source.synced()) continue;
    const IoStatus read = co_await leg_io(source, Op::read, lba, buffer);
    if (read.ok() && source.synced()) co_return true;
  }
  co_return false;
}

}  // namespace diskengine::raid
