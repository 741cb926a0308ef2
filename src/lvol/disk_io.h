// Single requests awaited by coroutines: metadata, copies, barriers. Not for the path of I/O to allocated clusters.
#pragma once

#include <cstdint>
#include <span>

#include "block/device.h"
#include "runtime/task.h"

namespace diskengine::lvol {

struct DiskRange {
  uint64_t lba = 0;
  uint64_t blocks = 0;
};

// One request on `channel`, which stays open meanwhile.
Task<IoStatus> disk_io(Channel& channel, Op op, DiskRange range, std::span<const iovec> iov, bool fua = false);
// Splits at the device's longest transfer. `bytes` is whole blocks.
Task<IoStatus> read_bytes(Channel& channel, uint64_t lba, std::span<uint8_t> bytes);
Task<IoStatus> write_bytes(Channel& channel, uint64_t lba, std::span<const uint8_t> bytes, bool fua = false);
// What was completed before is on stable media; nothing to do where the device has no write cache.
Task<IoStatus> barrier(Channel& channel);
// Zeroes, by the device's own command or written from `zeroes`.
Task<IoStatus> zero_blocks(Channel& channel, DiskRange range, std::span<const uint8_t> zeroes);

Error io_failed(const Device& device, const std::string& what, IoStatus status);

}  // namespace diskengine::lvol
