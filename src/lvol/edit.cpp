#include "lvol/edit.h"

#include <algorithm>

#include "lvol/store.h"

namespace diskengine::lvol {
namespace bs = spec::blobstore;

uint32_t ExtentChanges::cost(const Blob& blob, uint32_t index) noexcept {
  const ClusterMap::Chunk* chunk = blob.map.chunk(index);
  return chunk != nullptr && chunk->page != 0 ? 1 : 0;
}

bool ExtentChanges::fits(const Blob* blob, uint64_t cluster, uint32_t images) const {
  const auto index = static_cast<uint32_t>(cluster / ClusterMap::kPerChunk);
  std::vector<const Blob*> roots;
  uint32_t sum = 0;
  const auto count = [&](const Blob& of, uint32_t which) {
    if (cost(of, which) != 0) {
      ++sum;
    } else if (std::find(roots.begin(), roots.end(), &of) == roots.end()) {
      roots.push_back(&of);
    }
  };
  for (const Chunk& chunk : chunks_) {
    if (chunk.blob == blob && chunk.index == index) return true;
    count(*chunk.blob, chunk.index);
  }
  count(*blob, index);
  return sum + roots.size() <= images;
}

void ExtentChanges::add(Blob* blob, uint64_t cluster, uint32_t where) {
  const auto index = static_cast<uint32_t>(cluster / ClusterMap::kPerChunk);
  const auto place = static_cast<uint32_t>(cluster % ClusterMap::kPerChunk);
  for (Chunk& chunk : chunks_)
    if (chunk.blob == blob && chunk.index == index) {
      chunk.entries.emplace_back(place, where);
      return;
    }
  chunks_.push_back({blob, index, {{place, where}}});
}

Edit::~Edit() {
  if (unknown_) return;
  for (const uint32_t page : claimed_pages_) store_.space().release_page(page);
  for (const uint32_t cluster : claimed_clusters_) store_.space().release_cluster(cluster);
}

Result<uint32_t> Edit::new_page() {
  const uint32_t page = store_.space().claim_page();
  if (page == Space::kNone)
    return Error(Errc::no_space, "store '" + store_.name() + "' has no free metadata page left");
  claimed_pages_.push_back(page);
  return page;
}

Result<uint32_t> Edit::new_cluster() {
  const uint32_t cluster = store_.space().claim_cluster();
  if (cluster == Space::kNone) return Error(Errc::no_space, "store '" + store_.name() + "' has no free cluster left");
  claimed_clusters_.push_back(cluster);
  return cluster;
}

bs::BlobRecord Edit::record_of(const Blob& blob) {
  bs::BlobRecord record;
  record.id = blob.id;
  record.flags = blob.flags;
  record.flags.invalid |= bs::Flags::kExtentTable;
  record.xattrs = blob.xattrs;
  record.internal_xattrs = blob.internal_xattrs;
  record.num_clusters = blob.map.size();
  record.extent_pages.resize(blob.map.chunks());
  for (uint32_t i = 0; i < blob.map.chunks(); ++i)
    if (const ClusterMap::Chunk* chunk = blob.map.chunk(i); chunk != nullptr) record.extent_pages[i] = chunk->page;
  return record;
}

Result<void> Edit::put_blob(Blob& blob, const bs::BlobRecord& wanted) {
  bs::BlobRecord record = wanted;
  record.flags.invalid &= ~bs::Flags::kInternalXattr;
  if (!record.internal_xattrs.empty()) record.flags.invalid |= bs::Flags::kInternalXattr;
  TRY_ASSIGN(std::vector<bs::Page> chain, bs::encode_blob(record));
  std::vector<uint32_t> places = {bs::page_of_blob_id(blob.id)};
  for (size_t i = 1; i < chain.size(); ++i) {
    TRY_ASSIGN(const uint32_t page, new_page());
    places.push_back(page);
  }
  bs::link_chain(chain, places);
  for (size_t i = 1; i < chain.size(); ++i) transaction_.fresh.push_back({places[i], chain[i]});
  std::optional<uint32_t> old_state;
  if (!blob.pages.empty()) old_state = blob.root_state;
  put_in_place(places[0], old_state, chain[0]);
  for (size_t i = 1; i < blob.pages.size(); ++i) give_up_page(blob.pages[i]);
  after([&blob, places, state = bs::state_of(chain[0])] {
    blob.pages = places;
    blob.root_state = state;
    blob.has_extent_table = true;
  });
  return {};
}

void Edit::erase_blob(Blob& blob) {
  put_in_place(bs::page_of_blob_id(blob.id), std::nullopt, bs::Page{});
  erased_.push_back(bs::page_of_blob_id(blob.id));
  for (size_t i = 1; i < blob.pages.size(); ++i) give_up_page(blob.pages[i]);
}

Result<uint32_t> Edit::put_new_extent(uint64_t blob_id, uint32_t index, std::span<const uint32_t> clusters,
                                      uint32_t* state) {
  TRY_ASSIGN(const uint32_t page, new_page());
  bs::Page image;
  bs::encode_extent_page(blob_id, index * bs::kClustersPerExtentPage, clusters, image);
  transaction_.fresh.push_back({page, image});
  *state = bs::state_of(image);
  return page;
}

Result<void> Edit::put_extents(const ExtentChanges& changes,
                               const std::function<uint32_t(const Blob&, uint64_t)>& now) {
  std::map<Blob*, bs::BlobRecord> records;
  for (const ExtentChanges::Chunk& change : changes.chunks()) {
    Blob& blob = *change.blob;
    const uint64_t first = uint64_t{change.index} * ClusterMap::kPerChunk;
    std::vector<uint32_t> clusters(blob.map.clusters_in(change.index));
    for (size_t i = 0; i < clusters.size(); ++i) clusters[i] = now(blob, first + i);
    for (const auto& [place, where] : change.entries) clusters[place] = where;
    ClusterMap::Chunk* chunk = blob.map.chunk(change.index);
    if (chunk != nullptr && chunk->page != 0) {
      bs::Page image;
      bs::encode_extent_page(blob.id, static_cast<uint32_t>(first), clusters, image);
      put_in_place(chunk->page, chunk->page_seal, image);
      after([chunk, state = bs::state_of(image)] { chunk->page_seal = state; });
      continue;
    }
    uint32_t state = 0;
    TRY_ASSIGN(const uint32_t page, put_new_extent(blob.id, change.index, clusters, &state));
    const auto record = records.try_emplace(&blob, record_of(blob)).first;
    record->second.extent_pages[change.index] = page;
    after([&blob, index = change.index, page, state] {
      ClusterMap::Chunk& made = blob.map.make_chunk(index);
      made.page = page;
      made.page_seal = state;
    });
  }
  for (const auto& [blob, record] : records) TRY(put_blob(*blob, record));
  return {};
}

Task<Result<void>> Edit::commit() {
  if (transaction_.in_place.empty()) {
    DE_ASSERT(transaction_.fresh.empty());
    co_return Result<void>{};
  }
  Result<void> committed = co_await store_.journal().commit(std::move(transaction_));
  if (!committed) {
    unknown_ = !store_.journal().frozen().empty();
    co_return committed;
  }
  claimed_pages_.clear();
  claimed_clusters_.clear();
  for (const auto& step : steps_) step();
  for (const uint32_t page : freed_pages_) store_.space().release_page(page);
  store_.release_pages_later(std::move(erased_));
  co_return Result<void>{};
}

}  // namespace diskengine::lvol
