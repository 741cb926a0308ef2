#include "vhost/blk_request.h"

#include <algorithm>
#include <cstring>

namespace diskengine::vhost {
namespace {

// Removes `bytes` from the front of the pieces, which hold at least that much.
std::span<iovec> cut_front(std::span<iovec> pieces, size_t bytes) noexcept {
  while (bytes > 0 && bytes >= pieces.front().iov_len) {
    bytes -= pieces.front().iov_len;
    pieces = pieces.subspan(1);
  }
  if (bytes > 0) {
    pieces.front().iov_base = static_cast<uint8_t*>(pieces.front().iov_base) + bytes;
    pieces.front().iov_len -= bytes;
  }
  return pieces;
}

}  // namespace

size_t copy_to_pieces(std::span<const iovec> pieces, const void* from, size_t bytes) noexcept {
  size_t done = 0;
  for (const iovec& piece : pieces) {
    const size_t here = std::min(piece.iov_len, bytes - done);
    std::memcpy(piece.iov_base, static_cast<const uint8_t*>(from) + done, here);
    done += here;
  }
  return done;
}

size_t copy_from_pieces(std::span<const iovec> pieces, void* to, size_t bytes) noexcept {
  size_t done = 0;
  for (const iovec& piece : pieces) {
    const size_t here = std::min(piece.iov_len, bytes - done);
    std::memcpy(static_cast<uint8_t*>(to) + done, piece.iov_base, here);
    done += here;
  }
  return done;
}

BlkRequest parse_blk_request(Chain& chain) noexcept {
  BlkRequest request;
  if (chain.writable == 0) return request;
  std::span<iovec> readable(chain.pieces, chain.readable);
  std::span<iovec> writable(chain.pieces + chain.readable, chain.writable);
  iovec& last = writable.back();
  request.status = static_cast<uint8_t*>(last.iov_base) + last.iov_len - 1;
  if (--last.iov_len == 0) writable = writable.first(writable.size() - 1);
  request.from_device = writable;
  request.from_device_bytes = chain.writable_bytes - 1;
  if (chain.readable_bytes < sizeof request.header) return request;
  if (readable.front().iov_len >= sizeof request.header) [[likely]] {
    std::memcpy(&request.header, readable.front().iov_base, sizeof request.header);
  } else {
    copy_from_pieces(readable, &request.header, sizeof request.header);
  }
  request.has_header = true;
  request.to_device = cut_front(readable, sizeof request.header);
  request.to_device_bytes = chain.readable_bytes - sizeof request.header;
  return request;
}

}  // namespace diskengine::vhost
