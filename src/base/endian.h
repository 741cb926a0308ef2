// Reading and writing integers of a given byte order at any alignment. Wire and disk formats here are little endian
// unless their page in docs/formats/ says otherwise.
#pragma once

#include <bit>
#include <cstdint>
#include <cstring>
#include <type_traits>

namespace diskengine {

static_assert(std::endian::native == std::endian::little, "packed structures are used in place on little-endian hosts");

template <typename T>
T load_le(const void* from) noexcept {
  static_assert(std::is_trivially_copyable_v<T>);
  T value;
  std::memcpy(&value, from, sizeof value);
  return value;
}

template <typename T>
void store_le(void* to, T value) noexcept {
  static_assert(std::is_trivially_copyable_v<T>);
  std::memcpy(to, &value, sizeof value);
}

}  // namespace diskengine
