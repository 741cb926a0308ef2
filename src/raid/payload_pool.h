// Copies of what guests write, one for all legs: a guest that changes its memory while a write is under way cannot make
// the legs differ. A bounded pool of buffers in three sizes, which disks and network cards may reach directly; longer
// payloads get a buffer of their own for as long as they take. The memory is touched only as far as it is used.
//
// One channel owns it, on its own reactor.
#pragma once

#include <sys/uio.h>

#include <array>
#include <cstdint>
#include <span>
#include <vector>

#include "runtime/dma_buffer.h"

namespace diskengine::raid {

struct Payload {
  iovec piece{};  // the copy
  DmaBuffer own;  // of a long one
  Payload* next = nullptr;
  uint8_t* data = nullptr;
  unsigned size_class = 0;
};

class PayloadPool {
 public:
  struct SizeClass {
    size_t bytes;
    unsigned count;
  };
  static constexpr std::array<SizeClass, 3> kClasses = {{{4096, 512}, {128 * 1024, 64}, {1024 * 1024, 8}}};
  static constexpr unsigned kLongMax = 4;  // payloads longer than the largest class at a time

  PayloadPool() {
    size_t total = 0;
    for (const SizeClass& c : kClasses) total += c.bytes * c.count;
    memory_ = DmaBuffer(total);
    payloads_ = std::vector<Payload>(kCount);
    uint8_t* at = memory_.data();
    Payload* payload = payloads_.data();
    for (unsigned i = 0; i < kClasses.size(); ++i)
      for (unsigned n = 0; n < kClasses[i].count; ++n, at += kClasses[i].bytes) put(*payload++, i, at);
    for (unsigned n = 0; n < kLongMax; ++n) put(*payload++, kLong, nullptr);
  }

  bool has_room(size_t bytes) const noexcept { return class_for(bytes) != kNone; }
  // The copy of `from`, which is `bytes` long; null if there is no room, or no memory for a long one.
  Payload* copy(std::span<const iovec> from, size_t bytes) noexcept;
  void give_back(Payload& payload) noexcept {
    if (payload.size_class == kLong) payload.own = DmaBuffer();
    payload.next = free_[payload.size_class];
    free_[payload.size_class] = &payload;
  }

 private:
  static constexpr unsigned kLong = kClasses.size();
  static constexpr unsigned kNone = kLong + 1;
  static constexpr size_t kCount = 512 + 64 + 8 + kLongMax;

  void put(Payload& payload, unsigned size_class, uint8_t* data) noexcept {
    payload.size_class = size_class;
    payload.data = data;
    give_back(payload);
  }
  unsigned class_for(size_t bytes) const noexcept {
    if (bytes > kClasses.back().bytes) return free_[kLong] != nullptr ? kLong : kNone;
    for (unsigned i = 0; i < kClasses.size(); ++i)
      if (bytes <= kClasses[i].bytes && free_[i] != nullptr) return i;
    return kNone;
  }

  DmaBuffer memory_;
  std::vector<Payload> payloads_;
  std::array<Payload*, kClasses.size() + 1> free_{};
};

}  // namespace diskengine::raid
