// Metadata pages: chains of descriptors, and extent pages.
#include <fmt/format.h>

#include <algorithm>
#include <cstring>

#include "base/crc32c.h"
#include "base/endian.h"
#include "format/blobstore.h"

namespace diskengine::spec::blobstore {
namespace {

constexpr size_t kDescriptorHeaderBytes = 5;  // type, then length in 4 bytes
constexpr size_t kXattrHeaderBytes = 4;       // length of the name, length of the value
constexpr size_t kEntryBytes = 8;
constexpr size_t kTableHeaderBytes = 8;  // number of clusters of the blob

Error corrupt(const std::string& what) { return Error(Errc::corrupt, "blob metadata: " + what); }

// Decodes one chain, descriptor by descriptor.
class Decoder {
 public:
  explicit Decoder(BlobRecord& blob) : blob_(blob) {}

  Result<void> page(const Page& page) {
    const std::span<const uint8_t> all(page.data() + kDescriptorsAt, kDescriptorBytes);
    size_t at = 0;
    while (at + kDescriptorHeaderBytes <= all.size()) {
      const uint8_t type = all[at];
      const auto length = load_le<uint32_t>(all.data() + at + 1);
      if (type == static_cast<uint8_t>(DescriptorType::padding) && length == 0) break;
      if (length > all.size() - at - kDescriptorHeaderBytes) return corrupt("a descriptor reaches over its page");
      TRY(descriptor(static_cast<DescriptorType>(type), all.subspan(at + kDescriptorHeaderBytes, length)));
      at += kDescriptorHeaderBytes + length;
    }
    return {};
  }

  Result<void> end() {
    blob_.extent_table = table_seen_;
    if (!table_seen_) return {};
    if (blob_.extent_pages.size() != extent_pages_of(blob_.num_clusters))
      return corrupt(fmt::format("{} extent pages for {} clusters", blob_.extent_pages.size(), blob_.num_clusters));
    return {};
  }

 private:
  Result<void> descriptor(DescriptorType type, std::span<const uint8_t> body) {
    switch (type) {
      case DescriptorType::flags:
        return flags(body);
      case DescriptorType::xattr:
        return xattr(body, blob_.xattrs);
      case DescriptorType::xattr_internal:
        return xattr(body, blob_.internal_xattrs);
      case DescriptorType::extent_rle:
        return extent_rle(body);
      case DescriptorType::extent_table:
        return extent_table(body);
      case DescriptorType::extent_page:
        return corrupt("an extent page within the chain");
      case DescriptorType::padding:
        return {};
    }
    return {};  // of a later version: a flag says whether it matters
  }

  Result<void> flags(std::span<const uint8_t> body) {
    if (body.size() != 24) return corrupt("flags of another size");
    blob_.flags = {load_le<uint64_t>(body.data()), load_le<uint64_t>(body.data() + 8),
                   load_le<uint64_t>(body.data() + 16)};
    if ((blob_.flags.invalid & ~Flags::kInvalidKnown) != 0)
      return Error(Errc::not_supported,
                   fmt::format("blob metadata: flags {:#x} of a later version", blob_.flags.invalid));
    return {};
  }

  Result<void> xattr(std::span<const uint8_t> body, std::vector<Xattr>& list) {
    if (body.size() < kXattrHeaderBytes) return corrupt("an xattr is cut short");
    const size_t name = load_le<uint16_t>(body.data());
    const size_t value = load_le<uint16_t>(body.data() + 2);
    if (body.size() != kXattrHeaderBytes + name + value) return corrupt("an xattr whose lengths do not add up");
    if (list.size() >= kXattrsMax) return corrupt("too many xattrs");
    const std::span<const uint8_t> text = body.subspan(kXattrHeaderBytes, name);
    const std::span<const uint8_t> bytes = body.subspan(kXattrHeaderBytes + name);
    list.push_back({std::string(text.begin(), text.end()), std::vector<uint8_t>(bytes.begin(), bytes.end())});
    return {};
  }

  Result<void> extent_rle(std::span<const uint8_t> body) {
    if (table_seen_) return corrupt("run-length extents beside an extent table");
    rle_seen_ = true;
    if (body.empty() || body.size() % kEntryBytes != 0) return corrupt("run-length extents of another size");
    for (size_t at = 0; at < body.size(); at += kEntryBytes) {
      const ClusterRun run{load_le<uint32_t>(body.data() + at), load_le<uint32_t>(body.data() + at + 4)};
      if (run.length > kBlobClustersMax - blob_.num_clusters) return corrupt("it has too many clusters");
      if (run.cluster == 0 && run.length != 0 && !blob_.thin())
        return corrupt("unallocated clusters in a blob that is not thin");
      if (uint64_t{run.cluster} + run.length > UINT32_MAX) return corrupt("an extent reaches over the last cluster");
      blob_.num_clusters += run.length;
      blob_.runs.push_back(run);
    }
    if (blob_.num_clusters == 0) return corrupt("run-length extents without clusters");
    return {};
  }

