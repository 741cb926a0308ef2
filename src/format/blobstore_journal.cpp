#include "format/blobstore_journal.h"

#include <algorithm>

#include "base/crc32c.h"
#include "base/endian.h"

namespace diskengine::spec::blobstore {
namespace {

struct HeaderRecord {
  uint64_t magic;
  uint32_t sequence_num;  // all ones: in the place where SPDK looks for the number in a chain
  uint32_t version;
  uint64_t number;
  uint32_t page;
  uint32_t count;
};
static_assert(sizeof(HeaderRecord) == 32);

struct EntryRecord {
  uint32_t target;
  uint32_t old_state;
  uint32_t new_state;
  uint32_t image_crc;
};
static_assert(sizeof(EntryRecord) == 16);

constexpr size_t kOwnCrcAt = 4084;
static_assert(sizeof(HeaderRecord) + kJournalImagesMax * sizeof(EntryRecord) <= kOwnCrcAt);

Error corrupt(const char* what) { return Error(Errc::corrupt, std::string("blobstore journal: ") + what); }

}  // namespace

uint32_t state_of(PageBytes page) noexcept {
  if (is_sealed(page)) return load_le<uint32_t>(page.data() + kCrcAt);
  const bool zeroed = std::all_of(page.begin(), page.end(), [](uint8_t byte) { return byte == 0; });
  return zeroed ? kStateZeroed : kStateUnsealed;
}

void encode_journal(const JournalHeader& header, Page& page) {
  DE_ASSERT(!header.entries.empty() && header.entries.size() <= kJournalImagesMax);
  page.fill(0);
  store_le(page.data(), HeaderRecord{kJournalMagic, UINT32_MAX, kJournalVersion, header.number, header.page,
                                     static_cast<uint32_t>(header.entries.size())});
  uint8_t* at = page.data() + sizeof(HeaderRecord);
  for (const JournalEntry& entry : header.entries) {
    store_le(at, EntryRecord{entry.target, entry.old_state, entry.new_state, entry.image_crc});
    at += sizeof(EntryRecord);
  }
  store_le(page.data() + kOwnCrcAt, crc32c(page.data(), kOwnCrcAt));
  store_le(page.data() + kNextAt, kNoPage);
  store_le(page.data() + kCrcAt, ~crc32c(page.data(), kCrcAt));
}

bool is_journal(PageBytes page) noexcept { return load_le<uint64_t>(page.data()) == kJournalMagic; }

Result<JournalHeader> decode_journal(PageBytes page, uint32_t index, uint32_t md_len) {
  if (!is_journal(page)) return Error(Errc::not_found, "there is no blobstore journal");
  if (load_le<uint32_t>(page.data() + kOwnCrcAt) != crc32c(page.data(), kOwnCrcAt))
    return corrupt("its checksum is wrong");
  const auto record = load_le<HeaderRecord>(page.data());
  if (record.version != kJournalVersion) return corrupt("it has another version");
  if (record.page != index) return corrupt("it is a copy of one elsewhere");
  if (record.count == 0 || record.count > kJournalImagesMax || record.count >= md_len - index)
    return corrupt("it has an impossible number of images");
  JournalHeader header{record.number, record.page, {}};
  for (uint32_t i = 0; i < record.count; ++i) {
    const auto entry = load_le<EntryRecord>(page.data() + sizeof(HeaderRecord) + i * sizeof(EntryRecord));
    if (entry.target != kSuperTarget && entry.target >= md_len) return corrupt("it is for a page beyond the metadata");
    header.entries.push_back({entry.target, entry.old_state, entry.new_state, entry.image_crc});
  }
  return header;
}

}  // namespace diskengine::spec::blobstore
