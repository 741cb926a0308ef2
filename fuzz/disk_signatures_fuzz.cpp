// What is on a disk, at both of its ends, is looked at within its bounds, and the same is found each time.
#include "format/disk_signatures.h"

#include <algorithm>
#include <cstdint>

#include "base/assert.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace diskengine::spec;
  const size_t tail = std::min(size, kSignatureTailBytes);
  const DiskPieces disk{{data, size}, {data + (size - tail), tail}};
  const auto found = find_signatures(disk);
  DE_ASSERT(found == find_signatures(disk));
  DE_ASSERT(found.empty() || !is_blank(disk));
  return 0;
}
