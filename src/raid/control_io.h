// Single requests awaited by coroutines on the main reactor: superblocks and flushes. Not for the I/O path.
#pragma once

#include <cstdint>
#include <optional>
#include <span>

#include "block/device.h"
#include "format/raid_dirty_log.h"
#include "format/raid_superblock.h"
#include "runtime/task.h"
#include "runtime/task_mutex.h"

namespace diskengine::raid {

// One request on `channel`, which stays open meanwhile.
Task<IoStatus> control_io(Channel& channel, Op op, uint64_t lba, std::span<uint8_t> payload, bool fua);

// Reads the superblock of the channel's device. Errc::not_found if it has none; Errc::io_error if it cannot be read;
// else as spec::decode_raid_superblock.
Task<Result<spec::RaidSuperblock>> load_superblock(Channel& channel);
// Stores `bytes` at the device's start, on stable media when it returns; zeroes after them up to a whole block.
Task<Result<void>> store_superblock(Channel& channel, std::vector<uint8_t> bytes);

// What a device says by itself about the volume that it is, or was, a leg of.
struct LegContents {
  std::optional<spec::RaidSuperblock> superblock;
  std::optional<spec::RaidDirtyLogHeader> log;  // of the superblock's volume
  bool log_damaged = false;                     // there is a log, but its header cannot be believed

  // Of the volume's writer; 0: it was given none, or the log does not say.
  uint64_t epoch() const noexcept { return log ? log->epoch : 0; }
  uint64_t sequence() const noexcept { return superblock ? superblock->seq_number : 0; }
  // Whether the superblock calls this leg in sync.
  bool configured(const Uuid& device) const noexcept;
};
// Reads both from the channel's device; no superblock is no error. Errc::io_error if one cannot be read, corrupt or
// not_supported if the superblock is not to be understood.
Task<Result<LegContents>> read_leg(Channel& channel);
// Whether the room of the superblock and what follows it, up to the log, are zeroes: nobody's data begin there.
Task<Result<bool>> is_blank(Channel& channel);

// Closes `channel` once nothing is outstanding on it. Its owner submits nothing more.
void close_when_idle(std::unique_ptr<Channel> channel);

}  // namespace diskengine::raid
