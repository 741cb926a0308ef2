// Memory that devices may be let reach where it is, listed by whoever maps it: guest memory, the target's buffers.
// Transports register what is listed with their devices, so that data needs no copy; what is not listed is copied.
//
// Threads: any. Owned by the app; outlives whatever lists and watches.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <mutex>
#include <utility>
#include <vector>

namespace diskengine {

class DmaRegions {
 public:
  // More are not listed: their data is copied.
  static constexpr size_t kRegionsMax = 1024;

  struct Region {
    uint64_t id;  // never used again
    uint8_t* base;
    size_t bytes;
  };

  // Told that the list is another one, on the thread that changed it, inside list() or Listed's end.
  class Watcher {
   public:
    virtual void on_regions_changed() noexcept = 0;

   protected:
    ~Watcher() = default;
  };

  // Keeps a region on the list. Ends with no I/O in the region, before it is unmapped.
  class Listed {
   public:
    Listed() = default;
    Listed(Listed&& other) noexcept : regions_(std::exchange(other.regions_, nullptr)), id_(other.id_) {}
    Listed& operator=(Listed&& other) noexcept {
      std::swap(regions_, other.regions_);
      std::swap(id_, other.id_);
      return *this;
    }
    ~Listed() {
      if (regions_ != nullptr) regions_->remove(id_);
    }

   private:
    friend class DmaRegions;
    Listed(DmaRegions* regions, uint64_t id) noexcept : regions_(regions), id_(id) {}
    DmaRegions* regions_ = nullptr;
    uint64_t id_ = 0;
  };

  [[nodiscard]] Listed list(uint8_t* base, size_t bytes) {
    const std::lock_guard lock(mutex_);
    if (regions_.size() >= kRegionsMax) return {};
    regions_.push_back({next_id_, base, bytes});
    changed();
    return {this, next_id_++};
  }

  // Another number after each change. Who keeps anything that follows from the list compares it before each use: an
  // address that was unmapped may be mapped anew.
  uint64_t version() const noexcept { return version_.load(std::memory_order_acquire); }
  std::vector<Region> snapshot() const {
    const std::lock_guard lock(mutex_);
    return regions_;
  }

  void watch(Watcher& watcher) {
    const std::lock_guard lock(mutex_);
    watchers_.push_back(&watcher);
  }
  void unwatch(Watcher& watcher) {
    const std::lock_guard lock(mutex_);
    std::erase(watchers_, &watcher);
  }

 private:
  void remove(uint64_t id) {
    const std::lock_guard lock(mutex_);
    std::erase_if(regions_, [id](const Region& region) { return region.id == id; });
    changed();
  }
  void changed() {
    version_.fetch_add(1, std::memory_order_release);
    for (Watcher* watcher : watchers_) watcher->on_regions_changed();
  }

  mutable std::mutex mutex_;
  std::vector<Region> regions_;
  std::vector<Watcher*> watchers_;
  uint64_t next_id_ = 1;
  std::atomic<uint64_t> version_{1};
};

}  // namespace diskengine
