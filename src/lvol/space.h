// Which metadata pages and clusters of a store are taken, in memory: what is durable, and what operations under way
// have reserved. What an operation gives up is released only once its transaction is durable. Main reactor.
#pragma once

#include <algorithm>
#include <functional>

#include "lvol/bitmap.h"

namespace diskengine::lvol {

struct Space {
  static constexpr uint32_t kNone = Bitmap::kNone;

  Bitmap pages;
  Bitmap clusters;
  // Called when clusters were taken or released.
  std::function<void()> changed;

  // Metadata page 0 is never an extent page: 0 stands for none there.
  uint32_t claim_page(uint32_t from = 1) noexcept {
    const uint32_t page = pages.find_clear(from);
    if (page != kNone) pages.set(page);
    return page;
  }
  void release_page(uint32_t page) noexcept { pages.clear(page); }

  uint32_t claim_cluster() noexcept {
    const uint32_t cluster = clusters.find_clear(first_free_);
    if (cluster == kNone) return kNone;
    clusters.set(cluster);
    first_free_ = cluster + 1;
    if (changed) changed();
    return cluster;
  }
  void release_cluster(uint32_t cluster) noexcept {
    clusters.clear(cluster);
    first_free_ = std::min(first_free_, cluster);
    if (changed) changed();
  }
  uint32_t free_clusters() const noexcept { return clusters.clear_count(); }

 private:
  uint32_t first_free_ = 0;  // none is free before it
};

}  // namespace diskengine::lvol
