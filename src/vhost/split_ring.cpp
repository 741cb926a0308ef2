#include "vhost/split_ring.h"

#include <fmt/format.h>

#include <cstring>

namespace diskengine::vhost {
namespace {

using spec::VringDesc;

// One read of shared memory at any alignment, never repeated by the compiler.
template <typename T>
struct [[gnu::packed, gnu::may_alias]] Shared {
  volatile T value;
};
template <typename T>
T read_once(const void* from) noexcept {
  return static_cast<const Shared<T>*>(from)->value;
}
VringDesc read_desc(const uint8_t* from) noexcept {
  const uint64_t addr = read_once<uint64_t>(from);
  const uint64_t rest = read_once<uint64_t>(from + 8);
  return {addr, static_cast<uint32_t>(rest), static_cast<uint16_t>(rest >> 32), static_cast<uint16_t>(rest >> 48)};
}

// Aligned accesses that order what is around them.
uint16_t load_acquire(const void* from) noexcept {
  return __atomic_load_n(static_cast<const uint16_t*>(from), __ATOMIC_ACQUIRE);
}
uint16_t load_relaxed(const void* from) noexcept {
  return __atomic_load_n(static_cast<const uint16_t*>(from), __ATOMIC_RELAXED);
}
// Sequentially consistent: what we write here is seen before what we read next with load_ordered.
void store_ordered(void* to, uint16_t value) noexcept {
  __atomic_store_n(static_cast<uint16_t*>(to), value, __ATOMIC_SEQ_CST);
}
uint16_t load_ordered(const void* from) noexcept {
  return __atomic_load_n(static_cast<const uint16_t*>(from), __ATOMIC_SEQ_CST);
}
void store_relaxed(void* to, uint16_t value) noexcept {
  __atomic_store_n(static_cast<uint16_t*>(to), value, __ATOMIC_RELAXED);
}

constexpr size_t kIdxOffset = offsetof(spec::VringAvail, idx);
static_assert(kIdxOffset == offsetof(spec::VringUsed, idx));

}  // namespace

std::string_view name_of(ChainFault fault) noexcept {
  switch (fault) {
    case ChainFault::none:
      return "none";
    case ChainFault::loop:
      return "longer than its table (a loop)";
    case ChainFault::outside_memory:
      return "points outside guest memory";
    case ChainFault::bad_indirect:
      return "bad indirect table";
    case ChainFault::empty_buffer:
      return "a buffer of no bytes";
    case ChainFault::wrong_order:
      return "a readable buffer after a writable one";
    case ChainFault::too_long:
      return "too many buffers";
  }
  return "unknown";
}

bool Chain::push(uint8_t* base, uint64_t bytes, bool writes) noexcept {
  const uint16_t at = count();
  if (at == capacity) {
    if (pieces != room || overflow == nullptr) return false;
    std::memcpy(overflow, room, sizeof room);
    pieces = overflow;
    capacity = kPiecesMax;
  }
  pieces[at] = {base, bytes};
  if (writes) {
    ++writable;
    writable_bytes += bytes;
  } else {
    ++readable;
    readable_bytes += bytes;
  }
  return true;
}

Result<void> SplitRing::attach(const Options& options, const GuestMemory& memory) {
  if (!spec::valid_virtqueue_size(options.size))
    return Error(Errc::invalid_argument,
                 fmt::format("queue size {} is not a power of two up to {}", options.size, spec::kVirtqueueSizeMax));
  options_ = options;
  TRY(remap(memory));
  next_used_ = used_index();
  unpublished_ = 0;
  return {};
}

Result<void> SplitRing::remap(const GuestMemory& memory) {
  const auto place = [&memory](uint64_t user_address, size_t bytes, size_t align) -> uint8_t* {
    uint8_t* at = memory.translate_user(user_address, bytes);
    return reinterpret_cast<uintptr_t>(at) % align == 0 ? at : nullptr;
  };
  const uint8_t* desc = place(options_.desc, spec::vring_desc_bytes(options_.size), spec::kVringDescAlign);
  uint8_t* avail = place(options_.avail, spec::vring_avail_bytes(options_.size), spec::kVringAvailAlign);
  uint8_t* used = place(options_.used, spec::vring_used_bytes(options_.size), spec::kVringUsedAlign);
  if (desc == nullptr || avail == nullptr || used == nullptr)
    return Error(Errc::invalid_argument,
                 fmt::format("ring arrays at {:#x}, {:#x}, {:#x} are unaligned or outside guest memory", options_.desc,
                             options_.avail, options_.used));
  memory_ = &memory;
  last_region_ = &memory.regions().front();
  desc_ = desc;
  avail_ = avail;
  used_ = used;
  return {};
}

uint16_t SplitRing::used_index() const noexcept { return load_acquire(used_ + kIdxOffset); }

uint16_t SplitRing::available() const noexcept {
  const auto waiting = static_cast<uint16_t>(load_acquire(avail_ + kIdxOffset) - next_avail_);
  return waiting <= options_.size ? waiting : kBroken;
}

uint16_t SplitRing::peek(uint16_t ahead) const noexcept {
  const auto at = static_cast<uint16_t>((next_avail_ + ahead) & (options_.size - 1));
  return load_relaxed(avail_ + sizeof(spec::VringAvail) + size_t{2} * at);
}

ChainFault SplitRing::push_buffer(const VringDesc& desc, Chain& chain) const noexcept {
  const bool writes = (desc.flags & spec::kDescWrite) != 0;
  if (desc.len == 0) return ChainFault::empty_buffer;
  if (!writes && chain.writable != 0) return ChainFault::wrong_order;
  uint64_t addr = desc.addr;
  uint64_t left = desc.len;
  while (left > 0) {  // more than once only where it crosses from one region into the next
    if (addr - last_region_->guest_address >= last_region_->size) [[unlikely]] {
      const GuestMemory::Region* region = memory_->find(addr);
      if (region == nullptr) return ChainFault::outside_memory;
      last_region_ = region;
    }
    const uint64_t offset = addr - last_region_->guest_address;
    const uint64_t here = left < last_region_->size - offset ? left : last_region_->size - offset;
    if (!chain.push(last_region_->host + offset, here, writes)) return ChainFault::too_long;
    addr += here;
    left -= here;
  }
  return ChainFault::none;
}

ChainFault SplitRing::read_chain(uint16_t head, Chain& chain) const noexcept {
  chain.clear();
  const ChainFault fault = read_descriptors(head, chain);
  if (fault != ChainFault::none) [[unlikely]]
    chain.clear();
  return fault;
}

ChainFault SplitRing::read_descriptors(uint16_t head, Chain& chain) const noexcept {
  const uint8_t* table = desc_;
  uint32_t table_size = options_.size;
  uint32_t left = table_size;  // a chain visits each descriptor of a table once at most
  bool indirect = false;
  uint32_t at = head;
  for (;;) {
    if (left-- == 0) return ChainFault::loop;
    const VringDesc desc = read_desc(table + at * sizeof(VringDesc));
    if ((desc.flags & spec::kDescIndirect) != 0) {
      if (indirect || !options_.indirect || (desc.flags & spec::kDescNext) != 0 || desc.len == 0 ||
          desc.len % sizeof(VringDesc) != 0)
        return ChainFault::bad_indirect;
      table = memory_->translate(desc.addr, desc.len);
      if (table == nullptr) return ChainFault::outside_memory;
      indirect = true;
      table_size = desc.len / sizeof(VringDesc);
      left = table_size < Chain::kPiecesMax ? table_size : Chain::kPiecesMax;
      at = 0;
      continue;
    }
    if (const ChainFault fault = push_buffer(desc, chain); fault != ChainFault::none) return fault;
    if ((desc.flags & spec::kDescNext) == 0) return ChainFault::none;
    at = desc.next;
    if (at >= table_size) return ChainFault::outside_memory;
  }
}

uint16_t SplitRing::unseen() const noexcept {
  if (!options_.event_idx) return 0;
  const uint16_t event = load_ordered(avail_ + sizeof(spec::VringAvail) + size_t{2} * options_.size);
  const auto unseen = static_cast<uint16_t>(used_position() - event);
  // More than a ring of requests since then: the driver must have taken completions without moving its wish.
  const auto asked_since = static_cast<uint16_t>(load_ordered(avail_ + kIdxOffset) - event);
  return unseen <= asked_since && asked_since <= options_.size ? unseen : 0;
}

void SplitRing::push_used(uint16_t head, uint32_t bytes_written) noexcept {
  const size_t at = next_used_ & (options_.size - 1u);
  const spec::VringUsedElem element{head, bytes_written};
  std::memcpy(used_ + sizeof(spec::VringUsed) + at * sizeof element, &element, sizeof element);
  ++next_used_;
  ++unpublished_;
}

bool SplitRing::publish() noexcept {
  const uint16_t now = next_used_;
  const auto before = static_cast<uint16_t>(now - unpublished_);
  unpublished_ = 0;
  // The driver writes its wish, then looks at our index; we write the index, then look at its wish.
  store_ordered(used_ + kIdxOffset, now);
  if (options_.event_idx) {
    const uint16_t event = load_ordered(avail_ + sizeof(spec::VringAvail) + size_t{2} * options_.size);
    return spec::vring_need_event(event, now, before);
  }
  return (load_ordered(avail_) & spec::kAvailNoInterrupt) == 0;
}

bool SplitRing::enable_notifications() noexcept {
  if (options_.event_idx) {
    store_ordered(used_ + sizeof(spec::VringUsed) + sizeof(spec::VringUsedElem) * options_.size, next_avail_);
  } else {
    store_ordered(used_, 0);
  }
  if (load_ordered(avail_ + kIdxOffset) == next_avail_) return true;
  disable_notifications();
  return false;
}

void SplitRing::disable_notifications() noexcept {
  // With event index there is nothing to do: the event stays behind our position, and the driver passed it already.
  if (!options_.event_idx) store_relaxed(used_, spec::kUsedNoNotify);
}

}  // namespace diskengine::vhost
