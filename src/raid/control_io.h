// Single requests awaited by coroutines on the main reactor: superblocks and flushes. Not for the I/O path.
#pragma once

#include <cstdint>
#include <span>

#include "block/device.h"
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

// Closes `channel` once nothing is outstanding on it. Its owner submits nothing more.
void close_when_idle(std::unique_ptr<Channel> channel);

}  // namespace diskengine::raid
