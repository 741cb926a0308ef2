// Snapshots and what hangs on them: taking one, merging a deleted one into its clone, standing alone, other parents.
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

// Whether reads of `blob` may end in `other`, through its parents and through lvols that are outside devices of theirs.
bool stands_on(const Blob& blob, const Blob& other) {
  const Blob* at = &blob;
  while (at != nullptr) {
    if (at == &other) return true;
    const Blob* below = at->parent.load(std::memory_order_relaxed);
    if (below == nullptr) {
      const std::shared_ptr<Device> outside = at->esnap.get();
      const auto* lvol = dynamic_cast<const LvolDevice*>(outside.get());
      if (lvol != nullptr) below = lvol->blob().get();
    }
    at = below;
  }
  return false;
}

// Flags and xattrs of a blob without a parent of any kind.
void drop_parent(bs::BlobRecord& record) {
  record.flags.invalid &= ~bs::Flags::kExternalSnapshot;
  remove_xattr(record.internal_xattrs, bs::kXattrParent);
  remove_xattr(record.internal_xattrs, bs::kXattrExternalId);
}

// `record` gets the parent that `other` has.
void take_parent(bs::BlobRecord& record, const Blob& other) {
  drop_parent(record);
  record.flags.invalid |= other.flags.invalid & bs::Flags::kExternalSnapshot;
  for (const bs::Xattr& xattr : other.internal_xattrs)
    if (xattr.name == bs::kXattrParent || xattr.name == bs::kXattrExternalId) record.internal_xattrs.push_back(xattr);
}

void adopt_record(Blob& blob, const bs::BlobRecord& record) {
  blob.flags = record.flags;
  blob.xattrs = record.xattrs;
  blob.internal_xattrs = record.internal_xattrs;
  blob.thin = record.thin();
  blob.read_only = (record.flags.data_ro & bs::Flags::kReadOnly) != 0;
  const bool outside = (record.flags.invalid & bs::Flags::kExternalSnapshot) != 0;
  blob.set_esnap_id(outside ? text_of(record.find_internal(bs::kXattrExternalId)) : std::string());
}

}  // namespace

// --- Snapshot

Task<Result<Store::BlobPtr>> Store::snapshot(BlobPtr blob, std::string name, Uuid uuid) {
  if (blob->read_only)
    co_return Error(Errc::invalid_argument,
                    fmt::format("lvol '{}' is read-only: a snapshot of it would be it itself", blob->name));
  if (blobs_.size() >= kLvolsMax)
    co_return Error(Errc::no_space, fmt::format("store '{}' has {} lvols, the most it can", name_, kLvolsMax));
  Result<Operation> operation = Operation::begin(blob, "another operation");
  CO_TRY(operation);
  auto made = std::make_shared<Blob>();
  made->name = std::move(name);
  made->uuid = uuid;
  co_await blob->board.freeze(blob, main_);
  co_await metadata_mutex_.lock();
  const Result<void> taken = co_await snapshot_locked(*blob, *made);
  metadata_mutex_.unlock();
  blob->board.thaw(blob);
  CO_TRY(taken);
  adopt(made);
  co_return made;
}

// The snapshot takes over the lvol's map with its extent pages; the lvol begins with an empty map on top of it.
Task<Result<void>> Store::snapshot_locked(Blob& blob, Blob& made) {
  if (!blob.has_extent_table) {
    const Result<void> converted = co_await give_extent_table(blob);
    CO_TRY(converted);
  }
  Edit edit(*this);
  Result<uint32_t> page = edit.new_page();
  CO_TRY(page);
  made.id = bs::blob_id_of_page(*page);
  bs::BlobRecord below = Edit::record_of(blob);
  below.id = made.id;
  below.flags.data_ro |= bs::Flags::kReadOnly;
  below.xattrs = {{"name", xattr_text(made.name)}, {"uuid", xattr_text(made.uuid.to_string())}};
  bs::BlobRecord above = Edit::record_of(blob);
  drop_parent(above);
  above.flags.invalid |= bs::Flags::kThin;
  above.internal_xattrs.push_back({std::string(bs::kXattrParent), id_value(made.id)});
  std::fill(above.extent_pages.begin(), above.extent_pages.end(), 0);
  CO_TRY(edit.put_blob(made, below));
  CO_TRY(edit.put_blob(blob, above));
  const Result<void> committed = co_await edit.commit();
  CO_TRY(committed);
  const uint64_t clusters = blob.map.size();
  made.map.swap(blob.map);
  blob.map.resize(clusters);
  made.esnap.set(blob.esnap.get());
  blob.esnap.set(nullptr);
  adopt_record(made, below);
  adopt_record(blob, above);
  set_parent_of(made, blob.parent.load(std::memory_order_relaxed));
  set_parent_of(blob, &made);
  co_return Result<void>{};
}

