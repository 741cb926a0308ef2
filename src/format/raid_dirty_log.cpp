#include "format/raid_dirty_log.h"

#include <algorithm>
#include <cstring>

#include "base/checked.h"
#include "base/crc32c.h"
#include "base/endian.h"

namespace diskengine::spec {
namespace {

uint32_t checksum(RaidDirtyLogPageView page, size_t crc_at) noexcept {
  constexpr uint8_t kZero[4] = {};
  uint32_t state = crc32c_update(kCrc32cSeed, page.data(), crc_at);
  state = crc32c_update(state, kZero, sizeof kZero);
  state = crc32c_update(state, page.data() + crc_at + sizeof kZero, page.size() - crc_at - sizeof kZero);
  return crc32c_finish(state);
}

bool geometry_is_possible(const RaidDirtyLogHeader& header) noexcept {
  return is_power_of_two(header.region_blocks) && header.region_count > 0 &&
         header.region_count <= kRaidDirtyLogPagesMax * kRaidDirtyLogRegionsPerPage &&
         (header.block_size == 512 || header.block_size == 4096);
}

Error corrupt(const char* what) { return Error(Errc::corrupt, std::string("dirty-region log: ") + what); }

}  // namespace

void encode(const RaidDirtyLogHeader& header, RaidDirtyLogPageSpan page) {
  DE_ASSERT(geometry_is_possible(header));
  RaidDirtyLogHeaderPage raw{};
  std::memcpy(raw.signature, kRaidDirtyLogSignature, sizeof raw.signature);
  raw.version = 1;
  std::copy(header.volume_uuid.bytes.begin(), header.volume_uuid.bytes.end(), raw.volume_uuid);
  raw.log_id = header.log_id;
  raw.sequence = header.sequence;
  raw.epoch = header.epoch;
  raw.region_blocks = header.region_blocks;
  raw.region_count = header.region_count;
  raw.block_size = header.block_size;
  raw.page_count = static_cast<uint32_t>(raid_dirty_log_pages(header.region_count));
  for (unsigned i = 0; i < kRaidDirtyLogLegsMax; ++i) {
    std::copy(header.left[i].uuid.bytes.begin(), header.left[i].uuid.bytes.end(), raw.legs[i].uuid);
    raw.legs[i].left_sequence = header.left[i].sequence;
    std::copy(header.caches[i].bytes.begin(), header.caches[i].bytes.end(), raw.caches[i]);
  }
  raw.unsynced = header.unsynced;
  std::copy(header.machine.bytes.begin(), header.machine.bytes.end(), raw.machine);
  store_le(page.data(), raw);
  store_le(page.data() + offsetof(RaidDirtyLogHeaderPage, crc), checksum(page, offsetof(RaidDirtyLogHeaderPage, crc)));
}

Result<RaidDirtyLogHeader> decode_raid_dirty_log_header(RaidDirtyLogPageView page) {
  if (std::memcmp(page.data(), kRaidDirtyLogSignature, sizeof kRaidDirtyLogSignature) != 0)
    return Error(Errc::not_found, "there is no dirty-region log");
  const auto raw = load_le<RaidDirtyLogHeaderPage>(page.data());
  if (checksum(page, offsetof(RaidDirtyLogHeaderPage, crc)) != raw.crc) return corrupt("its checksum does not match");
  if (raw.version != 1)
    return Error(Errc::not_supported,
                 "dirty-region log: version " + std::to_string(raw.version) + " is not known; only 1 is");
  RaidDirtyLogHeader header;
  std::copy(std::begin(raw.volume_uuid), std::end(raw.volume_uuid), header.volume_uuid.bytes.begin());
  header.log_id = raw.log_id;
  header.sequence = raw.sequence;
  header.epoch = raw.epoch;
  header.region_blocks = raw.region_blocks;
  header.region_count = raw.region_count;
  header.block_size = raw.block_size;
  if (!geometry_is_possible(header) || raw.page_count != raid_dirty_log_pages(header.region_count))
    return corrupt("its geometry is impossible");
  for (unsigned i = 0; i < kRaidDirtyLogLegsMax; ++i) {
    std::copy(std::begin(raw.legs[i].uuid), std::end(raw.legs[i].uuid), header.left[i].uuid.bytes.begin());
    header.left[i].sequence = raw.legs[i].left_sequence;
    std::copy(std::begin(raw.caches[i]), std::end(raw.caches[i]), header.caches[i].bytes.begin());
  }
  header.unsynced = raw.unsynced;
  std::copy(std::begin(raw.machine), std::end(raw.machine), header.machine.bytes.begin());
  return header;
}

void encode_raid_dirty_log_page(uint64_t log_id, uint32_t index, uint64_t generation, std::span<const uint8_t> bits,
                                RaidDirtyLogPageSpan page) {
  DE_ASSERT(bits.size() <= kRaidDirtyLogBitmapBytes);
  std::fill(page.begin(), page.end(), uint8_t{0});
  store_le(page.data() + offsetof(RaidDirtyLogPage, signature), kRaidDirtyLogPageSignature);
  store_le(page.data() + offsetof(RaidDirtyLogPage, index), index);
  store_le(page.data() + offsetof(RaidDirtyLogPage, log_id), log_id);
  store_le(page.data() + offsetof(RaidDirtyLogPage, generation), generation);
  std::copy(bits.begin(), bits.end(), page.begin() + offsetof(RaidDirtyLogPage, bitmap));
  store_le(page.data() + offsetof(RaidDirtyLogPage, crc), checksum(page, offsetof(RaidDirtyLogPage, crc)));
}

Result<std::span<const uint8_t>> decode_raid_dirty_log_page(RaidDirtyLogPageView page, uint64_t log_id,
                                                            uint32_t index) {
  if (load_le<uint32_t>(page.data() + offsetof(RaidDirtyLogPage, signature)) != kRaidDirtyLogPageSignature)
    return corrupt("a page has no signature");
  if (checksum(page, offsetof(RaidDirtyLogPage, crc)) !=
      load_le<uint32_t>(page.data() + offsetof(RaidDirtyLogPage, crc)))
    return corrupt("a page's checksum does not match");
  if (load_le<uint64_t>(page.data() + offsetof(RaidDirtyLogPage, log_id)) != log_id ||
      load_le<uint32_t>(page.data() + offsetof(RaidDirtyLogPage, index)) != index)
    return corrupt("a page belongs elsewhere");
  return page.subspan(offsetof(RaidDirtyLogPage, bitmap));
}

}  // namespace diskengine::spec
