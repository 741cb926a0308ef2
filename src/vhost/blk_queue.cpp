#include "vhost/blk_queue.h"

#include <fcntl.h>

#include <algorithm>
#include <cstring>
#include <utility>

#include "base/log.h"
#include "trace/probes.h"

namespace diskengine::vhost {
namespace {

constexpr uint64_t kCoalescingWindowNs = 10'000'000;
constexpr uint64_t kSignalGapMaxNs = 1'000'000;  // however high the rate is

// For counters with one writer.
void add_relaxed(std::atomic<uint64_t>& counter, uint64_t count) noexcept {
  counter.store(counter.load(std::memory_order_relaxed) + count, std::memory_order_relaxed);
}

void write_event(const UniqueFd& fd) noexcept {
  if (!fd) return;
  const uint64_t one = 1;
  // A full counter (EAGAIN) is as good as signalled; what else can go wrong only harms the front end that gave the fd.
  [[maybe_unused]] const ssize_t written = ::write(fd.get(), &one, sizeof one);
}

}  // namespace

BlkQueue::BlkQueue(Options options)
    : Source("vhost_blk_queue"),
      options_(std::move(options)),
      slots_(options_.ring.size),
      overflow_(std::make_unique_for_overwrite<iovec[]>(size_t{options_.ring.size} * Chain::kPiecesMax)),
      memory_(std::make_unique<MemoryUse>()),
      late_signal_([this] {
        notify_driver();
        next_signal_ns_ = home().now_ns() + signal_gap_ns_;
      }) {
  returned_.reserve(options_.ring.size);
  memory_->memory = std::move(options_.memory);
  set_fd(options_.kick.get());
  for (uint16_t head = 0; head < options_.ring.size; ++head) {
    Slot& slot = slots_[head];
    slot.queue = this;
    slot.head = head;
    slot.done = &BlkQueue::on_done;
    slot.chain.overflow = &overflow_[size_t{head} * Chain::kPiecesMax];
  }
}

BlkQueue::~BlkQueue() { DE_ASSERT(outstanding_ == 0 && reactor() == nullptr && !TurnEndHook::linked()); }

Result<void> BlkQueue::start() {
  TRY(ring_.attach(options_.ring, *memory_->memory));
  TRY(options_.device->acquire());
  const uint16_t used = ring_.used_index();
  std::vector<uint16_t> replay;
  if (options_.inflight_part != nullptr) {
    // What was taken is what was returned and what is in flight.
    inflight_ = Inflight(options_.inflight_part, options_.ring.size);
    replay = inflight_.recover(used);
    ring_.set_position(static_cast<uint16_t>(used + replay.size()));
  } else {
    // The front end may have read the used index before our last completions; never go back behind it.
    const auto behind = static_cast<uint16_t>(used - options_.base);
    ring_.set_position(behind <= options_.ring.size ? used : options_.base);
  }
  ring_.disable_notifications();
  window_start_ns_ = home().now_ns();
  home().add(*this);
  if (!replay.empty()) LOG_INFO("vhost", "{}: replays {} requests in flight", options_.name, replay.size());
  for (const uint16_t head : replay) take(head);
  return {};
}

void BlkQueue::stop(std::function<void(uint16_t)> drained) {
  DE_ASSERT(drained_ == nullptr);
  if (reactor() != nullptr) home().remove(*this);
  drained_ = std::move(drained);
  if (outstanding_ == 0) home().post([this] { end_stop(); });
}

// Not inside a completion: the last release closes the channel.
void BlkQueue::end_stop() {
  late_signal_.cancel();
  options_.device->release();
  const auto drained = std::exchange(drained_, nullptr);
  drained(ring_.position());
}

Result<void> BlkQueue::set_memory(std::shared_ptr<const GuestMemory> memory) {
  auto use = std::make_unique<MemoryUse>();
  use->memory = std::move(memory);
  if (Result<void> remapped = ring_.remap(*use->memory); !remapped) {
    fail("its ring is not in the new guest memory");
    return remapped;
  }
  std::swap(memory_, use);
  if (use->requests > 0) old_memory_.push_back(std::move(use));
  return {};
}

int BlkQueue::poll() noexcept {
  const uint16_t waiting = ring_.available();
  if (waiting == 0 || memory_faulted_) return 0;
  if (waiting == SplitRing::kBroken) {
    fail("the available index jumped past the ring's size");
    return 1;
  }
  uint16_t heads[kBatchMax];
  const uint16_t batch = std::min(waiting, kBatchMax);
  for (uint16_t i = 0; i < batch; ++i) {
    heads[i] = ring_.peek(i);
    ring_.prefetch(heads[i] & (ring_.size() - 1));
  }
  for (uint16_t i = 0; i < batch; ++i) {
    if (heads[i] >= ring_.size() || slots_[heads[i]].busy) [[unlikely]] {
      fail(heads[i] >= ring_.size() ? "a head is outside the descriptor table" : "a head is already in flight");
      return 1;
    }
    ring_.advance(1);
    take(heads[i]);
  }
  shown_outstanding_.store(outstanding_, std::memory_order_relaxed);
  return batch;
}

bool BlkQueue::arm() noexcept {
  check_memory();
  armed_ = ring_.enable_notifications();
  return armed_;
}

void BlkQueue::disarm() noexcept {
  if (!std::exchange(armed_, false)) return;
  uint64_t count = 0;
  [[maybe_unused]] const ssize_t got = ::read(fd(), &count, sizeof count);
  ring_.disable_notifications();
}

void BlkQueue::take(uint16_t head) noexcept {
  Slot& slot = slots_[head];
  slot.busy = true;
  ++outstanding_;
  if (inflight_) inflight_.take(head);
  slot.memory = memory_.get();
  ++slot.memory->requests;
  DE_PROBE2(vhost_taken, &slot, head);
  const ChainFault fault = ring_.read_chain(head, slot.chain);
  if (fault != ChainFault::none) [[unlikely]] {
    count_bad(name_of(fault).data());
    return_chain(slot, 0);
    return;
  }
  execute(slot);
}

void BlkQueue::execute(Slot& slot) noexcept {
  const BlkRequest request = parse_blk_request(slot.chain);
  slot.status_byte = request.status;
  slot.blocks_left = 0;
  slot.used_bytes = 1;
  if (!request.has_header) return reject(slot, "no header or no status byte");
  if (options_.device->channel() == nullptr) [[unlikely]]
    return finish(slot, spec::kVirtioBlkIoErr);
  switch (static_cast<spec::VirtioBlkType>(request.header.type)) {
    case spec::VirtioBlkType::in:
      return execute_transfer(slot, request, false);
    case spec::VirtioBlkType::out:
      return execute_transfer(slot, request, true);
    case spec::VirtioBlkType::flush:
      slot.op = Op::flush;
      slot.lba = slot.blocks = 0;
      slot.iov = {};
      begin_trace(slot, 0);
      return submit(slot);
    case spec::VirtioBlkType::discard:
      return execute_range(slot, request, true);
    case spec::VirtioBlkType::write_zeroes:
      return execute_range(slot, request, false);
    case spec::VirtioBlkType::get_id:
      return execute_get_id(slot, request);
  }
  reject(slot, "unknown request type", spec::kVirtioBlkUnsupp);
}

void BlkQueue::execute_transfer(Slot& slot, const BlkRequest& request, bool write) noexcept {
  const uint64_t bytes = write ? request.to_device_bytes : request.from_device_bytes;
  const uint64_t sectors_per_block = options_.block_size / spec::kVirtioBlkSectorBytes;
  if (bytes == 0 || bytes % options_.block_size != 0 || request.header.sector % sectors_per_block != 0)
    return reject(slot, "a transfer is not in whole blocks");
  if (write && options_.read_only) return finish(slot, spec::kVirtioBlkIoErr);
  slot.op = write ? Op::write : Op::read;
  slot.fua = write && options_.write_through;
  slot.lba = request.header.sector / sectors_per_block;
  slot.blocks = 0;
  slot.blocks_left = bytes / options_.block_size;
  slot.pieces_left = write ? request.to_device : request.from_device;
  slot.rest = slot.pieces_left.front();
  if (!write) slot.used_bytes = static_cast<uint32_t>(bytes + 1);
  begin_trace(slot, slot.blocks_left);
  submit_part(slot);
}

void BlkQueue::begin_trace(Slot& slot, uint64_t blocks) noexcept {
  slot.traced = options_.device->trace(slot.op, slot.lba, blocks);
}

void BlkQueue::submit(Slot& slot) noexcept {
  slot.visit = slot.traced;
  options_.device->channel()->submit(slot);
}

// Sends the next part that the device takes at once; usually that is all of it. The piece that a part ends in is cut
// short for it and put right again for the next.
void BlkQueue::submit_part(Slot& slot) noexcept {
  const uint32_t most = options_.max_transfer_blocks;
  slot.lba += slot.blocks;
  slot.pieces_left.front() = slot.rest;
  if (most == 0 || slot.blocks_left <= most) [[likely]] {
    slot.blocks = std::exchange(slot.blocks_left, 0);
    slot.iov = slot.pieces_left;
    return submit(slot);
  }
  slot.blocks = most;
  slot.blocks_left -= most;
  uint64_t left = uint64_t{most} * options_.block_size;
  size_t count = 0;
  while (left >= slot.pieces_left[count].iov_len) left -= slot.pieces_left[count++].iov_len;
  slot.iov = slot.pieces_left.first(left > 0 ? count + 1 : count);
  iovec& last = slot.pieces_left[count];
  slot.rest = {static_cast<uint8_t*>(last.iov_base) + left, last.iov_len - left};
  if (left > 0) last.iov_len = left;
  slot.pieces_left = slot.pieces_left.subspan(count);
  submit(slot);
}

void BlkQueue::execute_range(Slot& slot, const BlkRequest& request, bool discard) noexcept {
  spec::VirtioBlkRange range;
  if (request.to_device_bytes != sizeof range) return reject(slot, "discard or write-zeroes of other than one range");
  copy_from_pieces(request.to_device, &range, sizeof range);
  const uint32_t known_flags = discard ? 0 : spec::kVirtioBlkRangeUnmap;
  if ((range.flags & ~known_flags) != 0) return reject(slot, "unknown flags of a range", spec::kVirtioBlkUnsupp);
  const uint64_t sectors_per_block = options_.block_size / spec::kVirtioBlkSectorBytes;
  if (range.sector % sectors_per_block != 0 || range.num_sectors % sectors_per_block != 0)
    return reject(slot, "a range is not in whole blocks");
  if (options_.read_only) return finish(slot, spec::kVirtioBlkIoErr);
  slot.op = discard ? Op::unmap : Op::write_zeroes;
  slot.fua = !discard && options_.write_through;
  slot.may_unmap = (range.flags & spec::kVirtioBlkRangeUnmap) != 0;
  slot.lba = range.sector / sectors_per_block;
  slot.blocks = range.num_sectors / sectors_per_block;
  slot.iov = {};
  begin_trace(slot, slot.blocks);
  submit(slot);
}

void BlkQueue::execute_get_id(Slot& slot, const BlkRequest& request) noexcept {
  char id[spec::kVirtioBlkIdBytes] = {};
  std::memcpy(id, options_.serial.data(), std::min(options_.serial.size(), sizeof id));
  slot.used_bytes = static_cast<uint32_t>(copy_to_pieces(request.from_device, id, sizeof id) + 1);
  finish(slot, spec::kVirtioBlkOk);
}

void BlkQueue::on_done(Request& request) noexcept {
  Slot& slot = static_cast<Slot&>(request);
  BlkQueue& queue = *slot.queue;
  if (slot.traced == nullptr) queue.options_.device->ended_untraced(queue.home().batch_ticks() - slot.submit_ticks);
  if (request.status.ok()) [[likely]] {
    if (slot.blocks_left == 0) return queue.finish(slot, spec::kVirtioBlkOk);
    if (queue.options_.device->channel() != nullptr) return queue.submit_part(slot);
  }
  if (queue.inflight_ && queue.leaves_failures_.load(std::memory_order_relaxed)) return queue.leave_in_flight(slot);
  queue.finish(slot, request.status.code == IoCode::not_supported ? spec::kVirtioBlkUnsupp : spec::kVirtioBlkIoErr);
}

void BlkQueue::finish(Slot& slot, uint8_t status) noexcept {
  *static_cast<volatile uint8_t*>(slot.status_byte) = status;
  return_chain(slot, slot.used_bytes);
}

void BlkQueue::reject(Slot& slot, const char* why, uint8_t status) noexcept {
  count_bad(why);
  if (slot.status_byte == nullptr) return return_chain(slot, 0);
  finish(slot, status);
}

void BlkQueue::return_chain(Slot& slot, uint32_t used_bytes) noexcept {
  ring_.push_used(slot.head, used_bytes);
  returned_.push_back(slot.head);
  let_memory_go(slot);
  home().at_turn_end(*this);
}

void BlkQueue::let_memory_go(Slot& slot) noexcept {
  MemoryUse* use = std::exchange(slot.memory, nullptr);
  if (--use->requests == 0 && use != memory_.get()) [[unlikely]]
    std::erase_if(old_memory_, [use](const auto& old) { return old.get() == use; });
}

// In the buffer it stays marked as taken, and its slot stays busy.
void BlkQueue::leave_in_flight(Slot& slot) noexcept {
  let_memory_go(slot);
  if (slot.traced != nullptr) std::exchange(slot.traced, nullptr)->leave(false);
  --outstanding_;
  shown_outstanding_.store(outstanding_, std::memory_order_relaxed);
  if (drained_ != nullptr && outstanding_ == 0) home().post([this] { end_stop(); });
}

void BlkQueue::at_turn_end() noexcept {
  const auto count = static_cast<uint32_t>(returned_.size());
  if (inflight_)
    for (const uint16_t head : returned_) inflight_.link(head);
  const bool wanted = ring_.publish();
  DE_PROBE3(vhost_published, options_.name.c_str(), count, wanted);
  if (inflight_) {
    for (const uint16_t head : returned_) inflight_.release(head);
    inflight_.settle(ring_.used_position());
  }
  for (const uint16_t head : returned_) {
    slots_[head].busy = false;
    if (slots_[head].traced != nullptr) [[unlikely]]
      slots_[head].traced->answered = ticks();
  }
  outstanding_ -= count;
  window_requests_ += count;
  shown_outstanding_.store(outstanding_, std::memory_order_relaxed);
  add_relaxed(shown_completed_, count);
  if (wanted) {
    signal_driver();
  } else {
    add_relaxed(suppressed_, 1);
  }
  for (const uint16_t head : returned_)
    if (slots_[head].traced != nullptr) [[unlikely]]
      std::exchange(slots_[head].traced, nullptr)->leave(slots_[head].status.ok());
  returned_.clear();
  check_memory();
  if (drained_ != nullptr && outstanding_ == 0) [[unlikely]]
    home().post([this] { end_stop(); });
}

void BlkQueue::signal_driver() noexcept {
  if (options_.coalescing.delay_base_us == 0) [[likely]]
    return notify_driver();
  const uint64_t now = home().now_ns();
  if (now - window_start_ns_ >= kCoalescingWindowNs) {
    const uint64_t rate = window_requests_ * 1'000'000'000 / (now - window_start_ns_);
    const uint64_t threshold = std::max<uint64_t>(options_.coalescing.iops_threshold, 1);
    const uint64_t delay_ns = uint64_t{options_.coalescing.delay_base_us} * 1000;
    signal_gap_ns_ = rate > threshold ? std::min(delay_ns * (rate - threshold) / threshold, kSignalGapMaxNs) : 0;
    window_start_ns_ = now;
    window_requests_ = 0;
  }
  if (now >= next_signal_ns_) {
    next_signal_ns_ = now + signal_gap_ns_;
    return notify_driver();
  }
  if (!late_signal_.armed()) late_signal_.arm(home(), next_signal_ns_ - now);
}

void BlkQueue::notify_driver() noexcept {
  add_relaxed(notified_, 1);
  write_event(options_.call);
}

// The queue outlives the message: it is destroyed by the main reactor after a later message, stop(), was answered.
void BlkQueue::refresh_progress() {
  home().post([this] { look_at_ring(); });
}

void BlkQueue::look_at_ring() noexcept {
  if (memory_faulted_ || broken() || reactor() == nullptr) return;
  const uint16_t waiting = ring_.available();
  shown_waiting_.store(waiting == SplitRing::kBroken ? uint16_t{0} : waiting, std::memory_order_relaxed);
  shown_unseen_.store(ring_.unseen(), std::memory_order_relaxed);
  check_memory();
}

BlkQueue::Progress BlkQueue::progress() const noexcept {
  return {.completed = shown_completed_.load(std::memory_order_relaxed),
          .notified = notified_.load(std::memory_order_relaxed),
          .suppressed = suppressed_.load(std::memory_order_relaxed),
          .waiting = shown_waiting_.load(std::memory_order_relaxed),
          .unseen = shown_unseen_.load(std::memory_order_relaxed)};
}

// Counted each time, logged once: a guest could fill the log.
void BlkQueue::count_bad(const char* why) noexcept {
  if (bad_requests_.fetch_add(1, std::memory_order_relaxed) == 0)
    LOG_WARN("vhost", "{}: bad request: {} (further ones are counted only)", options_.name, why);
}

void BlkQueue::fail(const char* why) noexcept {
  if (!broken_.exchange(true, std::memory_order_relaxed))
    LOG_ERROR("vhost", "{}: stopped: {}; the front end has to reset it", options_.name, why);
  if (reactor() != nullptr) home().remove(*this);
  write_event(options_.err);
  check_memory();
}

// The session ends the connection, and with it this queue; until then it takes nothing more.
void BlkQueue::check_memory() noexcept {
  if (memory_faulted_ || !memory_->memory->faulted()) [[likely]]
    return;
  memory_faulted_ = true;
  if (options_.on_memory_fault) options_.on_memory_fault();
}

}  // namespace diskengine::vhost
