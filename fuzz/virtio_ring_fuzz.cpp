// A split ring whose descriptors, indirect tables and indices are arbitrary bytes: every piece that comes out lies in
// guest memory, and header, data and status of a request do too. Also an in-flight buffer of arbitrary bytes.
#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <vector>

#include "base/assert.h"
#include "vhost/blk_request.h"
#include "vhost/inflight.h"
#include "vhost/split_ring.h"

namespace {

using namespace diskengine;
using namespace diskengine::vhost;

constexpr uint16_t kSize = 16;
constexpr uint64_t kGuestBase = 0x10000;
constexpr uint64_t kUserBase = 0x7f00'0000'0000;
constexpr size_t kRingBytes = 1024;
constexpr size_t kBytes = 8192;
constexpr uint64_t kAvail = 256;
constexpr uint64_t kUsed = 512;

struct alignas(64) Memory {
  uint8_t bytes[kBytes];
};

void check_pieces(const Memory& memory, const iovec* pieces, size_t count) {
  for (size_t i = 0; i < count; ++i) {
    const auto* base = static_cast<const uint8_t*>(pieces[i].iov_base);
    DE_ASSERT(base >= memory.bytes && base + pieces[i].iov_len <= memory.bytes + kBytes);
    DE_ASSERT(pieces[i].iov_len > 0);
  }
}

void check_request(const Memory& memory, Chain& chain) {
  const BlkRequest request = parse_blk_request(chain);
  if (request.status != nullptr) DE_ASSERT(request.status >= memory.bytes && request.status < memory.bytes + kBytes);
  check_pieces(memory, request.to_device.data(), request.to_device.size());
  check_pieces(memory, request.from_device.data(), request.from_device.size());
  uint64_t bytes = 0;
  for (const iovec& piece : request.to_device) bytes += piece.iov_len;
  DE_ASSERT(bytes == request.to_device_bytes);
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  if (size < 2) return 0;
  static Memory memory;
  std::memset(memory.bytes, 0, sizeof memory.bytes);
  std::memcpy(memory.bytes, data + 1, std::min(size - 1, kBytes));

  // Two regions, so that buffers cross from one to the other.
  constexpr uint64_t kBorder = 4096;
  auto table = GuestMemory::make(
      {{kGuestBase, kBorder, kUserBase, memory.bytes, nullptr},
       {kGuestBase + kBorder, kBytes - kBorder, kUserBase + 0x100000, memory.bytes + kBorder, nullptr}});
  DE_ASSERT(table.has_value());
  SplitRing::Options options;
  options.size = kSize;
  options.desc = kUserBase;
  options.avail = kUserBase + kAvail;
  options.used = kUserBase + kUsed;
  options.event_idx = (data[0] & 1) != 0;
  options.indirect = (data[0] & 2) != 0;
  SplitRing ring;
  DE_ASSERT(ring.attach(options, **table).has_value());

  static std::vector<iovec> overflow(Chain::kPiecesMax);
  Chain chain;
  chain.overflow = overflow.data();
  const uint16_t waiting = ring.available();
  for (uint16_t i = 0; waiting != SplitRing::kBroken && i < waiting; ++i) {
    const uint16_t head = ring.peek(0);
    ring.advance(1);
    if (head >= kSize) break;
    if (ring.read_chain(head, chain) != ChainFault::none) continue;
    check_pieces(memory, chain.pieces, chain.count());
    check_request(memory, chain);
    ring.push_used(head, 1);
    if (i % 3 == 0) ring.publish();
  }
  ring.publish();
  if (!ring.enable_notifications()) ring.disable_notifications();

  for (const uint16_t head : Inflight(memory.bytes + kRingBytes, kSize).recover(data[1])) DE_ASSERT(head < kSize);
  return 0;
}
