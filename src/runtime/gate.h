// Shutdown in one shape: refuse newcomers, wait for those inside, then nobody is left. One reactor owns a gate.
#pragma once

#include <cstdint>
#include <functional>
#include <utility>

#include "base/assert.h"

namespace diskengine {

class Gate {
 public:
  Gate() = default;
  Gate(const Gate&) = delete;
  Gate& operator=(const Gate&) = delete;
  ~Gate() { DE_ASSERT(inside_ == 0); }

  // False once the gate is closed.
  [[nodiscard]] bool enter() noexcept {
    if (closed_) return false;
    ++inside_;
    return true;
  }
  // The last one out of a closed gate runs `on_empty`, which may destroy the gate's owner.
  void leave() {
    DE_ASSERT(inside_ > 0);
    if (--inside_ == 0 && closed_ && on_empty_) std::exchange(on_empty_, nullptr)();
  }
  // Refuses newcomers from now on; `on_empty` runs once nobody is inside (at once if nobody is).
  void close(std::function<void()> on_empty) {
    DE_ASSERT(!closed_);
    closed_ = true;
    if (inside_ == 0) {
      if (on_empty) on_empty();
    } else {
      on_empty_ = std::move(on_empty);
    }
  }
  bool closed() const noexcept { return closed_; }
  uint64_t inside() const noexcept { return inside_; }

  // Enters for as long as it lives.
  class Pass {
   public:
    Pass() = default;
    explicit Pass(Gate& gate) : gate_(gate.enter() ? &gate : nullptr) {}
    Pass(Pass&& other) noexcept : gate_(std::exchange(other.gate_, nullptr)) {}
    Pass& operator=(Pass&& other) noexcept {
      std::swap(gate_, other.gate_);
      return *this;
    }
    ~Pass() {
      if (gate_ != nullptr) gate_->leave();
    }
    explicit operator bool() const noexcept { return gate_ != nullptr; }

   private:
    Gate* gate_ = nullptr;
  };

 private:
  uint64_t inside_ = 0;
  bool closed_ = false;
  std::function<void()> on_empty_;
};

}  // namespace diskengine
