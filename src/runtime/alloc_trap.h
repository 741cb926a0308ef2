// Counts the allocations of a test program for runtime/alloc_count.h. Included by one file of it: it defines the
// program's operator new and delete.
#pragma once

#include <cstddef>
#include <cstdlib>
#include <new>

#include "runtime/alloc_count.h"

namespace diskengine {
namespace detail {

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
