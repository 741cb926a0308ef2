#include <poll.h>

#include <cstring>

#include "base/assert.h"
#include "client/vhost_frontend.h"

namespace diskengine::client {
namespace {

constexpr size_t kLine = 64;
constexpr uint16_t kDescsPerRequest = 3;

uint16_t load_acquire(const uint8_t* from) noexcept {
  return __atomic_load_n(reinterpret_cast<const uint16_t*>(from), __ATOMIC_ACQUIRE);
}
// Ordered among themselves: a store of ours is seen before what we load next.
uint16_t load_ordered(const uint8_t* from) noexcept {
  return __atomic_load_n(reinterpret_cast<const uint16_t*>(from), __ATOMIC_SEQ_CST);
}
void store_ordered(uint8_t* to, uint16_t value) noexcept {
  __atomic_store_n(reinterpret_cast<uint16_t*>(to), value, __ATOMIC_SEQ_CST);
}

constexpr size_t kIdx = 2;  // of the index, in both rings

size_t avail_offset(uint16_t size) noexcept { return round_up(spec::vring_desc_bytes(size), kLine); }
size_t used_offset(uint16_t size) noexcept {
  return avail_offset(size) + round_up(spec::vring_avail_bytes(size), kLine);
}
size_t frames_offset(uint16_t size) noexcept {
  return used_offset(size) + round_up(spec::vring_used_bytes(size), kLine);
}
size_t tables_offset(uint16_t size) noexcept { return frames_offset(size) + size * kLine; }

}  // namespace

size_t VhostDriverQueue::memory_bytes(uint16_t size) noexcept { return tables_offset(size) + size * kLine; }

VhostDriverQueue::VhostDriverQueue(uint16_t size, bool event_idx, bool indirect, Memory memory, UniqueFd kick,
                                   UniqueFd call)
    : size_(size),
      event_idx_(event_idx),
      indirect_(indirect),
      memory_(memory),
      kick_(std::move(kick)),
      call_(std::move(call)),
      desc_(memory.ring),
      avail_(memory.ring + avail_offset(size)),
      used_(memory.ring + used_offset(size)),
      frames_(reinterpret_cast<Frame*>(memory.ring + frames_offset(size))),
      tables_(reinterpret_cast<spec::VringDesc*>(memory.ring + tables_offset(size))),
      slots_(indirect ? size : size / kDescsPerRequest) {
  auto* desc = reinterpret_cast<spec::VringDesc*>(desc_);
  const auto slots = static_cast<uint16_t>(slots_.size());  // at most `size`
  for (uint16_t slot = 0; slot < slots; ++slot) {
    free_.push_back(static_cast<uint16_t>(slots - 1 - slot));
    const auto first = static_cast<uint16_t>(indirect ? 0 : slot * kDescsPerRequest);
    // With indirect tables, four descriptors apart: one line each.
    spec::VringDesc* chain = indirect ? tables_ + size_t{slot} * 4 : desc + first;
    const auto next = [first](int by) { return static_cast<uint16_t>(first + by); };
    chain[0] = {guest(&frames_[slot].header), sizeof(spec::VirtioBlkHeader), spec::kDescNext, next(1)};
    chain[1] = {0, 0, spec::kDescNext, next(2)};
    chain[2] = {guest(&frames_[slot].status), 1, spec::kDescWrite, 0};
    if (indirect) desc[slot] = {guest(chain), kDescsPerRequest * sizeof(spec::VringDesc), spec::kDescIndirect, 0};
  }
}

bool VhostDriverQueue::submit(const VhostIo& io) noexcept {
  if (free_.empty()) return false;
  const uint16_t slot = free_.back();
  free_.pop_back();
  slots_[slot] = io.tag;
  Frame& frame = frames_[slot];
  frame.header = {static_cast<uint32_t>(io.type), 0, io.sector};
  frame.status = 0xff;
  spec::VringDesc* chain = indirect_ ? tables_ + size_t{slot} * 4
                                     : reinterpret_cast<spec::VringDesc*>(desc_) + size_t{slot} * kDescsPerRequest;
  const auto first = static_cast<uint16_t>(indirect_ ? 0 : slot * kDescsPerRequest);
  const bool writes = io.type == spec::VirtioBlkType::in || io.type == spec::VirtioBlkType::get_id;
  const auto flags = static_cast<uint16_t>(spec::kDescNext | (writes ? spec::kDescWrite : 0));
  if (io.bytes > 0) {
    chain[0].next = static_cast<uint16_t>(first + 1);
    chain[1] = {guest(io.data), io.bytes, flags, static_cast<uint16_t>(first + 2)};
  } else {
    chain[0].next = static_cast<uint16_t>(first + 2);
  }
  const auto head = static_cast<uint16_t>(indirect_ ? slot : slot * kDescsPerRequest);
  std::memcpy(avail_ + sizeof(spec::VringAvail) + 2 * (next_avail_ & (size_ - 1u)), &head, sizeof head);
  ++next_avail_;
  return true;
}

void VhostDriverQueue::kick() noexcept {
  const uint16_t before = shown_avail_;
  if (before == next_avail_) return;
  shown_avail_ = next_avail_;
  store_ordered(avail_ + kIdx, next_avail_);
  bool wanted = false;
  if (event_idx_) {
    const uint16_t event = load_ordered(used_ + sizeof(spec::VringUsed) + sizeof(spec::VringUsedElem) * size_);
    wanted = spec::vring_need_event(event, next_avail_, before);
  } else {
    wanted = (load_ordered(used_) & spec::kUsedNoNotify) == 0;
  }
  if (!wanted) return;
  ++kicks_;
  const uint64_t one = 1;
  [[maybe_unused]] const ssize_t written = ::write(kick_.get(), &one, sizeof one);
}

unsigned VhostDriverQueue::reap(std::span<VhostCompletion> done) noexcept {
  const auto waiting = static_cast<uint16_t>(load_acquire(used_ + kIdx) - next_used_);
  DE_ASSERT(waiting <= slots_.size());
  unsigned count = 0;
  for (; count < waiting && count < done.size(); ++count) {
    spec::VringUsedElem element;
    std::memcpy(&element, used_ + sizeof(spec::VringUsed) + sizeof element * (next_used_ & (size_ - 1u)),
                sizeof element);
    ++next_used_;
    const auto slot = static_cast<uint16_t>(indirect_ ? element.id : element.id / kDescsPerRequest);
    DE_ASSERT(slot < slots_.size());
    done[count] = {slots_[slot], *static_cast<volatile uint8_t*>(&frames_[slot].status), element.len};
    free_.push_back(slot);
  }
  return count;
}

uint16_t VhostDriverQueue::used_index() const noexcept { return load_acquire(used_ + kIdx); }

bool VhostDriverQueue::wait(int timeout_ms) noexcept {
  // Ask for a call with the next completion, then look again. A call may be left over from completions reaped before.
  if (event_idx_)
    store_ordered(avail_ + sizeof(spec::VringAvail) + size_t{2} * size_, next_used_);
  else
    store_ordered(avail_, 0);
  while (load_ordered(used_ + kIdx) == next_used_) {
    pollfd ready{call_.get(), POLLIN, 0};
    if (::poll(&ready, 1, timeout_ms) <= 0) return used_index() != next_used_;
    uint64_t count = 0;
    [[maybe_unused]] const ssize_t got = ::read(call_.get(), &count, sizeof count);
  }
  return true;
}

}  // namespace diskengine::client