// --- Deleting a snapshot with one clone

// The clone takes over what it shows of the snapshot; `freed` is what nobody shows. The clone's channels are frozen.
Task<Result<void>> Store::merge_into_clone(Blob& blob, Blob& clone, std::vector<uint32_t>& freed) {
  if (!clone.has_extent_table) {
    const Result<void> converted = co_await give_extent_table(clone);
    CO_TRY(converted);
  }
  Edit edit(*this);
  bs::BlobRecord record = Edit::record_of(clone);
  take_parent(record, blob);
  for (uint32_t i = 0; i < blob.map.chunks(); ++i) {
    const ClusterMap::Chunk* from = blob.map.chunk(i);
    if (from == nullptr) continue;
    const ClusterMap::Chunk* to = i < clone.map.chunks() ? clone.map.chunk(i) : nullptr;
    const uint64_t first = uint64_t{i} * ClusterMap::kPerChunk;
    std::vector<uint32_t> merged(i < clone.map.chunks() ? clone.map.clusters_in(i) : 0);
    bool takes = false;
    for (uint32_t at = 0; at < blob.map.clusters_in(i); ++at) {
      const uint32_t theirs = blob.map.lookup(first + at);
      const uint32_t own = at < merged.size() ? clone.map.lookup(first + at) : ClusterMap::kUnallocated;
      if (at < merged.size()) merged[at] = own != ClusterMap::kUnallocated ? own : theirs;
      if (theirs == ClusterMap::kUnallocated) continue;
      if (at < merged.size() && own == ClusterMap::kUnallocated) {
        takes = true;
      } else {
        freed.push_back(theirs);
      }
    }
    for (uint32_t at = blob.map.clusters_in(i); at < merged.size(); ++at) merged[at] = clone.map.lookup(first + at);
    if (from->page != 0) edit.give_up_page(from->page);
    if (!takes) continue;
    if (to != nullptr && to->page != 0) edit.give_up_page(to->page);
    uint32_t state = 0;
    Result<uint32_t> page = edit.put_new_extent(clone.id, i, merged, &state);
    CO_TRY(page);
    record.extent_pages[i] = *page;
    edit.after([&clone, i, first, page = *page, state, merged = std::move(merged)] {
      ClusterMap::Chunk& chunk = clone.map.make_chunk(i);
      chunk.page = page;
      chunk.page_seal = state;
      for (size_t at = 0; at < merged.size(); ++at)
        if (merged[at] != ClusterMap::kUnallocated) clone.map.publish(first + at, merged[at]);
    });
  }
  edit.erase_blob(blob);
  CO_TRY(edit.put_blob(clone, record));
  const Result<void> committed = co_await edit.commit();
  if (!committed) {
    freed.clear();
    co_return committed;
  }
  clone.esnap.set(blob.esnap.get());
  adopt_record(clone, record);
  set_parent_of(clone, blob.parent.load(std::memory_order_relaxed));
  // Who still walks through the snapshot must find the way on: its own parent stays until grace() is over.
  Blob* below = blob.parent.load(std::memory_order_relaxed);
  if (below != nullptr) std::erase(below->clones, &blob);
  co_return Result<void>{};
}

// --- Inflate and decouple

// Beyond the end of `parent` its clones show zeroes, even where what is below `parent` has something that would come to
// light without it.
bool Store::hides_below(const Blob& parent, uint64_t cluster) {
  return cluster >= parent.map.size() && source_of(parent, cluster).kind != Source::Kind::zeroes;
}

// Whether `cluster` needs a place of its own before the parent can go.
bool Store::must_own(const Blob& blob, uint64_t cluster, bool only_what_parent_has) const {
  if (blob.map.lookup(cluster) != ClusterMap::kUnallocated) return false;
  if (!only_what_parent_has) return true;
  const Blob* parent = blob.parent.load(std::memory_order_relaxed);
  if (parent != nullptr)
    return parent->map.lookup(cluster) != ClusterMap::kUnallocated || hides_below(*parent, cluster);
  const std::shared_ptr<Device> outside = blob.esnap.get();
  return outside == nullptr || cluster * geometry_.cluster_bytes() < outside->info().size_bytes();
}

