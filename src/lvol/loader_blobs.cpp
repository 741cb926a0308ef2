// Understanding: which blobs the pages make up, and what each of them uses.
#include <fmt/format.h>

#include <algorithm>
#include <unordered_set>

#include "base/endian.h"
#include "lvol/loader.h"

namespace diskengine::lvol {
namespace bs = spec::blobstore;
namespace {

constexpr unsigned kGenerationsMax = 65536;

uint64_t id_in(const bs::Xattr* xattr) noexcept {
  return xattr != nullptr && xattr->value.size() == sizeof(uint64_t) ? load_le<uint64_t>(xattr->value.data())
                                                                     : bs::kNoBlob;
}

LoadedBlob* find_blob(std::vector<LoadedBlob>& blobs, uint64_t id) {
  const auto at = std::lower_bound(blobs.begin(), blobs.end(), id,
                                   [](const LoadedBlob& blob, uint64_t wanted) { return blob.record.id < wanted; });
  return at != blobs.end() && at->record.id == id ? &*at : nullptr;
}

}  // namespace

// Reads the chain of the blob that begins at `root`, as far as it goes.
void Loader::follow(LoadedBlob& blob, uint32_t root) {
  std::vector<bs::Page> pages;
  std::unordered_set<uint32_t> seen;
  uint32_t page = root;
  while (true) {
    const auto at = images_.find(page);
    if (at == images_.end() || !bs::is_sealed(at->second)) {
      blob.damage = fmt::format("metadata page {} ({}. of its chain) {}", page, pages.size() + 1,
                                at == images_.end() ? "is missing or cannot be read" : "has a wrong checksum");
      break;
    }
    if (pages.empty()) blob.root_state = bs::state_of(at->second);
    pages.push_back(at->second);
    blob.chain.push_back(page);
    seen.insert(page);
    page = bs::next_of(pages.back());
    if (page == bs::kNoPage) break;
    if (page >= found_.super.md_len || seen.contains(page) || pages.size() >= bs::kChainPagesMax) {
      blob.damage = fmt::format("its chain of metadata pages leads to page {}", page);
      break;
    }
  }
  if (!pages.empty()) {
    const Result<void> decoded = bs::decode_blob(pages, blob.record);
    if (!decoded && blob.damage.empty()) blob.damage = decoded.error().message();
  }
  blob.record.id = bs::blob_id_of_page(root);
}

void Loader::read_extents(LoadedBlob& blob) {
  if (!blob.record.extent_table) {
    // As if there were extent pages, one for each 512 clusters that have something.
    uint64_t at = 0;
    for (const bs::ClusterRun& run : blob.record.runs) {
      for (uint32_t i = 0; i < run.length && run.cluster != 0; ++i) {
        const auto index = static_cast<uint32_t>((at + i) / bs::kClustersPerExtentPage);
        if (blob.extents.empty() || blob.extents.back().index != index)
          blob.extents.push_back({index, 0, 0, std::vector<uint32_t>(bs::kClustersPerExtentPage)});
        blob.extents.back().clusters[(at + i) % bs::kClustersPerExtentPage] = run.cluster + i;
      }
      at += run.length;
    }
    return;
  }
  for (uint32_t index = 0; index < blob.record.extent_pages.size(); ++index) {
    const uint32_t page = blob.record.extent_pages[index];
    if (page == 0) continue;
    const auto image = images_.find(page);
    if (page >= found_.super.md_len || image == images_.end()) {
      blob.damage = fmt::format("extent page {} is missing or cannot be read", page);
      continue;
    }
    Result<bs::ExtentPage> decoded = bs::decode_extent_page(image->second);
    if (decoded && decoded->first_cluster != index * bs::kClustersPerExtentPage)
      decoded = Error(Errc::corrupt, fmt::format("it begins with cluster {}, not {}", decoded->first_cluster,
                                                 index * bs::kClustersPerExtentPage));
    if (!decoded) {
      blob.damage = fmt::format("extent page {}: {}", page, decoded.error().message());
      continue;
    }
    blob.extents.push_back({index, page, bs::state_of(image->second), std::move(decoded->clusters)});
  }
}

void Loader::gather_blobs() {
  for (uint32_t page = 0; page < found_.super.md_len; ++page) {
    const auto image = images_.find(page);
    bool begins = !found_.scanned && roots_.test(page);
    if (image != images_.end() && found_.scanned) {
      const bs::PageHeader header = bs::header_of(image->second);
      begins = header.sequence_num == 0 && header.id == bs::blob_id_of_page(page);
    }
    if (!begins) continue;
    LoadedBlob& blob = found_.blobs.emplace_back();
    follow(blob, page);
    if (blob.chain.empty()) blob.chain.push_back(page);
    read_extents(blob);
  }
}

// SPDK marks a snapshot while it makes or removes it. Whether the other blob already refers to it says how far it came.
void Loader::resolve_marks() {
  std::vector<uint64_t> gone;
  for (LoadedBlob& blob : found_.blobs) {
    const bs::Xattr* mark = blob.record.find_internal(bs::kXattrPendingRemoval);
    if (mark == nullptr) mark = blob.record.find_internal(bs::kXattrSnapshotInProgress);
    if (mark == nullptr || !blob.damage.empty()) continue;
    const LoadedBlob* other = find_blob(found_.blobs, id_in(mark));
    if (other == nullptr || !other->damage.empty()) continue;
    if (id_in(other->record.find_internal(bs::kXattrParent)) == blob.record.id) {
      std::erase_if(blob.record.internal_xattrs, [](const bs::Xattr& xattr) {
        return xattr.name == bs::kXattrPendingRemoval || xattr.name == bs::kXattrSnapshotInProgress;
      });
      blob.record.flags.data_ro |= bs::Flags::kReadOnly;
      blob.rewrite = true;
    } else {
      gone.push_back(blob.record.id);
    }
  }
  for (const uint64_t id : gone) {
    found_.erase.push_back(bs::page_of_blob_id(id));
    std::erase_if(found_.blobs, [&](const LoadedBlob& blob) { return blob.record.id == id; });
  }
}

void Loader::claim(LoadedBlob& blob) {
  const uint32_t first = found_.super.metadata_clusters();
  const uint32_t end = found_.super.total_clusters();
  std::vector<uint32_t> pages = blob.chain;
  for (const LoadedExtent& extent : blob.extents)
    if (extent.page != 0) pages.push_back(extent.page);
  for (const uint32_t page : pages) {
    if (!found_.pages.test(page)) {
      found_.pages.set(page);
      blob.own_pages.push_back(page);
    } else {
      blob.damage = fmt::format("metadata page {} belongs to another lvol too", page);
      blob.damage_kind = Finding::Kind::double_page;
    }
  }
  for (const LoadedExtent& extent : blob.extents) {
    for (size_t i = 0; i < extent.clusters.size(); ++i) {
      const uint32_t cluster = extent.clusters[i];
      const uint64_t place = uint64_t{extent.index} * bs::kClustersPerExtentPage + i;
      if (cluster == 0) {
        if (!blob.record.thin() && place < blob.record.num_clusters)
          blob.damage = fmt::format("cluster {} is unallocated, but it is not thin", place);
        continue;
      }
      if (place >= blob.record.num_clusters || cluster < first || cluster >= end) {
        blob.damage = fmt::format("cluster {} lies at {}, which is not its own", place, cluster);
      } else if (!found_.clusters.test(cluster)) {
        found_.clusters.set(cluster);
        blob.own_clusters.push_back(cluster);
      } else {
        blob.damage = fmt::format("cluster {} lies at {}, which belongs to another lvol too", place, cluster);
        blob.damage_kind = Finding::Kind::double_cluster;
      }
    }
  }
  if (!blob.damage.empty()) return;
  blob.own_pages = {};
  blob.own_clusters = {};
}

void Loader::claim_all() {
  found_.pages.resize(found_.super.md_len);
  found_.clusters.resize(found_.super.total_clusters());
  for (uint32_t i = 0; i < found_.super.metadata_clusters(); ++i) found_.clusters.set(i);
  // Sound ones first: a damaged one gets no say over what is theirs.
  for (const bool damaged : {false, true})
    for (LoadedBlob& blob : found_.blobs)
      if (blob.damage.empty() != damaged) claim(blob);
}

void Loader::link_parents() {
  for (LoadedBlob& blob : found_.blobs) {
    if (!blob.damage.empty()) continue;
    const LoadedBlob* at = &blob;
    for (unsigned generation = 0;; ++generation) {
      const bs::Xattr* parent = at->record.find_internal(bs::kXattrParent);
      if (parent == nullptr || !at->record.thin()) break;
      at = find_blob(found_.blobs, id_in(parent));
      if (at == nullptr || !at->damage.empty() || generation > kGenerationsMax) {
        blob.damage = at == nullptr ? fmt::format("its snapshot {:#x} does not exist", id_in(parent))
                                    : fmt::format("its snapshot {:#x} is damaged", id_in(parent));
        blob.damage_kind = Finding::Kind::missing_parent;
        break;
      }
    }
  }
}

}  // namespace diskengine::lvol
