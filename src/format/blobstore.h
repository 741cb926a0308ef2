// SPDK's blobstore on disk: the super block, the three masks and the metadata pages. Layout and codec of SPDK's
// lib/blob/blobstore.h, super block versions 1 to 3, described in docs/formats/blobstore.md. Little endian. Pure
// functions, any thread; nothing here trusts the bytes it is given.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"

namespace diskengine::spec::blobstore {

inline constexpr size_t kPageBytes = 4096;
inline constexpr uint32_t kNoPage = UINT32_MAX;  // as `next`: the last page of a chain
inline constexpr uint64_t kNoBlob = UINT64_MAX;  // as super blob: none
inline constexpr uint32_t kVersion = 3;
inline constexpr size_t kTypeBytes = 16;
inline constexpr std::string_view kLvolStoreType = "LVOLSTORE";
inline constexpr uint32_t kClustersPerExtentPage = 512;
// What this implementation reads of one blob; more is taken for damage.
inline constexpr uint64_t kBlobClustersMax = uint64_t{1} << 28;
inline constexpr uint32_t kChainPagesMax = 2048;
inline constexpr size_t kXattrsMax = 1024;

using Page = std::array<uint8_t, kPageBytes>;
using PageBytes = std::span<const uint8_t, kPageBytes>;

// A blob's id is the number of its first metadata page with bit 32 set.
constexpr uint64_t blob_id_of_page(uint32_t page) noexcept { return (uint64_t{1} << 32) | page; }
constexpr uint32_t page_of_blob_id(uint64_t id) noexcept { return static_cast<uint32_t>(id); }
constexpr bool is_blob_id(uint64_t id, uint32_t md_len) noexcept {
  return (id >> 32) == 1 && page_of_blob_id(id) < md_len;
}

// --- Super block: page 0

#pragma pack(push, 1)
struct SuperRecord {
  uint8_t signature[8];  // "SPDKBLOB"
  uint32_t version;
  uint32_t length;  // bytes: 4096
  uint32_t clean;   // 1: the masks are right
  uint64_t super_blob;
  uint32_t cluster_size;  // bytes
  uint32_t used_page_mask_start;
  uint32_t used_page_mask_len;
  uint32_t used_cluster_mask_start;
  uint32_t used_cluster_mask_len;
  uint32_t md_start;
  uint32_t md_len;
  uint8_t bstype[kTypeBytes];
  uint32_t used_blobid_mask_start;  // since version 3
  uint32_t used_blobid_mask_len;
  uint64_t size;          // bytes; 0: the whole device
  uint32_t io_unit_size;  // bytes; 0: 4096
  uint32_t md_page_size;  // bytes; 0: 4096
  uint8_t reserved[3996];
  uint32_t crc;
};
#pragma pack(pop)
static_assert(sizeof(SuperRecord) == kPageBytes);
static_assert(offsetof(SuperRecord, clean) == 16);
static_assert(offsetof(SuperRecord, super_blob) == 20);
static_assert(offsetof(SuperRecord, cluster_size) == 28);
static_assert(offsetof(SuperRecord, md_start) == 48);
static_assert(offsetof(SuperRecord, bstype) == 56);
static_assert(offsetof(SuperRecord, used_blobid_mask_start) == 72);
static_assert(offsetof(SuperRecord, size) == 80);
static_assert(offsetof(SuperRecord, md_page_size) == 92);
static_assert(offsetof(SuperRecord, crc) == 4092);

struct PageRange {  // in pages from the start of the disk
  uint32_t start = 0;
  uint32_t length = 0;
  bool operator==(const PageRange&) const = default;
};

struct Super {
  uint32_t version = kVersion;
  bool clean = false;
  uint64_t super_blob = kNoBlob;
  uint32_t cluster_bytes = 0;
  PageRange used_page_mask;
  PageRange used_cluster_mask;
  PageRange used_blobid_mask;  // length 0 before version 3
  uint32_t md_start = 0;       // pages from the start of the disk
  uint32_t md_len = 0;         // pages
  std::string type;            // "LVOLSTORE"
  uint64_t size_bytes = 0;
  uint32_t io_unit_bytes = 0;