  Result<void> extent_table(std::span<const uint8_t> body) {
    if (rle_seen_) return corrupt("an extent table beside run-length extents");
    if (body.size() < kTableHeaderBytes || (body.size() - kTableHeaderBytes) % kEntryBytes != 0)
      return corrupt("an extent table of another size");
    const auto clusters = load_le<uint64_t>(body.data());
    if (clusters > kBlobClustersMax) return corrupt(fmt::format("it has {} clusters, too many", clusters));
    if (table_seen_ && clusters != blob_.num_clusters) return corrupt("extent tables that disagree about its size");
    table_seen_ = true;
    blob_.num_clusters = clusters;
    const uint64_t room = extent_pages_of(clusters);
    for (size_t at = kTableHeaderBytes; at < body.size(); at += kEntryBytes) {
      const auto page = load_le<uint32_t>(body.data() + at);
      const auto count = load_le<uint32_t>(body.data() + at + 4);
      if (count > room - blob_.extent_pages.size()) return corrupt("more extent pages than clusters");
      if (page != 0 && count != 1) return corrupt("an extent page that is repeated");
      if (page == 0 && count != 0 && !blob_.thin()) return corrupt("a blob that is not thin lacks extent pages");
      blob_.extent_pages.insert(blob_.extent_pages.end(), count, page);
    }
    return {};
  }

  BlobRecord& blob_;
  bool table_seen_ = false;
  bool rle_seen_ = false;
};

// Encodes one chain; begins a page where a descriptor no longer fits.
class Encoder {
 public:
  explicit Encoder(uint64_t id) : id_(id) { add_page(); }

  size_t room() const noexcept { return kDescriptorBytes - used_; }
  void add_page() {
    Page page{};
    const PageHeader header{id_, static_cast<uint32_t>(pages_.size()), 0};
    store_le(page.data(), header);
    store_le(page.data() + kNextAt, kNoPage);
    pages_.push_back(page);
    used_ = 0;
  }
  // A descriptor of `length` bytes after its header; there is room.
  uint8_t* begin(DescriptorType type, size_t length) {
    DE_ASSERT(kDescriptorHeaderBytes + length <= room());
    uint8_t* at = pages_.back().data() + kDescriptorsAt + used_;
    at[0] = static_cast<uint8_t>(type);
    store_le(at + 1, static_cast<uint32_t>(length));
    used_ += kDescriptorHeaderBytes + length;
    return at + kDescriptorHeaderBytes;
  }

  void flags(const Flags& flags) {
    uint8_t* at = begin(DescriptorType::flags, 24);
    store_le(at, flags.invalid);
    store_le(at + 8, flags.data_ro);
    store_le(at + 16, flags.md_ro);
  }

  Result<void> xattr(const Xattr& xattr, DescriptorType type) {
    const size_t length = kXattrHeaderBytes + xattr.name.size() + xattr.value.size();
    if (kDescriptorHeaderBytes + length > kDescriptorBytes)
      return Error(Errc::no_space, "xattr '" + xattr.name + "' does not fit a metadata page");
    if (kDescriptorHeaderBytes + length > room()) add_page();
    uint8_t* at = begin(type, length);
    store_le(at, static_cast<uint16_t>(xattr.name.size()));
    store_le(at + 2, static_cast<uint16_t>(xattr.value.size()));
    std::copy(xattr.name.begin(), xattr.name.end(), at + kXattrHeaderBytes);
    std::copy(xattr.value.begin(), xattr.value.end(), at + kXattrHeaderBytes + xattr.name.size());
    return {};
  }

  // Unallocated extent pages are run-length encoded. Even an empty blob has one table.
  void extent_table(const BlobRecord& blob) {
    size_t next = 0;
    do {
      if (room() < kDescriptorHeaderBytes + kTableHeaderBytes + kEntryBytes) add_page();
      const size_t fit = (room() - kDescriptorHeaderBytes - kTableHeaderBytes) / kEntryBytes;
      std::vector<ClusterRun> entries;
      while (next < blob.extent_pages.size() && entries.size() < fit) {
        ClusterRun entry{blob.extent_pages[next++], 1};
        while (entry.cluster == 0 && next < blob.extent_pages.size() && blob.extent_pages[next] == 0) {
          ++entry.length;
          ++next;
        }
        entries.push_back(entry);
      }
      uint8_t* at = begin(DescriptorType::extent_table, kTableHeaderBytes + entries.size() * kEntryBytes);
      store_le(at, blob.num_clusters);
      at += kTableHeaderBytes;
      for (const ClusterRun& entry : entries) {
        store_le(at, entry.cluster);
        store_le(at + 4, entry.length);
        at += kEntryBytes;
      }
    } while (next < blob.extent_pages.size());
  }

  std::vector<Page> take() { return std::move(pages_); }

