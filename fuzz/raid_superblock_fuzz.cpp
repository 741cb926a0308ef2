// decode_raid_superblock on arbitrary bytes, as given and with a valid checksum: what it accepts is written back and
// read as the same superblock.
#include "format/raid_superblock.h"

#include <cstdint>
#include <vector>

#include "base/assert.h"
#include "base/crc32c.h"
#include "base/endian.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace diskengine;
  std::vector<uint8_t> bytes(data, data + size);
  for (const bool sealed : {false, true}) {
    const auto length = spec::raid_superblock_length(bytes);
    if (sealed && length && *length <= bytes.size()) {
      store_le<uint32_t>(bytes.data() + 16, 0);
      store_le(bytes.data() + 16, crc32c_update(0, bytes.data(), *length));
    }
    const auto decoded = spec::decode_raid_superblock(bytes);
    if (!decoded) continue;
    const auto again = spec::decode_raid_superblock(spec::encode(*decoded));
    DE_ASSERT(again && *again == *decoded);
  }
  return 0;
}