// Gives every cluster for which `must` holds a place of its own, and returns with the lvol's I/O stopped.
Task<Result<void>> Store::own_and_freeze(BlobPtr blob, std::function<bool(uint64_t)> must) {
  while (true) {
    for (uint64_t cluster = 0; cluster < blob->map.size(); ++cluster) {
      if (!must(cluster)) continue;
      if (stopping_) co_return Error(Errc::canceled, fmt::format("store '{}' is being unloaded", name_));
      const Result<void> owned = co_await provisioner_.own(blob, cluster);
      CO_TRY(owned);
    }
    co_await blob->board.freeze(blob, main_);
    // Unmaps that were under way may have made holes.
    bool all = true;
    for (uint64_t cluster = 0; cluster < blob->map.size() && all; ++cluster) all = !must(cluster);
    if (all) co_return Result<void>{};
    blob->board.thaw(blob);
  }
}

Task<Result<void>> Store::inflate(BlobPtr blob, bool only_what_parent_has) {
  Result<Operation> operation = Operation::begin(blob, "inflating");
  CO_TRY(operation);
  const bool has_parent = blob->parent.load(std::memory_order_relaxed) != nullptr || !blob->esnap_id.empty();
  if (only_what_parent_has && !has_parent)
    co_return Error(Errc::invalid_argument, fmt::format("lvol '{}' has no parent", blob->name));
  if (!blob->esnap_id.empty() && blob->esnap.get() == nullptr)
    co_return Error(Errc::no_device,
                    fmt::format("lvol '{}': its outside parent {} is missing", blob->name, blob->esnap_id));
  const std::function<bool(uint64_t)> must = [this, &blob, only_what_parent_has](uint64_t cluster) {
    return must_own(*blob, cluster, only_what_parent_has);
  };
  uint64_t wanted = 0;
  for (uint64_t cluster = 0; cluster < blob->map.size(); ++cluster)
    if (must(cluster)) ++wanted;
  if (wanted > space_.free_clusters())
    co_return Error(Errc::no_space, fmt::format("lvol '{}': {} clusters are wanted, {} are free", blob->name, wanted,
                                                space_.free_clusters()));
  const Result<void> owned = co_await own_and_freeze(blob, must);
  CO_TRY(owned);
  Result<void> outcome = co_await stand_alone(blob, only_what_parent_has);
  blob->board.thaw(blob);
  if (outcome) co_await grace();
  co_return outcome;
}

Task<Result<void>> Store::stand_alone(BlobPtr blob, bool only_what_parent_has) {
  bs::BlobRecord record = Edit::record_of(*blob);
  Blob* parent = blob->parent.load(std::memory_order_relaxed);
  Blob* below = nullptr;
  std::shared_ptr<Device> outside;
  if (only_what_parent_has && parent != nullptr) {
    take_parent(record, *parent);
    below = parent->parent.load(std::memory_order_relaxed);
    outside = parent->esnap.get();
  } else {
    drop_parent(record);
    if (!only_what_parent_has) record.flags.invalid &= ~bs::Flags::kThin;
  }
  const Result<void> put = co_await put_record(*blob, record);
  CO_TRY(put);
  adopt_record(*blob, record);
  blob->esnap.set(std::move(outside));
  set_parent_of(*blob, below);
  co_return Result<void>{};
}

// --- Other parents

Task<Result<void>> Store::set_parent(BlobPtr blob, BlobPtr parent) {
  const auto refuse = [&](Errc code, std::string_view why) {
    return Error(code, fmt::format("lvol '{}' cannot be put on '{}': {}", blob->name, parent->name, why));
  };
  if (blob == parent) co_return refuse(Errc::invalid_argument, "it is itself");
  if (parent->damaged() || !parent->read_only) co_return refuse(Errc::invalid_argument, "that is no snapshot");
  if (!blob->thin) co_return refuse(Errc::invalid_argument, "it is not thin");
  if (blob->map.size() != parent->map.size()) co_return refuse(Errc::invalid_argument, "their sizes differ");
  if (blob->parent.load(std::memory_order_relaxed) == parent.get())
    co_return refuse(Errc::already_exists, "it stands on it already");
  if (stands_on(*parent, *blob)) co_return refuse(Errc::invalid_argument, "that stands on it");
  Result<Operation> operation = Operation::begin(blob, "another operation");
  CO_TRY(operation);
  Result<Operation> on_parent = Operation::begin(parent, "another operation");
  CO_TRY(on_parent);
  bs::BlobRecord record = Edit::record_of(*blob);
  drop_parent(record);
  record.internal_xattrs.push_back({std::string(bs::kXattrParent), id_value(parent->id)});
  co_await blob->board.freeze(blob, main_);
  Result<void> put = co_await put_record(*blob, record);
  if (put) {
    adopt_record(*blob, record);
    blob->esnap.set(nullptr);
    set_parent_of(*blob, parent.get());
  }
  blob->board.thaw(blob);
  if (put) co_await grace();
  co_return put;
}

