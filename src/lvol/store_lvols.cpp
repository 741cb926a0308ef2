// Making, deleting, renaming and resizing lvols.
#include <fmt/format.h>

#include <algorithm>

#include "base/endian.h"
#include "lvol/edit.h"
#include "lvol/lvol_device.h"
#include "lvol/names.h"
#include "lvol/operation.h"
#include "lvol/store.h"

namespace diskengine::lvol {
namespace bs = spec::blobstore;
namespace {

std::vector<uint8_t> id_value(uint64_t id) {
  std::vector<uint8_t> value(sizeof id);
  store_le(value.data(), id);
  return value;
}

// Clusters that are reserved for an operation and given back unless it keeps them.
class Reservation {
 public:
  explicit Reservation(Space& space) : space_(space) {}
  ~Reservation() {
    for (const uint32_t cluster : clusters_) space_.release_cluster(cluster);
  }
  Result<void> take(uint64_t count) {
    if (count > space_.free_clusters())
      return Error(Errc::no_space, fmt::format("{} clusters are wanted, {} are free", count, space_.free_clusters()));
    for (uint64_t i = 0; i < count; ++i) clusters_.push_back(space_.claim_cluster());
    return {};
  }
  const std::vector<uint32_t>& clusters() const noexcept { return clusters_; }
  void keep() noexcept { clusters_.clear(); }

