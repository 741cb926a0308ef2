// Arithmetic on numbers that came from outside: the result, or false on overflow.
#pragma once

#include <cstdint>

namespace diskengine {

template <typename T>
[[nodiscard]] constexpr bool checked_add(T a, T b, T* sum) noexcept {
  return !__builtin_add_overflow(a, b, sum);
}

template <typename T>
[[nodiscard]] constexpr bool checked_mul(T a, T b, T* product) noexcept {
  return !__builtin_mul_overflow(a, b, product);
}

// True if [offset, offset + length) lies within [0, size).
constexpr bool in_range(uint64_t offset, uint64_t length, uint64_t size) noexcept {
  return offset <= size && length <= size - offset;
}

constexpr uint64_t round_up(uint64_t value, uint64_t multiple) noexcept {
  return (value + multiple - 1) / multiple * multiple;
}

constexpr bool is_power_of_two(uint64_t value) noexcept { return value != 0 && (value & (value - 1)) == 0; }

}  // namespace diskengine
