// Copies of payload, for data that a device cannot reach where it is.
#pragma once

#include <sys/uio.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>

#include "base/assert.h"

namespace diskengine::fabric {

// Copies `bytes` bytes between `memory` and the part of `iov` that starts `offset` bytes in.
inline void copy_payload(std::span<const iovec> iov, size_t offset, size_t bytes, uint8_t* memory,
                         bool to_iov) noexcept {
  for (const iovec& piece : iov) {
    if (bytes == 0) return;
    if (offset >= piece.iov_len) {
      offset -= piece.iov_len;
      continue;
    }
    const size_t length = std::min(bytes, piece.iov_len - offset);
    uint8_t* const at = static_cast<uint8_t*>(piece.iov_base) + offset;
    std::memcpy(to_iov ? at : memory, to_iov ? memory : at, length);
    memory += length;
    bytes -= length;
    offset = 0;
  }
  DE_ASSERT(bytes == 0);
}

}  // namespace diskengine::fabric
