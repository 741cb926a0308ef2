// From what was loaded to lvols in memory, and what they say of themselves.
#include <fmt/format.h>

#include <algorithm>

#include "base/endian.h"
#include "base/log.h"
#include "lvol/names.h"
#include "lvol/store.h"

namespace diskengine::lvol {
namespace bs = spec::blobstore;

Store::BlobPtr Store::build_blob(LoadedBlob& loaded) {
  auto blob = std::make_shared<Blob>();
  blob->id = loaded.record.id;
  blob->flags = loaded.record.flags;
  blob->xattrs = std::move(loaded.record.xattrs);
  blob->internal_xattrs = std::move(loaded.record.internal_xattrs);
  blob->pages = std::move(loaded.chain);
  blob->root_state = loaded.root_state;
  blob->damage = std::move(loaded.damage);
  blob->damaged_pages = std::move(loaded.own_pages);
  blob->damaged_clusters = std::move(loaded.own_clusters);
  blob->name = text_of(bs::find_xattr(blob->xattrs, "name"));
  blob->uuid = uuid_in(bs::find_xattr(blob->xattrs, "uuid"));
  if (blob->damaged()) return blob;
  if (!check_name(blob->name, "lvol")) blob->name = fmt::format("unnamed_{:x}", blob->id);
  blob->thin = loaded.record.thin();
  blob->pause_when_full = bs::find_xattr(blob->xattrs, kXattrPauseWhenFull) != nullptr;
  blob->writer_epoch = writer_epoch_in(bs::find_xattr(blob->xattrs, kXattrWriterEpoch));
  constexpr uint64_t kDataRoKnown = bs::Flags::kReadOnly;
  blob->read_only = blob->flags.data_ro != 0 || (blob->flags.md_ro & ~bs::Flags::kClearMethodMask) != 0;
  if ((blob->flags.data_ro & ~kDataRoKnown) != 0)
    LOG_WARN("lvol", "store '{}': lvol '{}' is read-only: it has flags of a later version", name_, blob->name);
  if ((blob->flags.invalid & bs::Flags::kExternalSnapshot) != 0)
    blob->set_esnap_id(text_of(bs::find_xattr(blob->internal_xattrs, bs::kXattrExternalId)));
  // A blob that has neither extents nor a table is as good as one with a table.
  blob->has_extent_table = loaded.record.extent_table;
  blob->map.resize(loaded.record.num_clusters);
  for (const LoadedExtent& extent : loaded.extents) {
    ClusterMap::Chunk& chunk = blob->map.make_chunk(extent.index);
    chunk.page = extent.page;
    chunk.page_seal = extent.state;
    const uint64_t first = uint64_t{extent.index} * ClusterMap::kPerChunk;
    for (size_t i = 0; i < extent.clusters.size(); ++i)
      if (extent.clusters[i] != 0) blob->map.publish(first + i, extent.clusters[i]);
  }
  return blob;
}

// SPDK has been seen to write another page over that of the super blob. Nobody else gets the page, so that a rename can
// make it anew.
void Store::keep_place_of_super_blob(const std::vector<LoadedBlob>& loaded) {
  const uint64_t id = journal_.super().super_blob;
  if (!bs::is_blob_id(id, journal_.super().md_len)) return;
  const uint32_t page = bs::page_of_blob_id(id);
  const auto is_it = [&](const LoadedBlob& blob) { return blob.record.id == id; };
  if (std::any_of(loaded.begin(), loaded.end(), is_it) || space_.pages.test(page)) return;
  space_.pages.set(page);
  super_blob_ = std::make_shared<Blob>();
  super_blob_->id = id;
  super_blob_->damage = "its first page is the start of no blob";
  super_blob_->damaged_pages = {page};
}

void Store::build_super_blob(Blob& blob) {
  name_ = blob.damaged() ? std::string() : blob.name;
  uuid_ = blob.uuid;
}

void Store::build_blobs(std::vector<LoadedBlob>& loaded) {
  for (LoadedBlob& one : loaded) {
    BlobPtr blob = build_blob(one);
    if (blob->id == journal_.super().super_blob && super_blob_ == nullptr) {
      build_super_blob(*blob);
      super_blob_ = std::move(blob);
    } else {
      blobs_.emplace(blob->id, std::move(blob));
    }
  }
  // The store can do without: it is found by its disk, and gets a name again by a rename.
  if (name_.empty()) name_ = "unnamed_" + disk_->name();
  if (uuid_.is_nil()) uuid_ = disk_->info().uuid;
  build_parents();
}

void Store::build_parents() {
  for (const auto& [id, blob] : blobs_) {
    if (blob->damaged() || !blob->thin) continue;
    const bs::Xattr* parent = bs::find_xattr(blob->internal_xattrs, bs::kXattrParent);
    if (parent == nullptr || parent->value.size() != sizeof(uint64_t)) continue;
    const auto at = blobs_.find(load_le<uint64_t>(parent->value.data()));
    if (at != blobs_.end()) set_parent_of(*blob, at->second.get());
  }
}

void Store::set_parent_of(Blob& blob, Blob* parent) {
  if (Blob* before = blob.parent.load(std::memory_order_relaxed); before != nullptr) std::erase(before->clones, &blob);
  blob.parent.store(parent, std::memory_order_release);
  if (parent != nullptr) parent->clones.push_back(&blob);
}

namespace {

// Whether some clone of `blob` shows the cluster.
bool is_shown(const Blob& blob, uint64_t cluster) {
  for (const Blob* clone : blob.clones)
    if (cluster < clone->map.size() && clone->map.lookup(cluster) == ClusterMap::kUnallocated) return true;
  return false;
}

void count_clusters(const Blob& blob, LvolInfo& info) {
  const Blob* parent = blob.parent.load(std::memory_order_relaxed);
  info.allocated_clusters = blob.map.allocated();
  info.unique_clusters = info.allocated_clusters;
  if (parent == nullptr && blob.clones.empty()) return;
  for (uint64_t cluster = 0; cluster < blob.map.size(); ++cluster) {
    if (blob.map.lookup(cluster) != ClusterMap::kUnallocated) {
      if (is_shown(blob, cluster)) --info.unique_clusters;
    } else if (parent != nullptr && source_of(blob, cluster).kind == Source::Kind::cluster) {
      ++info.shared_clusters;
    }
  }
}

}  // namespace

LvolInfo Store::info_of(const Blob& blob) const {
  LvolInfo info;
  info.uuid = blob.uuid;
  info.name = blob.name;
  info.alias = name_ + "/" + blob.name;
  info.device_name = blob.uuid.is_nil() ? fmt::format("{}_{}", uuid_.to_string(), blob.id) : blob.uuid.to_string();
  info.store_uuid = uuid_;
  info.store_name = name_;
  info.base_bdev = disk_->name();
  info.blob_id = blob.id;
  info.clusters = blob.map.size();
  info.cluster_bytes = static_cast<uint32_t>(geometry_.cluster_bytes());
  info.size_bytes = info.clusters * info.cluster_bytes;
  info.thin = blob.thin;
  info.read_only = blob.read_only;
  info.snapshot = !blob.clones.empty();
  const Blob* parent = blob.parent.load(std::memory_order_relaxed);
  info.clone = parent != nullptr;
  if (parent != nullptr) info.parent_name = parent->name;
  info.esnap_clone = !blob.esnap_id.empty();
  info.esnap_id = blob.esnap_id;
  info.degraded = !blob.bottom().esnap_id.empty() && blob.bottom().esnap.get() == nullptr;
  for (const Blob* clone : blob.clones) info.clone_names.push_back(clone->name);
  info.clear_method = static_cast<ClearMethod>(blob.flags.md_ro & bs::Flags::kClearMethodMask);
  info.pause_when_full = blob.pause_when_full;
  count_clusters(blob, info);
  return info;
}

}  // namespace diskengine::lvol
