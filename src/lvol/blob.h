// One lvol as it is in memory (SPDK: blob): its metadata, its map of clusters, its parent and clones.
//
// Threads: the main reactor changes it. Channels of any reactor read `map`, `parent`, `thin` and `read_only`. Owner:
// its Store; its device, and with it every channel, holds a reference too. The parent outlives it as long as it is the
// parent and some I/O may still look at it.
#pragma once

#include <atomic>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "base/uuid.h"
#include "block/device.h"
#include "format/blobstore.h"
#include "lvol/channel_board.h"
#include "lvol/cluster_map.h"
#include "lvol/types.h"

namespace diskengine::lvol {

class LvolDevice;

// A reference to a device that comes and goes while channels on other reactors look for it when they open.
class DeviceSlot {
 public:
  std::shared_ptr<Device> get() const {
    std::lock_guard lock(mutex_);
    return device_;
  }
  void set(std::shared_ptr<Device> device) {
    std::lock_guard lock(mutex_);
    device_ = std::move(device);
  }

 private:
  mutable std::mutex mutex_;
  std::shared_ptr<Device> device_;
};

struct Blob {
  uint64_t id = 0;
  Uuid uuid;
  std::string name;
  spec::blobstore::Flags flags;
  std::vector<spec::blobstore::Xattr> xattrs;
  std::vector<spec::blobstore::Xattr> internal_xattrs;

  // Its chain of metadata pages; the first one is given by its id.
  std::vector<uint32_t> pages;
  uint32_t root_state = 0;       // what the first page says of itself on disk
  bool has_extent_table = true;  // false: on disk it still has run-length extents
  ClusterMap map;

  std::atomic<Blob*> parent{nullptr};
  std::vector<Blob*> clones;
  std::string esnap_id;                  // not empty: its parent is an outside device, with this UUID
  std::atomic<bool> has_outside{false};  // the same, for other reactors
  DeviceSlot esnap;                      // that device; null: missing
  std::atomic<bool> thin{false};
  std::atomic<bool> read_only{false};
  bool pause_when_full = false;
  uint64_t writer_epoch = 0;  // Device::writer_epoch
  unsigned paused = 0;        // first writes that wait for space

  ChannelBoard board;
  std::weak_ptr<LvolDevice> device;
  std::string damage;                      // not empty: it cannot be used; says why
  std::vector<uint32_t> damaged_pages;     // what it alone claims, if it is damaged
  std::vector<uint32_t> damaged_clusters;  // likewise
  const char* operation = nullptr;         // under way on it; others are refused

  void set_esnap_id(std::string outside_uuid) {
    esnap_id = std::move(outside_uuid);
    has_outside.store(!esnap_id.empty(), std::memory_order_release);
  }
  bool damaged() const noexcept { return !damage.empty(); }

  // The end of its chain of parents, maybe itself.
  const Blob& bottom() const noexcept {
    const Blob* blob = this;
    while (const Blob* below = blob->parent.load(std::memory_order_acquire)) blob = below;
    return *blob;
  }
};

// What a read of an unallocated cluster finds.
struct Source {
  enum class Kind { zeroes, cluster, outside, busy };
  Kind kind = Kind::zeroes;
  uint32_t cluster = 0;
};
// Any reactor. Walks the parents of `blob`, beginning above it.
inline Source source_of(const Blob& blob, uint64_t cluster) noexcept {
  const Blob* at = &blob;
  while (const Blob* parent = at->parent.load(std::memory_order_acquire)) {
    // Beyond the end of a parent nothing shows through, whatever is below it.
    if (cluster >= parent->map.size()) return {};
    const uint32_t where = parent->map.lookup(cluster);
    if (where == ClusterMap::kBusy) return {Source::Kind::busy, 0};
    if (where != ClusterMap::kUnallocated) return {Source::Kind::cluster, where};
    at = parent;
  }
  const bool outside = at->has_outside.load(std::memory_order_acquire);
  return {outside ? Source::Kind::outside : Source::Kind::zeroes, 0};
}

}  // namespace diskengine::lvol