 private:
  uint64_t id_;
  std::vector<Page> pages_;
  size_t used_ = 0;
};

}  // namespace

const Xattr* find_xattr(const std::vector<Xattr>& list, std::string_view name) noexcept {
  const auto at = std::find_if(list.begin(), list.end(), [&](const Xattr& xattr) { return xattr.name == name; });
  return at == list.end() ? nullptr : &*at;
}

PageHeader header_of(PageBytes page) noexcept { return load_le<PageHeader>(page.data()); }
uint32_t next_of(PageBytes page) noexcept { return load_le<uint32_t>(page.data() + kNextAt); }
bool is_sealed(PageBytes page) noexcept {
  return crc32c(page.data(), kCrcAt) == load_le<uint32_t>(page.data() + kCrcAt);
}
void seal(Page& page) noexcept { store_le(page.data() + kCrcAt, crc32c(page.data(), kCrcAt)); }
bool is_root(PageBytes page, uint32_t index) noexcept {
  const PageHeader header = header_of(page);
  return header.sequence_num == 0 && header.id == blob_id_of_page(index) && is_sealed(page);
}

Result<void> decode_blob(std::span<const Page> chain, BlobRecord& blob) {
  DE_ASSERT(!chain.empty());
  blob = BlobRecord{};
  blob.id = header_of(chain.front()).id;
  if (chain.size() > kChainPagesMax) return corrupt("its chain of pages is too long");
  Decoder decoder(blob);
  for (size_t i = 0; i < chain.size(); ++i) {
    const PageHeader header = header_of(chain[i]);
    if (header.id != blob.id || header.sequence_num != i)
      return corrupt(fmt::format("page {} of its chain is page {} of blob {:#x}", i, header.sequence_num, header.id));
    TRY(decoder.page(chain[i]));
  }
  return decoder.end();
}

Result<std::vector<Page>> encode_blob(const BlobRecord& blob) {
  DE_ASSERT(blob.extent_table && blob.extent_pages.size() == extent_pages_of(blob.num_clusters));
  Encoder encoder(blob.id);
  encoder.flags(blob.flags);
  for (const Xattr& xattr : blob.xattrs) TRY(encoder.xattr(xattr, DescriptorType::xattr));
  for (const Xattr& xattr : blob.internal_xattrs) TRY(encoder.xattr(xattr, DescriptorType::xattr_internal));
  encoder.extent_table(blob);
  std::vector<Page> pages = encoder.take();
  if (pages.size() > kChainPagesMax) return Error(Errc::no_space, "a blob's metadata takes too many pages");
  return pages;
}

void link_chain(std::span<Page> chain, std::span<const uint32_t> pages) {
  DE_ASSERT(chain.size() == pages.size());
  for (size_t i = 0; i < chain.size(); ++i) {
    store_le(chain[i].data() + kNextAt, i + 1 < pages.size() ? pages[i + 1] : kNoPage);
    seal(chain[i]);
  }
}

Result<ExtentPage> decode_extent_page(PageBytes page) {
  if (!is_sealed(page)) return corrupt("the checksum of an extent page is wrong");
  const PageHeader header = header_of(page);
  const uint8_t* at = page.data() + kDescriptorsAt;
  const auto length = load_le<uint32_t>(at + 1);
  if (header.sequence_num != 0 || at[0] != static_cast<uint8_t>(DescriptorType::extent_page))
    return corrupt("a page that is no extent page");
  if (next_of(page) != kNoPage) return corrupt("an extent page with another one after it");
  if (length <= 4 || (length - 4) % 4 != 0 || length > 4 + kClustersPerExtentPage * 4)
    return corrupt(fmt::format("an extent page of {} bytes", length));
  const uint8_t* after = at + kDescriptorHeaderBytes + length;
  if (load_le<uint32_t>(after + 1) != 0) return corrupt("an extent page with something else on it");
  ExtentPage extents;
  extents.id = header.id;
  extents.first_cluster = load_le<uint32_t>(at + kDescriptorHeaderBytes);
  if (extents.first_cluster % kClustersPerExtentPage != 0)
    return corrupt(fmt::format("an extent page that begins with cluster {}", extents.first_cluster));
  extents.clusters.resize((length - 4) / 4);
  std::memcpy(extents.clusters.data(), at + kDescriptorHeaderBytes + 4, length - 4);
  return extents;
}

void encode_extent_page(uint64_t blob_id, uint32_t first_cluster, std::span<const uint32_t> clusters, Page& page) {
  DE_ASSERT(!clusters.empty() && clusters.size() <= kClustersPerExtentPage);
  page.fill(0);
  store_le(page.data(), PageHeader{blob_id, 0, 0});
  uint8_t* at = page.data() + kDescriptorsAt;
  at[0] = static_cast<uint8_t>(DescriptorType::extent_page);
  store_le(at + 1, static_cast<uint32_t>(4 + clusters.size_bytes()));
  store_le(at + kDescriptorHeaderBytes, first_cluster);
  std::memcpy(at + kDescriptorHeaderBytes + 4, clusters.data(), clusters.size_bytes());
  store_le(page.data() + kNextAt, kNoPage);
  seal(page);
}

}  // namespace diskengine::spec::blobstore