Result<void> Store::check_fits(const Blob& blob, const Device& device) const {
  if (geometry_.unit_bytes % device.info().block_size != 0)
    return Error(Errc::invalid_argument,
                 fmt::format("device '{}' has blocks of {} bytes, lvol '{}' has {}", device.name(),
                             device.info().block_size, blob.name, geometry_.unit_bytes));
  return {};
}

Task<Result<void>> Store::set_outside_parent(BlobPtr blob, std::string esnap_id, std::shared_ptr<Device> device) {
  CO_TRY(check_fits(*blob, *device));
  if (const auto* lvol = dynamic_cast<const LvolDevice*>(device.get());
      lvol != nullptr && stands_on(*lvol->blob(), *blob))
    co_return Error(Errc::invalid_argument,
                    fmt::format("device '{}' stands on lvol '{}' itself", device->name(), blob->name));
  if (!blob->thin) co_return Error(Errc::invalid_argument, fmt::format("lvol '{}' is not thin", blob->name));
  if (device->info().size_bytes() > blob->map.size() * geometry_.cluster_bytes())
    co_return Error(Errc::invalid_argument,
                    fmt::format("device '{}' is larger than lvol '{}'", device->name(), blob->name));
  if (device->info().size_bytes() % geometry_.cluster_bytes() != 0)
    co_return Error(Errc::invalid_argument, fmt::format("device '{}' has {} bytes: clusters have {}", device->name(),
                                                        device->info().size_bytes(), geometry_.cluster_bytes()));
  if (blob->esnap_id == esnap_id)
    co_return Error(Errc::already_exists,
                    fmt::format("lvol '{}' stands on device '{}' already", blob->name, device->name()));
  Result<Operation> operation = Operation::begin(blob, "another operation");
  CO_TRY(operation);
  bs::BlobRecord record = Edit::record_of(*blob);
  drop_parent(record);
  record.flags.invalid |= bs::Flags::kExternalSnapshot;
  record.internal_xattrs.push_back({std::string(bs::kXattrExternalId), xattr_text(esnap_id)});
  co_await blob->board.freeze(blob, main_);
  Result<void> put = co_await put_record(*blob, record);
  if (put) {
    adopt_record(*blob, record);
    set_parent_of(*blob, nullptr);
    blob->esnap.set(std::move(device));
  }
  blob->board.thaw(blob);
  if (put) co_await grace();
  co_return put;
}

Task<Result<void>> Store::set_read_only(BlobPtr blob) {
  Result<Operation> operation = Operation::begin(blob, "another operation");
  CO_TRY(operation);
  if (blob->read_only) co_return Result<void>{};
  bs::BlobRecord record = Edit::record_of(*blob);
  record.flags.data_ro |= bs::Flags::kReadOnly;
  co_await blob->board.freeze(blob, main_);
  Result<void> put = co_await put_record(*blob, record);
  if (put) {
    blob->read_only = true;
    if (const std::shared_ptr<LvolDevice> device = blob->device.lock()) device->set_read_only();
  }
  blob->board.thaw(blob);
  co_return put;
}

Task<void> Store::set_outside_device(std::string esnap_id, std::shared_ptr<Device> device) {
  std::vector<BlobPtr> affected;
  for (const auto& [id, blob] : blobs_) {
    if (blob->damaged() || blob->bottom().esnap_id != esnap_id) continue;
    affected.push_back(blob);
  }
  for (const BlobPtr& blob : affected)
    if (blob->esnap_id == esnap_id && (device == nullptr || check_fits(*blob, *device))) blob->esnap.set(device);
  // Each channel looks for the device as it goes on. A blob in another operation looks when that ends.
  for (const BlobPtr& blob : affected) {
    Result<Operation> operation = Operation::begin(blob, "its outside parent comes or goes");
    if (!operation) continue;
    co_await blob->board.freeze(blob, main_);
    blob->board.thaw(blob);
  }
}

}  // namespace diskengine::lvol
