// Survives a front end that takes memory away under us: it may shrink the file behind its guest memory at any time, and
// touching a page past the new end raises SIGBUS. The guard's handler puts zero pages in place of the region that
// faulted and marks it; its user sees the mark, ends that one connection, and all others go on.
//
// One per process, since signal handlers are: install() once at start-up. The rest: any thread.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>

#include "base/result.h"

namespace diskengine::vhost {

class FaultGuard {
 public:
  static constexpr size_t kRangesMax = 4096;  // mapped regions of all front ends; past it a front end is refused

  // Takes over SIGBUS. Faults outside guarded ranges still end the process.
  static Result<void> install();

  FaultGuard() = default;
  FaultGuard(FaultGuard&& other) noexcept;
  FaultGuard& operator=(FaultGuard&&) = delete;
  // Before the range is unmapped.
  ~FaultGuard();

  // Guards [base, base + bytes), which is mapped. Errc::no_space if kRangesMax are guarded already.
  static Result<FaultGuard> guard(void* base, size_t bytes);

  // A page of the range could not be read from its file; the range is all zeroes now.
  bool faulted() const noexcept;

 private:
  explicit FaultGuard(size_t slot) noexcept : slot_(slot) {}
  static constexpr size_t kNone = SIZE_MAX;
  size_t slot_ = kNone;
};

}  // namespace diskengine::vhost