 private:
  Space& space_;
  std::vector<uint32_t> clusters_;
};

}  // namespace

// --- Records

// With the mutex held: writes what `record` says; the caller takes it over in memory by what it has added with `after`.
Task<Result<void>> Store::give_extent_table(Blob& blob) {
  Edit edit(*this);
  bs::BlobRecord record = Edit::record_of(blob);
  for (uint32_t i = 0; i < blob.map.chunks(); ++i) {
    const ClusterMap::Chunk* chunk = blob.map.chunk(i);
    if (chunk == nullptr) continue;
    std::vector<uint32_t> clusters(blob.map.clusters_in(i));
    for (size_t at = 0; at < clusters.size(); ++at)
      clusters[at] = blob.map.lookup(uint64_t{i} * ClusterMap::kPerChunk + at);
    uint32_t state = 0;
    Result<uint32_t> page = edit.put_new_extent(blob.id, i, clusters, &state);
    CO_TRY(page);
    record.extent_pages[i] = *page;
    edit.after([&blob, i, page = *page, state] {
      blob.map.chunk(i)->page = page;
      blob.map.chunk(i)->page_seal = state;
    });
  }
  CO_TRY(edit.put_blob(blob, record));
  edit.after([&blob] { blob.flags.invalid |= bs::Flags::kExtentTable; });
  Result<void> committed = co_await edit.commit();
  co_return committed;
}

Task<Result<void>> Store::put_locked(Blob& blob, bs::BlobRecord record) {
  if (!blob.has_extent_table) {
    const Result<void> converted = co_await give_extent_table(blob);
    CO_TRY(converted);
    record.extent_pages = Edit::record_of(blob).extent_pages;
  }
  Edit edit(*this);
  CO_TRY(edit.put_blob(blob, record));
  edit.after([&blob, &record] {
    blob.flags = record.flags;
    blob.xattrs = record.xattrs;
    blob.internal_xattrs = record.internal_xattrs;
  });
  Result<void> committed = co_await edit.commit();
  co_return committed;
}

// Flags and xattrs of `record` become the blob's, on disk and in memory.
Task<Result<void>> Store::put_record(Blob& blob, bs::BlobRecord record) {
  co_await metadata_mutex_.lock();
  // Extent pages may have come meanwhile.
  record.extent_pages = Edit::record_of(blob).extent_pages;
  Result<void> put = co_await put_locked(blob, std::move(record));
  metadata_mutex_.unlock();
  co_return put;
}

Task<Result<void>> Store::rename(std::string name) {
  if (super_blob_ == nullptr)
    co_return Error(Errc::not_supported, fmt::format("store '{}' has no super blob to keep a name in", name_));
  bs::BlobRecord record = Edit::record_of(*super_blob_);
  if (super_blob_->damaged()) {
    record = {};
    record.id = super_blob_->id;
    record.flags.invalid = bs::Flags::kExtentTable;
    super_blob_->pages.clear();  // others may have a right to them
  }
  set_xattr(record.xattrs, "uuid", xattr_text(uuid_.to_string()));
  set_xattr(record.xattrs, "name", xattr_text(name));
  const Result<void> put = co_await put_record(*super_blob_, std::move(record));
  CO_TRY(put);
  super_blob_->damage.clear();
  name_ = std::move(name);
  co_return Result<void>{};
}

Task<Result<void>> Store::rename_blob(BlobPtr blob, std::string name) {
  Result<Operation> operation = Operation::begin(blob, "another operation");
  CO_TRY(operation);
  bs::BlobRecord record = Edit::record_of(*blob);
  set_xattr(record.xattrs, "name", xattr_text(name));
  const Result<void> put = co_await put_record(*blob, std::move(record));
  CO_TRY(put);
  blob->name = std::move(name);
  co_return Result<void>{};
}

Task<Result<void>> Store::set_pause_when_full(BlobPtr blob, bool pause) {
  Result<Operation> operation = Operation::begin(blob, "another operation", Operation::Paused::allowed);
  CO_TRY(operation);
  bs::BlobRecord record = Edit::record_of(*blob);
  if (pause)
    set_xattr(record.xattrs, kXattrPauseWhenFull, xattr_text("1"));
  else
    remove_xattr(record.xattrs, kXattrPauseWhenFull);
  const Result<void> put = co_await put_record(*blob, std::move(record));
  CO_TRY(put);
  blob->pause_when_full = pause;
  provisioner_.space_changed();
  co_return Result<void>{};
}

Task<Result<void>> Store::set_writer_epoch(BlobPtr blob, uint64_t epoch) {
  if (epoch == blob->writer_epoch) co_return Result<void>{};
  if (epoch < blob->writer_epoch)
    co_return Error(Errc::conflict,
                    fmt::format("lvol '{}': epoch {} is over, {} began", blob->name, epoch, blob->writer_epoch));
  Result<Operation> operation = Operation::begin(blob, "another operation", Operation::Paused::allowed);
  CO_TRY(operation);
  bs::BlobRecord record = Edit::record_of(*blob);
  set_xattr(record.xattrs, kXattrWriterEpoch, xattr_text(std::to_string(epoch)));
  const Result<void> put = co_await put_record(*blob, std::move(record));
  CO_TRY(put);
  blob->writer_epoch = epoch;
  co_return Result<void>{};
}

// --- Create

Task<Result<void>> Store::zero_clusters(std::vector<uint32_t> clusters) {
  for (size_t at = 0; at < clusters.size();) {
    size_t count = 1;
    while (at + count < clusters.size() && clusters[at + count] == clusters[at] + count && count < 256) ++count;
    const IoStatus status = co_await zero_blocks(
        *channel_, {.lba = geometry_.lba_of_cluster(clusters[at]), .blocks = count * geometry_.blocks_per_cluster()},
        zeroes());
    if (!status.ok()) co_return io_failed(*disk_, "clear the clusters of a lvol", status);
    at += count;
  }
  co_return Result<void>{};
}

void Store::adopt(BlobPtr blob) { blobs_.emplace(blob->id, std::move(blob)); }

Task<Result<Store::BlobPtr>> Store::create_blob(NewBlob options) {
  if (options.clusters > bs::kBlobClustersMax)
    co_return Error(Errc::invalid_argument,
                    fmt::format("lvol '{}': {} clusters are more than the {} that a lvol can have", options.name,
                                options.clusters, bs::kBlobClustersMax));
  if (blobs_.size() >= kLvolsMax)
    co_return Error(Errc::no_space, fmt::format("store '{}' has {} lvols, the most it can", name_, kLvolsMax));
  Reservation reserved(space_);
  if (!options.thin) CO_TRY(reserved.take(options.clusters));
  // Nobody may find in a new lvol what another one has left on the disk.
  const Result<void> zeroed = co_await zero_clusters(reserved.clusters());
  CO_TRY(zeroed);

  co_await metadata_mutex_.lock();
  auto blob = std::make_shared<Blob>();
  Result<void> committed = co_await create_locked(*blob, options, reserved.clusters());
  metadata_mutex_.unlock();
  if (!committed) {
    if (!journal_.frozen().empty()) reserved.keep();
    co_return committed.error().with_context(fmt::format("lvol '{}'", options.name));
  }
  reserved.keep();
  adopt(blob);
  co_return blob;
}

Task<Result<void>> Store::create_locked(Blob& blob, const NewBlob& options, const std::vector<uint32_t>& clusters) {
  Edit edit(*this);
  Result<uint32_t> page = edit.new_page();
  CO_TRY(page);
  blob.id = bs::blob_id_of_page(*page);
  blob.name = options.name;
  blob.uuid = options.uuid;
  blob.flags.invalid = bs::Flags::kExtentTable | (options.thin ? bs::Flags::kThin : 0);
  blob.flags.md_ro = static_cast<uint64_t>(options.clear_method);
  blob.xattrs = {{"name", xattr_text(options.name)}, {"uuid", xattr_text(options.uuid.to_string())}};
  if (options.parent != nullptr) blob.internal_xattrs = {{std::string(bs::kXattrParent), id_value(options.parent->id)}};
  if (!options.esnap_id.empty()) {
    blob.flags.invalid |= bs::Flags::kExternalSnapshot;
    blob.internal_xattrs = {{std::string(bs::kXattrExternalId), xattr_text(options.esnap_id)}};
    blob.set_esnap_id(options.esnap_id);
    blob.esnap.set(options.esnap);
  }
  blob.thin = options.thin;
  blob.map.resize(options.clusters);
  bs::BlobRecord record = Edit::record_of(blob);
  CO_TRY(put_new_extents(edit, blob, record, 0, clusters));
  CO_TRY(edit.put_blob(blob, record));
  const Result<void> committed = co_await edit.commit();
  CO_TRY(committed);
  if (options.parent != nullptr) set_parent_of(blob, options.parent);
  co_return Result<void>{};
}

// New extent pages for `clusters`, which are the blob's from cluster `first` on, a multiple of 512; the map has room.
Result<void> Store::put_new_extents(Edit& edit, Blob& blob, bs::BlobRecord& record, uint64_t first,
                                    std::span<const uint32_t> clusters) {
  DE_ASSERT(first % ClusterMap::kPerChunk == 0);
  for (size_t at = 0; at < clusters.size(); at += ClusterMap::kPerChunk) {
    const auto part = clusters.subspan(at, std::min<size_t>(ClusterMap::kPerChunk, clusters.size() - at));
    const auto index = static_cast<uint32_t>((first + at) / ClusterMap::kPerChunk);
    uint32_t state = 0;
    TRY_ASSIGN(const uint32_t page, edit.put_new_extent(blob.id, index, part, &state));
    record.extent_pages[index] = page;
    edit.after([&blob, index, page, state, own = std::vector<uint32_t>(part.begin(), part.end())] {
      ClusterMap::Chunk& chunk = blob.map.make_chunk(index);
      chunk.page = page;
      chunk.page_seal = state;
      for (size_t i = 0; i < own.size(); ++i)
        if (own[i] != ClusterMap::kUnallocated) blob.map.publish(uint64_t{index} * ClusterMap::kPerChunk + i, own[i]);
    });
  }
  return {};
}

// --- Resize

Task<Result<void>> Store::resize_blob(BlobPtr blob, uint64_t clusters) {
  if (clusters > bs::kBlobClustersMax)
    co_return Error(Errc::invalid_argument, fmt::format("{} clusters are more than the {} that a lvol can have",
                                                        clusters, bs::kBlobClustersMax));
  if (blob->read_only) co_return Error(Errc::permission_denied, fmt::format("lvol '{}' is read-only", blob->name));
  Result<Operation> operation = Operation::begin(blob, "another operation");
  CO_TRY(operation);
  const uint64_t before = blob->map.size();
  if (clusters == before) co_return Result<void>{};
  Reservation reserved(space_);
  if (!blob->thin && clusters > before) CO_TRY(reserved.take(clusters - before));
  const Result<void> zeroed = co_await zero_clusters(reserved.clusters());
  CO_TRY(zeroed);
  co_await blob->board.freeze(blob, main_);
  co_await metadata_mutex_.lock();
  std::vector<uint32_t> freed;
  Result<void> outcome = co_await resize_locked(*blob, clusters, reserved.clusters(), freed);
  metadata_mutex_.unlock();
  if (outcome || !journal_.frozen().empty()) reserved.keep();
  const std::shared_ptr<LvolDevice> device = blob->device.lock();
  if (outcome && device != nullptr) device->set_size_blocks(clusters * geometry_.units_per_cluster);
  blob->board.thaw(blob);
  const auto method = static_cast<ClearMethod>(blob->flags.md_ro & bs::Flags::kClearMethodMask);
  co_await discard_and_release(std::move(freed), method);
  co_return outcome;
}

// The extent page at the end is written anew with as many entries as it then has; those beyond are given up, or new.
Task<Result<void>> Store::resize_locked(Blob& blob, uint64_t clusters, const std::vector<uint32_t>& added,
                                        std::vector<uint32_t>& freed) {
  if (!blob.has_extent_table) {
    const Result<void> converted = co_await give_extent_table(blob);
    CO_TRY(converted);
  }
  Edit edit(*this);
  bs::BlobRecord record = Edit::record_of(blob);
  const uint64_t before = blob.map.size();
  const uint64_t kept = std::min(before, clusters);
  const auto edge = static_cast<uint32_t>(kept / ClusterMap::kPerChunk);  // the chunk that both ends share
  for (uint64_t cluster = kept; cluster < before; ++cluster)
    if (const uint32_t where = blob.map.lookup(cluster); where != ClusterMap::kUnallocated) freed.push_back(where);
  record.num_clusters = clusters;
  record.extent_pages.resize(bs::extent_pages_of(clusters));
  std::vector<uint32_t> entries;  // of the chunk at the edge, then of those after it
  const uint64_t edge_first = uint64_t{edge} * ClusterMap::kPerChunk;
  const bool partial = kept % ClusterMap::kPerChunk != 0;
  if (partial)
    for (uint64_t cluster = edge_first; cluster < kept; ++cluster) entries.push_back(blob.map.lookup(cluster));
  entries.insert(entries.end(), added.begin(), added.end());
  // The edge's old page is replaced, so that the transaction overwrites the first page of the blob only.
  for (uint32_t i = edge; i < blob.map.chunks(); ++i)
    if (const ClusterMap::Chunk* chunk = blob.map.chunk(i); chunk != nullptr && chunk->page != 0) {
      edit.give_up_page(chunk->page);
      if (i < record.extent_pages.size()) record.extent_pages[i] = 0;
    }
  const bool empty = std::all_of(entries.begin(), entries.end(), [](uint32_t where) { return where == 0; });
  if (empty) {
    entries.clear();
  } else if (blob.thin) {
    entries.resize(std::min<uint64_t>(ClusterMap::kPerChunk, clusters - edge_first));
  }
  edit.after([&blob, clusters, edge, kept] {
    // Only now may the map change: nobody looks at it.
    for (uint64_t cluster = kept; cluster < blob.map.size(); ++cluster)
      if (blob.map.lookup(cluster) != ClusterMap::kUnallocated) blob.map.publish(cluster, ClusterMap::kUnallocated);
    if (edge < blob.map.chunks() && blob.map.chunk(edge) != nullptr) blob.map.chunk(edge)->page = 0;
    blob.map.resize(clusters);
  });
  Result<void> put = put_new_extents(edit, blob, record, edge_first, entries);
  if (put) put = edit.put_blob(blob, record);
  if (put) put = co_await edit.commit();
  if (!put) freed.clear();
  co_return put;
}

// --- Delete

Task<Result<void>> Store::delete_blob(BlobPtr blob) {
  if (blob->clones.size() > 1)
    co_return Error(Errc::busy, fmt::format("lvol '{}' has {} clones", blob->name, blob->clones.size()));
  if (blob->damaged()) {
    if (!blob->clones.empty())
      co_return Error(Errc::busy, fmt::format("lvol '{}' is damaged and has a clone", blob->name));
    Result<void> deleted = co_await delete_damaged(blob);
    co_return deleted;
  }
  Result<Operation> operation = Operation::begin(blob, "another operation");
  CO_TRY(operation);
  if (blob->clones.empty()) {
    Result<void> deleted = co_await delete_alone(blob);
    co_return deleted;
  }
  const BlobPtr clone = blobs_.at(blob->clones.front()->id);
  Result<Operation> on_clone = Operation::begin(clone, "the deletion of its snapshot");
  CO_TRY(on_clone);
  const std::function<bool(uint64_t)> must = [&blob, &clone](uint64_t cluster) {
    return clone->map.lookup(cluster) == ClusterMap::kUnallocated && hides_below(*blob, cluster);
  };
  const Result<void> owned = co_await own_and_freeze(clone, must);
  CO_TRY(owned);
  std::vector<uint32_t> freed;
  co_await metadata_mutex_.lock();
  const Result<void> merged = co_await merge_into_clone(*blob, *clone, freed);
  metadata_mutex_.unlock();
  clone->board.thaw(clone);
  CO_TRY(merged);
  blobs_.erase(blob->id);
  // Reads that went through the snapshot may be on their way still.
  co_await grace();
  const auto method = static_cast<ClearMethod>(blob->flags.md_ro & bs::Flags::kClearMethodMask);
  co_await discard_and_release(std::move(freed), method);
  co_return Result<void>{};
}

Task<Result<void>> Store::delete_alone(BlobPtr blob) {
  std::vector<uint32_t> freed;
  co_await metadata_mutex_.lock();
  Edit edit(*this);
  edit.erase_blob(*blob);
  for (uint32_t i = 0; i < blob->map.chunks(); ++i)
    if (const ClusterMap::Chunk* chunk = blob->map.chunk(i); chunk != nullptr && chunk->page != 0)
      edit.give_up_page(chunk->page);
  for (uint64_t cluster = 0; cluster < blob->map.size(); ++cluster)
    if (const uint32_t where = blob->map.lookup(cluster); where != ClusterMap::kUnallocated) freed.push_back(where);
  const Result<void> erased = co_await edit.commit();
  metadata_mutex_.unlock();
  CO_TRY(erased);
  set_parent_of(*blob, nullptr);
  blobs_.erase(blob->id);
  const auto method = static_cast<ClearMethod>(blob->flags.md_ro & bs::Flags::kClearMethodMask);
  co_await discard_and_release(std::move(freed), method);
  co_return Result<void>{};
}

// What others might have a right to stays reserved until a check says that they have not.
Task<Result<void>> Store::delete_damaged(BlobPtr blob) {
  co_await metadata_mutex_.lock();
  Edit edit(*this);
  const uint32_t root = bs::page_of_blob_id(blob->id);
  edit.put_in_place(root, std::nullopt, bs::Page{});
  for (const uint32_t page : blob->damaged_pages)
    if (page != root) edit.give_up_page(page);
  const Result<void> erased = co_await edit.commit();
  const bool own_root =
      std::find(blob->damaged_pages.begin(), blob->damaged_pages.end(), root) != blob->damaged_pages.end();
  if (erased && own_root) release_pages_later({root});
  metadata_mutex_.unlock();
  CO_TRY(erased);
  blobs_.erase(blob->id);
  co_await discard_and_release(std::move(blob->damaged_clusters), ClearMethod::none);
  co_return Result<void>{};
}

}  // namespace diskengine::lvol
