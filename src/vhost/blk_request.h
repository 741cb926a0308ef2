// One virtio-blk request taken apart: header, data and status byte, wherever the driver's buffers begin and end.
//
//   Input object: Chain. Output object: BlkRequest, whose data points into the chain. Any thread; no state.
#pragma once

#include <sys/uio.h>

#include <cstdint>
#include <span>

#include "format/virtio_blk.h"
#include "vhost/split_ring.h"

namespace diskengine::vhost {

struct BlkRequest {
  spec::VirtioBlkHeader header{};
  uint8_t* status = nullptr;     // the last writable byte; nullptr if there is none, and then nothing else is set
  bool has_header = false;       // false: fewer readable bytes than a header has
  std::span<iovec> to_device;    // readable bytes after the header
  std::span<iovec> from_device;  // writable bytes before the status
  uint64_t to_device_bytes = 0;
  uint64_t from_device_bytes = 0;
};

// Cuts header and status off the chain's pieces, in place. The header is copied: the guest may change it afterwards.
BlkRequest parse_blk_request(Chain& chain) noexcept;

// Copies as much of `from` into the pieces as fits, and as much of the pieces into `to`; returns the bytes copied.
size_t copy_to_pieces(std::span<const iovec> pieces, const void* from, size_t bytes) noexcept;
size_t copy_from_pieces(std::span<const iovec> pieces, void* to, size_t bytes) noexcept;

}  // namespace diskengine::vhost
