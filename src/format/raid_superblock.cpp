#include "format/raid_superblock.h"

#include <algorithm>
#include <cstring>

#include "base/crc32c.h"
#include "base/endian.h"

namespace diskengine::spec {
namespace {

uint32_t checksum(std::span<const uint8_t> bytes) noexcept {
  constexpr size_t kAt = offsetof(RaidSuperblockHeader, crc);
  constexpr uint8_t kZero[4] = {};
  uint32_t state = crc32c_update(0, bytes.data(), kAt);
  state = crc32c_update(state, kZero, sizeof kZero);
  return crc32c_update(state, bytes.data() + kAt + sizeof kZero, bytes.size() - kAt - sizeof kZero);
}

Error corrupt(const std::string& what) { return Error(Errc::corrupt, "RAID superblock: " + what); }

Result<std::vector<RaidBaseDisk>> decode_records(std::span<const uint8_t> bytes, const RaidSuperblockHeader& header) {
  std::vector<RaidBaseDisk> disks;
  for (size_t i = 0; i < header.base_bdevs_size; ++i) {
    const auto record = load_le<RaidBaseDiskRecord>(bytes.data() + sizeof header + i * sizeof(RaidBaseDiskRecord));
    if (record.slot >= header.num_base_bdevs)
      return corrupt("record " + std::to_string(i) + " has slot " + std::to_string(record.slot) + " of " +
                     std::to_string(header.num_base_bdevs));
    if (record.state > static_cast<uint32_t>(RaidBaseState::spare))
      return corrupt("record " + std::to_string(i) + " has unknown state " + std::to_string(record.state));
    RaidBaseDisk disk;
    std::copy(std::begin(record.uuid), std::end(record.uuid), disk.uuid.bytes.begin());
    disk.data_offset = record.data_offset;
    disk.data_size = record.data_size;
    disk.state = static_cast<RaidBaseState>(record.state);
    disk.flags = record.flags;
    disk.slot = record.slot;
    disks.push_back(disk);
  }
  return disks;
}

}  // namespace

std::vector<uint8_t> encode(const RaidSuperblock& superblock) {
  DE_ASSERT(superblock.name.size() < kRaidNameBytes);
  DE_ASSERT(superblock.base_bdevs.size() <= 255);
  RaidSuperblockHeader header{};
  std::memcpy(header.signature, kRaidSuperblockSignature, sizeof header.signature);
  header.version_major = kRaidSuperblockMajor;
  header.version_minor = superblock.version_minor;
  header.length = static_cast<uint32_t>(sizeof header + superblock.base_bdevs.size() * sizeof(RaidBaseDiskRecord));
  header.flags = superblock.flags;
  std::copy(superblock.uuid.bytes.begin(), superblock.uuid.bytes.end(), header.uuid);
  std::copy(superblock.name.begin(), superblock.name.end(), header.name);
  header.raid_size = superblock.raid_size;
  header.block_size = superblock.block_size;
  header.level = superblock.level;
  header.strip_size = superblock.strip_size;
  header.state = superblock.state;
  header.seq_number = superblock.seq_number;
  header.num_base_bdevs = superblock.num_base_bdevs;
  header.base_bdevs_size = static_cast<uint8_t>(superblock.base_bdevs.size());

  std::vector<uint8_t> bytes(header.length);
  store_le(bytes.data(), header);
  size_t at = sizeof header;
  for (const RaidBaseDisk& disk : superblock.base_bdevs) {
    RaidBaseDiskRecord record{};
    std::copy(disk.uuid.bytes.begin(), disk.uuid.bytes.end(), record.uuid);
    record.data_offset = disk.data_offset;
    record.data_size = disk.data_size;
    record.state = static_cast<uint32_t>(disk.state);
    record.flags = disk.flags;
    record.slot = disk.slot;
    store_le(bytes.data() + at, record);
    at += sizeof record;
  }
  store_le(bytes.data() + offsetof(RaidSuperblockHeader, crc), checksum(bytes));
  return bytes;
}

Result<size_t> raid_superblock_length(std::span<const uint8_t> bytes) {
  if (bytes.size() < sizeof(RaidSuperblockHeader)) return corrupt("cut short within its header");
  if (std::memcmp(bytes.data(), kRaidSuperblockSignature, sizeof kRaidSuperblockSignature) != 0)
    return Error(Errc::not_found, "there is no RAID superblock");
  const auto header = load_le<RaidSuperblockHeader>(bytes.data());
  const size_t needed = sizeof header + header.base_bdevs_size * sizeof(RaidBaseDiskRecord);
  if (header.length < needed || header.length > kRaidSuperblockBytesMax)
    return corrupt("a length of " + std::to_string(header.length) + " bytes for " +
                   std::to_string(header.base_bdevs_size) + " records");
  return size_t{header.length};
}

Result<RaidSuperblock> decode_raid_superblock(std::span<const uint8_t> bytes) {
  TRY_ASSIGN(const size_t length, raid_superblock_length(bytes));
  if (bytes.size() < length) return corrupt("cut short");
  const auto header = load_le<RaidSuperblockHeader>(bytes.data());
  if (checksum(bytes.first(length)) != header.crc) return corrupt("its checksum does not match");
  if (header.version_major != kRaidSuperblockMajor)
    return Error(Errc::not_supported,
                 "RAID superblock: version " + std::to_string(header.version_major) + " is not known; only 1 is");
  if (header.num_base_bdevs == 0) return corrupt("it describes no base devices");
  const auto* name = reinterpret_cast<const char*>(bytes.data()) + offsetof(RaidSuperblockHeader, name);
  const size_t name_length = strnlen(name, kRaidNameBytes);
  if (name_length == 0 || name_length == kRaidNameBytes) return corrupt("its name is empty or not terminated");

  RaidSuperblock superblock;
  superblock.version_minor = header.version_minor;
  superblock.flags = header.flags;
  std::copy(std::begin(header.uuid), std::end(header.uuid), superblock.uuid.bytes.begin());
  superblock.name.assign(name, name_length);
  superblock.raid_size = header.raid_size;
  superblock.block_size = header.block_size;
  superblock.level = header.level;
  superblock.strip_size = header.strip_size;
  superblock.state = header.state;
  superblock.seq_number = header.seq_number;
  superblock.num_base_bdevs = header.num_base_bdevs;
  TRY_ASSIGN(superblock.base_bdevs, decode_records(bytes, header));
  return superblock;
}

}  // namespace diskengine::spec
