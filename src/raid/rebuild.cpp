#include "raid/rebuild.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstring>

#include "base/log.h"

namespace diskengine::raid {

Rebuild::Rebuild(Volume& volume, Volume::Slot& target)
    : volume_(volume),
      target_(target),
      attachment_(target.attachments),
      max_bandwidth_mb_sec_(volume.options().process_max_bandwidth_mb_sec) {
  for (Piece& piece : pieces_) {
    piece.rebuild = this;
    piece.buffer = DmaBuffer(kPieceBytes);
    piece.done = [](Request& request) noexcept {
      auto& done = static_cast<Piece&>(request);
      done.rebuild->piece_done(done);
    };
  }
}

Rebuild::~Rebuild() { DE_ASSERT(under_way_ == 0); }

void Rebuild::cancel(std::string why) {
  if (why_stopped_.empty()) why_stopped_ = std::move(why);
}

bool Rebuild::stopped() const noexcept {
  return !why_stopped_.empty() || target_.attachments != attachment_ || target_.leg == nullptr || target_.excluding ||
         target_.control == nullptr;
}

uint64_t Rebuild::window_blocks() const noexcept {
  uint64_t bytes = uint64_t{volume_.options().process_window_size_kb} * 1024;
  if (max_bandwidth_mb_sec_ != 0)
    bytes = std::min(bytes,
                     std::max(kLimitedWindowBytesMin, max_bandwidth_mb_sec_ * 1024 * 1024 / kLimitedWindowsPerSecond));
  return std::max<uint64_t>(1, bytes / volume_.block_size());
}

// The first stretch at or after block `from` that is to be copied, at most a window long; empty if there is none.
Rebuild::Window Rebuild::next_window(uint64_t from) const noexcept {
  DirtyLog& log = volume_.dirty_log();
  const uint64_t size = volume_.size_blocks();
  const uint64_t region = log.to_copy().next(from / log.region_blocks());
  const uint64_t begin = std::max(from, region * log.region_blocks());
  if (region >= log.regions() || begin >= size) return {};
  const uint64_t most = std::min(size, begin + window_blocks());
  uint64_t end = (region + 1) * log.region_blocks();
  while (end < most && log.to_copy().test(end / log.region_blocks())) end += log.region_blocks();
  return {begin, std::min(end, most)};
}

// Regions that end within the window have all of it.
void Rebuild::window_done(Window window) noexcept {
  DirtyLog& log = volume_.dirty_log();
  for (uint64_t region = window.begin / log.region_blocks(); region * log.region_blocks() < window.end; ++region) {
    const uint64_t end = std::min((region + 1) * log.region_blocks(), volume_.size_blocks());
    if (end <= window.end) log.to_copy().clear(region);
  }
}

uint64_t Rebuild::blocks_to_copy() const noexcept {
  const DirtyLog& log = volume_.dirty_log();
  return std::min(volume_.size_blocks(), volume_.dirty_log().to_copy().count() * log.region_blocks());
}

Task<Result<void>> Rebuild::run() {
  for (unsigned attempt = 0; attempt <= kRestartsMax; ++attempt) {
    if (restart_) {
      if (target_.copied_in_full && !volume_.dirty_log().persistent()) volume_.dirty_log().to_copy().set_all();
      volume_.dirty_log().to_copy().add(volume_.dirty_log().marked());
    }
    restart_ = false;
    Result<void> copied = co_await copy_all();
    CO_TRY(copied);
    if (restart_) continue;
    Result<void> finished = co_await finish_copy();
    CO_TRY(finished);
    if (!restart_) co_return Result<void>{};
  }
  co_return Error(Errc::io_error, fmt::format("the leg that is copied from failed writes again in each of {} attempts",
                                              kRestartsMax + 1));
}

Task<Result<void>> Rebuild::copy_all() {
  // A leg that had everything but the marked regions gets every write from now on; a new one what was copied already.
  volume_.set_copied_until(target_.copied_in_full ? 0 : UINT64_MAX);
  co_await volume_.sync();
  // What was marked before every channel sent it all writes, it may have missed.
  DirtyLog& log = volume_.dirty_log();
  if (!target_.copied_in_full) log.to_copy().add(log.marked());
  target_.gets_writes = true;
  progress_.start(volume_.main().now_ns(), blocks_to_copy());
  Window window = next_window(0);
  while (window.end != 0 && !restart_) {
    const uint64_t since_ns = volume_.main().now_ns();
    const unsigned lock = co_await volume_.lock_range(window.begin, window.end);
    Result<void> copied = co_await copy_window(window.begin, window.end);
    // Before the next window is locked, or now if there is none: the change goes out with it.
    volume_.unlock_range(lock);
    const uint64_t blocks = window.end - window.begin;
    if (copied) {
      if (target_.copied_in_full) volume_.set_copied_until(window.end);
      window_done(window);
      progress_.set_done(volume_.main().now_ns(), progress_.done() + blocks);
    }
    window = next_window(window.end);
    const bool limited = max_bandwidth_mb_sec_ != 0;
    if (!copied || limited || window.end == 0 || restart_) co_await volume_.sync();
    CO_TRY(copied);
    if (limited) co_await throttle(blocks, since_ns);
  }
  co_return Result<void>{};
}

// Sleeps until copying `copied_blocks` has taken as long as the limit asks for.
Task<bool> Rebuild::throttle(uint64_t copied_blocks, uint64_t since_ns) {
  const uint64_t bytes = copied_blocks * volume_.block_size();
  const uint64_t needed_ns = bytes * 1'000'000'000 / (max_bandwidth_mb_sec_ * 1024 * 1024);
  const uint64_t until_ns = since_ns + needed_ns;
  while (!stopped()) {
    const uint64_t now_ns = volume_.main().now_ns();
    if (now_ns >= until_ns) break;
    co_await sleep_for(volume_.main(), std::min(until_ns - now_ns, kThrottleSliceNs));
  }
  co_return true;
}

Task<Result<void>> Rebuild::copy_window(uint64_t begin, uint64_t end) {
  OneShot<bool> done(volume_.main());
  next_ = begin;
  end_ = end;
  failed_ = false;
  window_done_ = &done;
  const uint64_t requests = volume_.board().requests_taken();
  pieces_now_ = std::exchange(requests_seen_, requests) == requests ? kPiecesIdle : kPiecesBusy;
  start_pieces();
  if (under_way_ > 0) co_await done;
  window_done_ = nullptr;
  if (!why_stopped_.empty()) co_return Error(Errc::canceled, why_stopped_);
  if (stopped()) co_return Error(Errc::canceled, "the new leg left");
  if (failed_) co_return Error(Errc::io_error, "no leg in sync could be read, or the new leg could not be written");
  co_return Result<void>{};
}

void Rebuild::start_pieces() {
  const uint64_t most = [&] {
    uint64_t blocks = kPieceBytes / volume_.block_size();
    for (const auto& slot : volume_.slots())
      if (slot->present() && slot->leg->device().info().max_transfer_blocks != 0)
        blocks = std::min<uint64_t>(blocks, slot->leg->device().info().max_transfer_blocks);
    return blocks;
  }();
  for (Piece& piece : pieces_) {
    if (failed_ || stopped() || next_ == end_ || under_way_ == pieces_now_) return;
    if (piece.count != 0) continue;
    piece.at = next_;
    piece.count = std::min(most, end_ - next_);
    piece.tried = 0;
    next_ += piece.count;
    ++under_way_;
    read_piece(piece);
  }
}

bool Rebuild::is_source(const Volume::Slot& slot) const noexcept {
  return &slot != &target_ && slot.role == SlotRole::in_sync && !slot.excluding && !slot.unsynced &&
         slot.control != nullptr;
}

// From the next leg in sync that has not failed to serve this piece.
void Rebuild::read_piece(Piece& piece) {
  const auto& slots = volume_.slots();
  for (unsigned i = 0; i < slots.size(); ++i) {
    const unsigned index = (source_turn_ + i) % slots.size();
    Volume::Slot& source = *slots[index];
    if (!is_source(source)) continue;
    if ((piece.tried & 1u << index) != 0) continue;
    source_turn_ = index + 1;
    piece.source = index;
    piece.writing = false;
    piece.op = Op::read;
    piece.lba = source.data_offset + piece.at;
    piece.blocks = piece.count;
    piece.payload = {piece.buffer.data(), piece.count * volume_.block_size()};
    piece.iov = {&piece.payload, 1};
    source.control->submit(piece);
    return;
  }
  failed_ = true;
  piece_ended(piece);
}

// Zeroes are not brought as data: a thin leg stays thin.
void Rebuild::write_piece(Piece& piece) {
  const uint8_t* data = piece.buffer.data();
  const size_t bytes = piece.count * volume_.block_size();
  const bool zeroes = data[0] == 0 && std::memcmp(data, data + 1, bytes - 1) == 0;
  piece.writing = true;
  piece.op = Op::write;
  piece.may_unmap = false;
  if (zeroes && target_.leg->device().info().can_write_zeroes) {
    piece.op = Op::write_zeroes;
    piece.may_unmap = true;
    piece.iov = {};
  }
  piece.lba = target_.data_offset + piece.at;
  target_.control->submit(piece);
}

void Rebuild::piece_done(Piece& piece) {
  if (stopped()) {
    piece_ended(piece);
  } else if (!piece.writing && !piece.status.ok()) {
    piece.tried |= 1u << piece.source;
    const auto& source = volume_.slots()[piece.source];
    if (source->leg != nullptr) {
      source->leg->read_errors.fetch_add(1, std::memory_order_relaxed);
      volume_.repair(*source, piece.at, piece.count);
    }
    read_piece(piece);
  } else if (!piece.writing) {
    write_piece(piece);
  } else {
    if (!piece.status.ok()) {
      target_.leg->write_errors.fetch_add(1, std::memory_order_relaxed);
      failed_ = true;
    }
    piece_ended(piece);
  }
}

void Rebuild::piece_ended(Piece& piece) {
  piece.count = 0;
  --under_way_;
  start_pieces();
  if (under_way_ == 0 && !window_done_->is_set()) window_done_->set(true);
}

Task<Result<void>> Rebuild::finish_copy() {
  if (stopped()) co_return Error(Errc::canceled, "the new leg left");
  const IoStatus status = co_await control_io(*target_.control, Op::flush, 0, {}, false);
  if (!status.ok())
    co_return Error(Errc::io_error, fmt::format("the new leg could not be flushed: {}", name_of(status.code)));
  if (stopped()) co_return Error(Errc::canceled, "the new leg left");
  co_return Result<void>{};
}

}  // namespace diskengine::raid
