// Taking in what the disk has grown by.
#include <fmt/format.h>

#include "lvol/edit.h"
#include "lvol/store.h"

namespace diskengine::lvol {
namespace bs = spec::blobstore;

Task<Result<void>> Store::grow() {
  const uint64_t bytes = disk_->size_blocks() * geometry_.disk_block_bytes;
  bs::Super super = journal_.super();
  if (bytes == super.size_bytes) co_return Result<void>{};
  const uint64_t clusters = bytes / super.cluster_bytes;
  if (bytes < super.size_bytes)
    co_return Error(Errc::no_space, fmt::format("store '{}': its disk has {} bytes, less than the {} it uses", name_,
                                                bytes, super.size_bytes));
  if (clusters > super.clusters_max())
    co_return Error(Errc::no_space, fmt::format("store '{}': it has room to know {} clusters, its disk now holds {}",
                                                name_, super.clusters_max(), clusters));
  co_await metadata_mutex_.lock();
  Result<void> outcome;
  if (journal_.clean()) outcome = co_await journal_.mark_dirty();
  if (outcome) {
    super.clean = false;
    super.size_bytes = bytes;
    super.used_cluster_mask.length = static_cast<uint32_t>(bs::mask_pages(clusters));
    Edit edit(*this);
    edit.put_in_place(bs::kSuperTarget, std::nullopt, journal_.image_of(super));
    edit.after([this, clusters] { space_.clusters.resize(static_cast<uint32_t>(clusters)); });
    outcome = co_await edit.commit();
  }
  metadata_mutex_.unlock();
  if (outcome) {
    if (space_.changed) space_.changed();
    provisioner_.space_changed();
  }
  co_return outcome;
}

}  // namespace diskengine::lvol
