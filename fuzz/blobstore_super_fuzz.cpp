// decode_super on arbitrary bytes, as given and with a valid checksum: what it accepts is written back and read as the
// same super block. The masks are read from the same bytes.
#include <algorithm>
#include <cstdint>

#include "base/assert.h"
#include "format/blobstore.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace diskengine;
  namespace blobstore = spec::blobstore;
  constexpr uint64_t kDeviceBytes = uint64_t{1} << 40;
  blobstore::Page page{};
  std::copy_n(data, std::min(size, page.size()), page.begin());
  for (const bool sealed : {false, true}) {
    if (sealed) blobstore::seal(page);
    const auto found = blobstore::decode_super(page, kDeviceBytes);
    if (!found) continue;
    DE_ASSERT(found->super.clusters_max() > 0);
    blobstore::Page again{};
    blobstore::encode_super(found->super, again);
    const auto reread = blobstore::decode_super(again, kDeviceBytes);
    DE_ASSERT(reread && reread->super == found->super && reread->seal == blobstore::Seal::good);
  }
  for (const auto type : {blobstore::MaskType::used_pages, blobstore::MaskType::used_clusters})
    for (const uint32_t bits : {0u, 7u, 30000u, UINT32_MAX}) {
      const auto mask = blobstore::decode_mask({data, size}, type, bits);
      if (mask) DE_ASSERT(mask->size() == (uint64_t{bits} + 7) / 8);
    }
  return 0;
}
