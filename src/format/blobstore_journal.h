// The redo journal that diskengine keeps in free metadata pages of a blobstore: the images of the metadata pages that
// the latest transaction overwrites in place. SPDK takes its pages for free ones: the first has no valid checksum, and
// the others do not say that they begin a blob. Described in docs/formats/blobstore-journal.md. Pure functions.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "format/blobstore.h"

namespace diskengine::spec::blobstore {

inline constexpr uint64_t kJournalMagic = 0x4c4e524a4b534944;  // "DISKJRNL"
inline constexpr uint32_t kJournalVersion = 1;
inline constexpr uint32_t kJournalImagesMax = 64;
inline constexpr uint32_t kSuperTarget = UINT32_MAX;  // as target: the super block

// What a page says of itself, for telling which version of it is on disk: its checksum if that is right.
inline constexpr uint32_t kStateZeroed = 0;
inline constexpr uint32_t kStateUnsealed = UINT32_MAX;
uint32_t state_of(PageBytes page) noexcept;

struct JournalEntry {
  uint32_t target = 0;     // metadata page, or kSuperTarget
  uint32_t old_state = 0;  // of the page before
  uint32_t new_state = 0;  // of the image
  uint32_t image_crc = 0;  // CRC32C over all of the image
  bool operator==(const JournalEntry&) const = default;
};

// The first page of the journal; the images are the pages after it, in the order of the entries.
struct JournalHeader {
  uint64_t number = 0;                // one higher with every transaction of a store
  uint32_t page = 0;                  // where it lies itself
  std::vector<JournalEntry> entries;  // 1 to kJournalImagesMax
  bool operator==(const JournalHeader&) const = default;
};

void encode_journal(const JournalHeader& header, Page& page);
bool is_journal(PageBytes page) noexcept;
// `index`: the metadata page it was found at. Errc::not_found: no journal. Errc::corrupt.
Result<JournalHeader> decode_journal(PageBytes page, uint32_t index, uint32_t md_len);

}  // namespace diskengine::spec::blobstore
