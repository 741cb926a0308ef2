#include "raid/payload_pool.h"

#include <cstring>
#include <utility>

namespace diskengine::raid {

Payload* PayloadPool::copy(std::span<const iovec> from, size_t bytes) noexcept {
  const unsigned size_class = class_for(bytes);
  if (size_class == kNone) return nullptr;
  Payload& payload = *free_[size_class];
  if (size_class == kLong) {
    Result<DmaBuffer> own = DmaBuffer::allocate(bytes);
    if (!own) return nullptr;
    payload.own = std::move(*own);
    payload.data = payload.own.data();
  }
  free_[size_class] = payload.next;
  uint8_t* to = payload.data;
  for (const iovec& piece : from) {
    std::memcpy(to, piece.iov_base, piece.iov_len);
    to += piece.iov_len;
  }
  payload.piece = {payload.data, bytes};
  return &payload;
}

}  // namespace diskengine::raid
