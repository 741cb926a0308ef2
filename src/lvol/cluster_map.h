// Where each cluster of a lvol lies on the disk: a table of chunks, one for each extent page of the lvol's metadata,
// which exist only where something is or was allocated. Memory: 8 bytes for each 512 clusters, and 2 KiB more for each
// chunk.
//
// Threads: any reactor looks clusters up without locks; an entry is published (release) only when it is durable. The
// main reactor owns the map: only it changes entries, and resizes while nobody looks.
#pragma once

#include <array>
#include <atomic>
#include <cstdint>
#include <memory>
#include <vector>

#include "base/assert.h"

namespace diskengine::lvol {

class ClusterMap {
 public:
  static constexpr uint32_t kPerChunk = 512;  // clusters, as of an extent page
  static constexpr uint32_t kUnallocated = 0;
  static constexpr uint32_t kBusy = UINT32_MAX;  // being given up: I/O to it waits at the main reactor

  struct Chunk {
    std::array<std::atomic<uint32_t>, kPerChunk> clusters{};
    // For the main reactor.
    uint32_t page = 0;       // its extent page; 0: not written yet
    uint32_t page_seal = 0;  // the page's checksum on disk
    uint32_t used = 0;       // entries that are neither unallocated nor beyond the end
  };

  ClusterMap() = default;
  ClusterMap(const ClusterMap&) = delete;
  ClusterMap& operator=(const ClusterMap&) = delete;
  ~ClusterMap() { drop_chunks(0); }

  uint64_t size() const noexcept { return size_.load(std::memory_order_relaxed); }
  uint32_t chunks() const noexcept { return static_cast<uint32_t>(table_.size()); }

  // Any reactor. kUnallocated beyond the end.
  uint32_t lookup(uint64_t cluster) const noexcept {
    if (cluster >= size_.load(std::memory_order_relaxed)) [[unlikely]]
      return kUnallocated;
    const Chunk* chunk = table_[cluster / kPerChunk].load(std::memory_order_acquire);
    return chunk == nullptr ? kUnallocated : chunk->clusters[cluster % kPerChunk].load(std::memory_order_acquire);
  }

  // --- Main reactor
  Chunk* chunk(uint32_t index) noexcept { return table_[index].load(std::memory_order_relaxed); }
  const Chunk* chunk(uint32_t index) const noexcept { return table_[index].load(std::memory_order_relaxed); }
  Chunk& make_chunk(uint32_t index) {
    Chunk* chunk = table_[index].load(std::memory_order_relaxed);
    if (chunk == nullptr) {
      chunk = new Chunk();
      table_[index].store(chunk, std::memory_order_release);
    }
    return *chunk;
  }
  void publish(uint64_t cluster, uint32_t where) {
    DE_ASSERT(cluster < size());
    Chunk& chunk = make_chunk(static_cast<uint32_t>(cluster / kPerChunk));
    std::atomic<uint32_t>& entry = chunk.clusters[cluster % kPerChunk];
    const uint32_t before = entry.load(std::memory_order_relaxed);
    chunk.used += (where != kUnallocated ? 1 : 0);
    chunk.used -= (before != kUnallocated ? 1 : 0);
    entry.store(where, std::memory_order_release);
  }
  uint64_t allocated() const noexcept {
    uint64_t sum = 0;
    for (const auto& entry : table_)
      if (const Chunk* chunk = entry.load(std::memory_order_relaxed); chunk != nullptr) sum += chunk->used;
    return sum;
  }
  // Clusters that chunk `index` describes.
  uint32_t clusters_in(uint32_t index) const noexcept {
    const uint64_t left = size() - uint64_t{index} * kPerChunk;
    return left < kPerChunk ? static_cast<uint32_t>(left) : kPerChunk;
  }

  // While nobody looks. What is beyond the new end was unallocated before.
  void resize(uint64_t clusters) {
    const size_t count = (clusters + kPerChunk - 1) / kPerChunk;
    drop_chunks(count);
    std::vector<std::atomic<Chunk*>> table(count);
    for (size_t i = 0; i < count && i < table_.size(); ++i)
      table[i].store(table_[i].load(std::memory_order_relaxed), std::memory_order_relaxed);
    table_.swap(table);
    size_.store(clusters, std::memory_order_release);
  }
  // While nobody looks at either.
  void swap(ClusterMap& other) noexcept {
    table_.swap(other.table_);
    const uint64_t size = size_.load(std::memory_order_relaxed);
    size_.store(other.size(), std::memory_order_release);
    other.size_.store(size, std::memory_order_release);
  }

 private:
  void drop_chunks(size_t from) noexcept {
    for (size_t i = from; i < table_.size(); ++i) {
      delete table_[i].load(std::memory_order_relaxed);
      table_[i].store(nullptr, std::memory_order_relaxed);
    }
  }

  std::atomic<uint64_t> size_{0};
  std::vector<std::atomic<Chunk*>> table_;
};

}  // namespace diskengine::lvol