  bool operator==(const Super&) const = default;

  uint32_t pages_per_cluster() const noexcept { return static_cast<uint32_t>(cluster_bytes / kPageBytes); }
  uint32_t total_clusters() const noexcept { return static_cast<uint32_t>(size_bytes / cluster_bytes); }
  // Clusters at the start that hold super block, masks and metadata.
  uint32_t metadata_clusters() const noexcept {
    return static_cast<uint32_t>((uint64_t{md_start} + md_len + pages_per_cluster() - 1) / pages_per_cluster());
  }
  // Clusters that the room for the cluster mask is enough for.
  uint64_t clusters_max() const noexcept;
};

// How the checksum stands to the bytes.
enum class Seal {
  good,
  torn_flag,  // right for the other value of `clean`: a write that changed only that was cut in two
  broken,
};

struct FoundSuper {
  Super super;
  Seal seal = Seal::good;  // unless good, `super.clean` is false
};

// Errc::not_found: no signature. Errc::not_supported: a later version or other sizes of pages. Errc::corrupt: fields
// that contradict each other or a device of `device_bytes`. A broken seal is no error here: the caller may know better.
Result<FoundSuper> decode_super(PageBytes page, uint64_t device_bytes);
// Writes the fields into `page`, leaves what else is there, and seals it.
void encode_super(const Super& super, Page& page);
// A layout for a new store of `device_bytes`, as SPDK lays it out. Errc::invalid_argument, no_space (the device holds
// no cluster), no_memory (no cluster is left beside the metadata: SPDK's code).
struct NewStore {
  uint64_t device_bytes = 0;
  uint32_t block_bytes = 512;
  uint32_t cluster_bytes = 0;
  uint64_t md_len = 0;  // pages
};
Result<Super> lay_out(const NewStore& store);

// --- Masks: a type byte, the number of bits in 4 bytes, then the bits, lowest first

enum class MaskType : uint8_t { used_pages = 0, used_clusters = 1, used_blobids = 2 };
inline constexpr size_t kMaskHeaderBytes = 5;
// Pages that a mask of `bits` takes.
constexpr uint64_t mask_pages(uint64_t bits) noexcept {
  return (kMaskHeaderBytes + (bits + 7) / 8 + kPageBytes - 1) / kPageBytes;
}
// The bits, ceil(bits / 8) bytes within `bytes`. A cluster mask may be longer than the store (a growth that did not
// finish). Errc::corrupt.
Result<std::span<const uint8_t>> decode_mask(std::span<const uint8_t> bytes, MaskType type, uint32_t bits);
// `bytes` holds mask_pages(bits) pages or more; `mask` holds ceil(bits / 8) bytes.
void encode_mask(MaskType type, uint32_t bits, std::span<const uint8_t> mask, std::span<uint8_t> bytes);

// --- Metadata pages

struct PageHeader {
  uint64_t id;
  uint32_t sequence_num;
  uint32_t reserved0;
};
static_assert(sizeof(PageHeader) == 16);
inline constexpr size_t kDescriptorsAt = 16;
inline constexpr size_t kDescriptorBytes = 4072;
inline constexpr size_t kNextAt = 4088;
inline constexpr size_t kCrcAt = 4092;

enum class DescriptorType : uint8_t {
  padding = 0,
  extent_rle = 1,
  xattr = 2,
  flags = 3,
  xattr_internal = 4,
  extent_table = 5,
  extent_page = 6,
};

struct Flags {
  // Unknown ones forbid opening the blob.
  static constexpr uint64_t kThin = 1u << 0;
  static constexpr uint64_t kInternalXattr = 1u << 1;
  static constexpr uint64_t kExtentTable = 1u << 2;
  static constexpr uint64_t kExternalSnapshot = 1u << 3;
  static constexpr uint64_t kInvalidKnown = kThin | kInternalXattr | kExtentTable | kExternalSnapshot;
  // Unknown ones make it read-only.
  static constexpr uint64_t kReadOnly = 1u << 0;
  // Unknown ones make its metadata read-only.
  static constexpr uint64_t kClearMethodMask = 3u;

