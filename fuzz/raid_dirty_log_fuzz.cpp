// The pages of a dirty-region log made of arbitrary bytes, as given and with a valid checksum: what is accepted is
// written back and read as the same.
#include "format/raid_dirty_log.h"

#include <algorithm>
#include <cstring>
#include <vector>

#include "base/assert.h"
#include "base/crc32c.h"
#include "base/endian.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace diskengine;
  std::vector<uint8_t> bytes(spec::kRaidDirtyLogPageBytes), again(spec::kRaidDirtyLogPageBytes);
  std::copy(data, data + std::min(size, bytes.size()), bytes.begin());
  const spec::RaidDirtyLogPageSpan page(bytes.data(), bytes.size()), copy(again.data(), again.size());
  const auto seal = [&](size_t at) {
    store_le<uint32_t>(bytes.data() + at, 0);
    store_le(bytes.data() + at, crc32c(bytes.data(), bytes.size()));
  };
  for (const bool sealed : {false, true}) {
    if (sealed) seal(offsetof(spec::RaidDirtyLogHeaderPage, crc));
    if (const auto header = spec::decode_raid_dirty_log_header(page)) {
      spec::encode(*header, copy);
      DE_ASSERT(*spec::decode_raid_dirty_log_header(copy) == *header);
    }
    if (sealed) seal(offsetof(spec::RaidDirtyLogPage, crc));
    const auto log_id = load_le<uint64_t>(bytes.data() + offsetof(spec::RaidDirtyLogPage, log_id));
    const auto index = load_le<uint32_t>(bytes.data() + offsetof(spec::RaidDirtyLogPage, index));
    if (const auto bits = spec::decode_raid_dirty_log_page(page, log_id, index)) {
      spec::encode_raid_dirty_log_page(log_id, index, 1, *bits, copy);
      const auto read = spec::decode_raid_dirty_log_page(copy, log_id, index);
      DE_ASSERT(read && std::equal(read->begin(), read->end(), bits->begin(), bits->end()));
    }
  }
  return 0;
}
