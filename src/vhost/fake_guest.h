// A guest's memory and one split ring in it, for the unit tests of this layer: writes descriptors by hand, so it can
// write nonsense. One thread.
#pragma once

#include <cstring>
#include <memory>
#include <vector>

#include "format/virtio_blk.h"
#include "vhost/split_ring.h"

namespace diskengine::vhost {

class FakeGuest {
 public:
  static constexpr uint64_t kGuestBase = 0x100000;
  static constexpr uint64_t kUserBase = 0x7f0000000000;
  static constexpr size_t kBytes = 1 << 20;
  static constexpr uint64_t kDescAt = 0x0;
  static constexpr uint64_t kAvailAt = 0x8000;
  static constexpr uint64_t kUsedAt = 0xc000;
  static constexpr uint64_t kDataAt = 0x20000;

  explicit FakeGuest(uint16_t size) : bytes_(kBytes + 64), size_(size) {
    base_ = bytes_.data() + (64 - reinterpret_cast<uintptr_t>(bytes_.data()) % 64);
  }

  // Its memory as `pieces` regions that follow each other in guest addresses but not in ours.
  std::shared_ptr<const GuestMemory> memory() {
    auto made = GuestMemory::make({{kGuestBase, kBytes, kUserBase, base_, nullptr}});
    DE_ASSERT(made.has_value());
    return *made;
  }
  SplitRing::Options ring_options() const {
    SplitRing::Options options;
    options.size = size_;
    options.desc = kUserBase + kDescAt;
    options.avail = kUserBase + kAvailAt;
    options.used = kUserBase + kUsedAt;
    options.event_idx = true;
    options.indirect = true;
    return options;
  }

  uint8_t* at(uint64_t offset) { return base_ + offset; }
  static uint64_t address(uint64_t offset) { return kGuestBase + offset; }

  void set_desc(uint16_t index, spec::VringDesc desc) { put(kDescAt + index * sizeof desc, desc); }
  void make_available(uint16_t head) {
    put<uint16_t>(kAvailAt + 4 + 2 * (avail_ % size_), head);
    set_avail_index(static_cast<uint16_t>(avail_ + 1));
  }
  void set_avail_index(uint16_t index) {
    avail_ = index;
    put<uint16_t>(kAvailAt + 2, index);
  }
  void set_avail_flags(uint16_t flags) { put(kAvailAt, flags); }
  void set_used_event(uint16_t event) { put<uint16_t>(kAvailAt + 4 + 2 * size_, event); }
  void set_used_index(uint16_t index) { put<uint16_t>(kUsedAt + 2, index); }
  uint16_t used_index() { return get<uint16_t>(kUsedAt + 2); }
  uint16_t used_flags() { return get<uint16_t>(kUsedAt); }
  uint16_t avail_event() { return get<uint16_t>(kUsedAt + 4 + 8 * size_); }
  spec::VringUsedElem used(uint16_t index) { return get<spec::VringUsedElem>(kUsedAt + 4 + 8 * (index % size_)); }

  // A whole virtio-blk request from descriptor `head` on, its frame at `offset`, its data after it.
  void add_request(uint16_t head, spec::VirtioBlkType type, uint64_t sector, uint32_t bytes, uint64_t offset) {
    put(offset, spec::VirtioBlkHeader{static_cast<uint32_t>(type), 0, sector});
    put<uint8_t>(offset + 16, 0xff);
    const bool writes = type == spec::VirtioBlkType::in || type == spec::VirtioBlkType::get_id;
    const auto flags = static_cast<uint16_t>(spec::kDescNext | (writes ? spec::kDescWrite : 0));
    const auto next = [head](int by) { return static_cast<uint16_t>(head + by); };
    set_desc(head, {address(offset), 16, spec::kDescNext, next(bytes > 0 ? 1 : 2)});
    if (bytes > 0) set_desc(next(1), {address(offset + 64), bytes, flags, next(2)});
    set_desc(next(2), {address(offset + 16), 1, spec::kDescWrite, 0});
    make_available(head);
  }
  uint8_t status(uint64_t offset) { return get<uint8_t>(offset + 16); }
  uint8_t* data(uint64_t offset) { return at(offset + 64); }

  template <typename T>
  void put(uint64_t offset, const T& value) {
    std::memcpy(at(offset), &value, sizeof value);
  }
  template <typename T>
  T get(uint64_t offset) {
    T value;
    std::memcpy(&value, at(offset), sizeof value);
    return value;
  }

 private:
  std::vector<uint8_t> bytes_;
  uint8_t* base_;
  uint16_t size_;
  uint16_t avail_ = 0;
};

}  // namespace diskengine::vhost
