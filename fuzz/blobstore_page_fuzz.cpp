// decode_blob, decode_extent_page and decode_journal on arbitrary pages with valid checksums: what they accept is
// written back and read as the same.
#include <algorithm>
#include <cstdint>
#include <vector>

#include "base/assert.h"
#include "base/crc32c.h"
#include "base/endian.h"
#include "format/blobstore_journal.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace diskengine;
  namespace blobstore = spec::blobstore;
  std::vector<blobstore::Page> chain(1 + std::min<size_t>(size / blobstore::kPageBytes, 4));
  for (size_t i = 0; i < chain.size(); ++i) {
    chain[i].fill(0);
    const size_t at = i * blobstore::kPageBytes;
    if (at < size) std::copy_n(data + at, std::min(size - at, blobstore::kPageBytes), chain[i].begin());
    store_le(chain[i].data() + 8, static_cast<uint32_t>(i));
    if (i > 0) std::copy_n(chain[0].begin(), 8, chain[i].begin());
    blobstore::seal(chain[i]);
  }
  blobstore::BlobRecord blob;
  if (blobstore::decode_blob(chain, blob) && blob.extent_table) {
    const auto encoded = blobstore::encode_blob(blob);
    if (encoded) {
      std::vector<blobstore::Page> pages = *encoded;
      std::vector<uint32_t> places(pages.size(), 1);
      blobstore::link_chain(pages, places);
      blobstore::BlobRecord again;
      DE_ASSERT(blobstore::decode_blob(pages, again).has_value() && again == blob);
    }
  }
  const auto extents = blobstore::decode_extent_page(chain[0]);
  if (extents) {
    blobstore::Page page;
    blobstore::encode_extent_page(extents->id, extents->first_cluster, extents->clusters, page);
    const auto again = blobstore::decode_extent_page(page);
    DE_ASSERT(again && *again == *extents);
  }
  blobstore::Page& page = chain[0];
  store_le(page.data(), blobstore::kJournalMagic);
  store_le(page.data() + 4084, crc32c(page.data(), 4084));
  const auto index = load_le<uint32_t>(page.data() + 24);
  const auto journal = blobstore::decode_journal(page, index, UINT32_MAX);
  if (journal) {
    blobstore::Page again;
    blobstore::encode_journal(*journal, again);
    DE_ASSERT(blobstore::decode_journal(again, index, UINT32_MAX).value() == *journal);
  }
  return 0;
}
