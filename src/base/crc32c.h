// CRC32C (Castagnoli), as NVMe/TCP digests and SPDK's metadata pages use it. Any thread. Implemented by isa-l.
#pragma once

#include <cstddef>
#include <cstdint>

namespace diskengine {

// The running form: start with kCrc32cSeed, feed pieces in order, then invert with crc32c_finish.
inline constexpr uint32_t kCrc32cSeed = 0xffffffffu;
uint32_t crc32c_update(uint32_t state, const void* data, size_t length) noexcept;
constexpr uint32_t crc32c_finish(uint32_t state) noexcept { return ~state; }

// The CRC32C of one piece, finished.
inline uint32_t crc32c(const void* data, size_t length) noexcept {
  return crc32c_finish(crc32c_update(kCrc32cSeed, data, length));
}

}  // namespace diskengine
