// For tests: a scope in which the allocations of this thread are counted. Holds the rule that the I/O path does not
// allocate once it is set up.
//
//   AllocTrap trap;
//   channel.submit(request);
//   EXPECT_EQ(trap.allocations(), 0u);
//
// Included by one file of a test program: it defines the program's operator new and delete.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <new>

namespace diskengine {
namespace detail {

inline thread_local uint64_t allocations_of_thread = 0;

inline void* counted(std::size_t bytes, std::size_t alignment) noexcept {
  ++allocations_of_thread;
  if (bytes == 0) bytes = 1;
  if (alignment <= alignof(std::max_align_t)) return std::malloc(bytes);
  return std::aligned_alloc(alignment, (bytes + alignment - 1) / alignment * alignment);
}

inline void* counted_or_abort(std::size_t bytes, std::size_t alignment) noexcept {
  void* memory = counted(bytes, alignment);
  if (memory == nullptr) std::abort();
  return memory;
}

}  // namespace detail

class AllocTrap {
 public:
  // Calls of operator new by this thread since this object was made.
  uint64_t allocations() const noexcept { return detail::allocations_of_thread - before_; }

 private:
  uint64_t before_ = detail::allocations_of_thread;
};

}  // namespace diskengine

// Not inlined: g++ 12 would report the pairs of malloc and delete that it then sees.
// NOLINTBEGIN(misc-definitions-in-headers)
[[gnu::noinline]] void* operator new(std::size_t bytes) { return ::diskengine::detail::counted_or_abort(bytes, 1); }
[[gnu::noinline]] void* operator new[](std::size_t bytes) { return ::diskengine::detail::counted_or_abort(bytes, 1); }
[[gnu::noinline]] void* operator new(std::size_t bytes, std::align_val_t alignment) {
  return ::diskengine::detail::counted_or_abort(bytes, static_cast<std::size_t>(alignment));
}
[[gnu::noinline]] void* operator new[](std::size_t bytes, std::align_val_t alignment) {
  return ::diskengine::detail::counted_or_abort(bytes, static_cast<std::size_t>(alignment));
}
[[gnu::noinline]] void* operator new(std::size_t bytes, const std::nothrow_t&) noexcept {
  return ::diskengine::detail::counted(bytes, 1);
}
[[gnu::noinline]] void* operator new[](std::size_t bytes, const std::nothrow_t&) noexcept {
  return ::diskengine::detail::counted(bytes, 1);
}
[[gnu::noinline]] void operator delete(void* memory) noexcept { std::free(memory); }
[[gnu::noinline]] void operator delete[](void* memory) noexcept { std::free(memory); }
[[gnu::noinline]] void operator delete(void* memory, std::size_t) noexcept { std::free(memory); }
[[gnu::noinline]] void operator delete[](void* memory, std::size_t) noexcept { std::free(memory); }
[[gnu::noinline]] void operator delete(void* memory, std::align_val_t) noexcept { std::free(memory); }
[[gnu::noinline]] void operator delete[](void* memory, std::align_val_t) noexcept { std::free(memory); }
[[gnu::noinline]] void operator delete(void* memory, std::size_t, std::align_val_t) noexcept { std::free(memory); }
[[gnu::noinline]] void operator delete[](void* memory, std::size_t, std::align_val_t) noexcept { std::free(memory); }
// NOLINTEND(misc-definitions-in-headers)
