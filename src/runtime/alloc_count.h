// For tests: a scope in which the allocations of this thread are counted. Holds the rule that the I/O path does not
// allocate once it is set up.
//
//   AllocTrap trap;
//   channel.submit(request);
//   EXPECT_EQ(trap.allocations(), 0u);
//
// One file of the test program includes runtime/alloc_trap.h, which does the counting.
#pragma once

#include <cstdint>

namespace diskengine {
namespace detail {

inline thread_local uint64_t allocations_of_thread = 0;

}  // namespace detail

class AllocTrap {
 public:
  // Calls of operator new by this thread since this object was made.
  uint64_t allocations() const noexcept { return detail::allocations_of_thread - before_; }

 private:
  uint64_t before_ = detail::allocations_of_thread;
};

// What is allocated while this exists is not counted: for simulated devices, whose work the real ones do themselves.
class AllocPause {
 public:
  AllocPause() = default;
  AllocPause(const AllocPause&) = delete;
  AllocPause& operator=(const AllocPause&) = delete;
  ~AllocPause() { detail::allocations_of_thread = before_; }

 private:
  const uint64_t before_ = detail::allocations_of_thread;
};

}  // namespace diskengine
