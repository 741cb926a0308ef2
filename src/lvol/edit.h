// One change of a store's metadata in the making: reserves pages and clusters, gathers the pages to write, and commits
// them as one transaction. What it reserved is given back unless it was committed; what it gives up is released after.
// In memory nothing changes but by the steps of `after`, once everything is durable.
//
// Threads: the main reactor, with the store's metadata mutex held from the first call to the end of commit().
#pragma once

#include <functional>
#include <map>
#include <vector>

#include "lvol/blob.h"
#include "lvol/journal.h"

namespace diskengine::lvol {

class Store;

// Entries of maps that change, by extent page.
class ExtentChanges {
 public:
  struct Chunk {
    Blob* blob;
    uint32_t index;
    std::vector<std::pair<uint32_t, uint32_t>> entries;  // place within the chunk, cluster on the disk
  };

  // Whether one more change leaves the transaction within `images` in-place pages.
  bool fits(const Blob* blob, uint64_t cluster, uint32_t images) const;
  void add(Blob* blob, uint64_t cluster, uint32_t where);
  const std::vector<Chunk>& chunks() const noexcept { return chunks_; }

 private:
  static uint32_t cost(const Blob& blob, uint32_t index) noexcept;
  std::vector<Chunk> chunks_;
};

class Edit {
 public:
  explicit Edit(Store& store) : store_(store) {}
  ~Edit();
  Edit(const Edit&) = delete;
  Edit& operator=(const Edit&) = delete;

  // Errc::no_space.
  Result<uint32_t> new_page();
  Result<uint32_t> new_cluster();
  void give_up_page(uint32_t page) { freed_pages_.push_back(page); }
  void give_up_cluster(uint32_t cluster) { freed_clusters_.push_back(cluster); }
  void after(std::function<void()> step) { steps_.push_back(std::move(step)); }

  // The metadata of `blob` as it is now.
  static spec::blobstore::BlobRecord record_of(const Blob& blob);
  // Writes the chain of `blob` to say `record`: its first page in place, the others anew.
  Result<void> put_blob(Blob& blob, const spec::blobstore::BlobRecord& wanted);
  // Its first page no longer begins a blob; its chain is given up.
  void erase_blob(Blob& blob);
  // Writes `clusters` as a new extent page; the page's number.
  Result<uint32_t> put_new_extent(uint64_t blob_id, uint32_t index, std::span<const uint32_t> clusters,
                                  uint32_t* state);
  // Writes the extent pages that change, and the chains of blobs that get new ones. `now` says what an entry is on
  // disk.
  Result<void> put_extents(const ExtentChanges& changes, const std::function<uint32_t(const Blob&, uint64_t)>& now);
  // Overwrites a page in use.
  void put_in_place(uint32_t page, std::optional<uint32_t> old_state, const spec::blobstore::Page& image) {
    transaction_.in_place.push_back({page, old_state, image});
  }

  // Nothing to write is success. Clusters that were given up are the caller's to discard and release: take_freed().
  Task<Result<void>> commit();
  std::vector<uint32_t> take_freed() { return std::move(freed_clusters_); }

 private:
  Store& store_;
  Transaction transaction_;
  std::vector<uint32_t> claimed_pages_;
  std::vector<uint32_t> claimed_clusters_;
  std::vector<uint32_t> freed_pages_;
  std::vector<uint32_t> erased_;  // of the freed ones, those that this transaction overwrites
  std::vector<uint32_t> freed_clusters_;
  std::vector<std::function<void()>> steps_;
  bool unknown_ = false;  // the outcome: what was reserved stays so
};

}  // namespace diskengine::lvol