  uint64_t invalid = 0;
  uint64_t data_ro = 0;
  uint64_t md_ro = 0;
  bool operator==(const Flags&) const = default;
};

// Names of internal xattrs.
inline constexpr std::string_view kXattrParent = "SNAP";                 // id of the snapshot below
inline constexpr std::string_view kXattrSnapshotInProgress = "SNAPTMP";  // id of the blob that is being taken
inline constexpr std::string_view kXattrPendingRemoval = "SNAPRM";       // id of the clone
inline constexpr std::string_view kXattrExternalId = "EXTSNAP";

struct Xattr {
  std::string name;
  std::vector<uint8_t> value;
  bool operator==(const Xattr&) const = default;
};

// `length` clusters from `cluster` on; cluster 0: unallocated.
struct ClusterRun {
  uint32_t cluster = 0;
  uint32_t length = 0;
  bool operator==(const ClusterRun&) const = default;
};

const Xattr* find_xattr(const std::vector<Xattr>& list, std::string_view name) noexcept;

struct BlobRecord {
  uint64_t id = 0;
  Flags flags;
  std::vector<Xattr> xattrs;
  std::vector<Xattr> internal_xattrs;
  bool extent_table = true;  // false: `runs` say where its clusters are
  uint64_t num_clusters = 0;
  std::vector<uint32_t> extent_pages;  // metadata pages, one for each 512 clusters; 0: none of them is allocated
  std::vector<ClusterRun> runs;

  bool operator==(const BlobRecord&) const = default;

  bool thin() const noexcept { return (flags.invalid & Flags::kThin) != 0; }
  const Xattr* find(std::string_view name) const noexcept { return find_xattr(xattrs, name); }
  const Xattr* find_internal(std::string_view name) const noexcept { return find_xattr(internal_xattrs, name); }
};

constexpr uint64_t extent_pages_of(uint64_t clusters) noexcept {
  return (clusters + kClustersPerExtentPage - 1) / kClustersPerExtentPage;
}

PageHeader header_of(PageBytes page) noexcept;
uint32_t next_of(PageBytes page) noexcept;
bool is_sealed(PageBytes page) noexcept;
void seal(Page& page) noexcept;
// Whether `page`, found at `index`, is the first page of a blob: it says so and its checksum is right.
bool is_root(PageBytes page, uint32_t index) noexcept;

// Reads a chain of metadata pages, the first page first; each is sealed (asserted: the reader of the chain checked it).
// What was made out before an error stays in `blob`. Errc::corrupt, Errc::not_supported (flags of a later version).
Result<void> decode_blob(std::span<const Page> chain, BlobRecord& blob);
// The chain, with neither `next` nor checksums: link_chain sets them. Blobs with runs are not written (asserted).
// Errc::no_space: an xattr does not fit a page, or the chain is longer than kChainPagesMax.
Result<std::vector<Page>> encode_blob(const BlobRecord& blob);
// `pages` are the places of `chain`.
void link_chain(std::span<Page> chain, std::span<const uint32_t> pages);

struct ExtentPage {
  uint64_t id = 0;  // of the blob that made it; snapshots take over the pages of others
  uint32_t first_cluster = 0;
  std::vector<uint32_t> clusters;  // 1 to 512; 0: unallocated
  bool operator==(const ExtentPage&) const = default;
};
// Errc::corrupt.
Result<ExtentPage> decode_extent_page(PageBytes page);
// Sealed.
void encode_extent_page(uint64_t blob_id, uint32_t first_cluster, std::span<const uint32_t> clusters, Page& page);

}  // namespace diskengine::spec::blobstore
