#include "base/crc32c.h"

#include <isa-l/crc.h>

namespace diskengine {

uint32_t crc32c_update(uint32_t state, const void* data, size_t length) noexcept {
  // isa-l takes an int length and does not modify the buffer, although its prototype is not const.
  constexpr size_t kPiece = size_t{1} << 30;
  auto* at = static_cast<unsigned char*>(const_cast<void*>(data));
  while (length > 0) {
    size_t piece = length < kPiece ? length : kPiece;
    state = crc32_iscsi(at, static_cast<int>(piece), state);
    at += piece;
    length -= piece;
  }
  return state;
}

}  // namespace diskengine
