// A store as a whole: opening, closing, what it says of itself, and the waiting for what is in flight.
#include "lvol/store.h"

#include <fmt/format.h>

#include <algorithm>

#include "base/log.h"
#include "lvol/edit.h"

namespace diskengine::lvol {
namespace bs = spec::blobstore;
namespace {

constexpr size_t kZeroBytes = 1024 * 1024;
constexpr uint64_t kDiscardBytes = uint64_t{1} << 30;  // in one request

}  // namespace

Store::Store(Reactor& main, std::shared_ptr<Device> disk, std::unique_ptr<Channel> channel, LoadedStore loaded)
    : main_(main),
      disk_(std::move(disk)),
      channel_(std::move(channel)),
      geometry_(Geometry::of(loaded.super, disk_->info().block_size)),
      journal_(*channel_, geometry_, loaded.super, loaded.super_page),
      provisioner_(*this),
      channels_(*this),
      metadata_mutex_(main),
      grace_mutex_(main),
      zeroes_(kZeroBytes) {
  was_recovered_ = !loaded.masks_read;
  scanned_ = loaded.scanned;
  space_.pages = std::move(loaded.pages);
  space_.clusters = std::move(loaded.clusters);
  keep_place_of_super_blob(loaded.blobs);
  if (loaded.masks_read) {
    // Whatever the masks hold back stays so: a check says what it is.
    for (uint32_t i = 0; i < space_.pages.size(); ++i)
      if (loaded.disk_pages.test(i) && !space_.pages.test(i)) space_.pages.set(i);
    for (uint32_t i = 0; i < space_.clusters.size(); ++i)
      if (loaded.disk_clusters.test(i) && !space_.clusters.test(i)) space_.clusters.set(i);
  }
  journal_.reserve(space_);
  journal_.set_last_number(loaded.last_number);
  build_blobs(loaded.blobs);
}

Store::~Store() { DE_ASSERT(closed_ && provisioner_.idle()); }

Task<Result<Store::Ptr>> Store::load(Reactor& main, std::shared_ptr<Device> disk, bool trust_masks) {
  Result<std::unique_ptr<Channel>> opened = disk->open_channel(main);
  CO_TRY(opened);
  std::unique_ptr<Channel> channel = std::move(opened).value();
  Loader loader(*channel, {.may_write = !disk->info().read_only, .trust_masks = trust_masks});
  Result<LoadedStore> loaded = co_await loader.load();
  CO_TRY(loaded);
  const bool mend = loaded->super_seal != bs::Seal::good;
  LoadedStore rest;  // what finish_load needs
  rest.erase = loaded->erase;
  std::vector<uint64_t> rewrite;
  for (const LoadedBlob& blob : loaded->blobs)
    if (blob.rewrite) rewrite.push_back(blob.record.id);
  auto store = std::make_shared<Store>(main, std::move(disk), std::move(channel), std::move(loaded).value());
  Result<void> finished = co_await store->finish_load(rest.erase, rewrite, mend);
  if (!finished) {
    store->abandon();
    co_return std::move(finished).error();
  }
  co_return store;
}

// Ends what SPDK was stopped in, and puts a torn super block right.
Task<Result<void>> Store::finish_load(std::vector<uint32_t> erase, std::vector<uint64_t> rewrite, bool mend_super) {
  if (mend_super) {
    const Result<void> mended = co_await journal_.mark_dirty();
    CO_TRY(mended);
  }
  for (const uint64_t id : rewrite) {
    const auto at = blobs_.find(id);
    if (at == blobs_.end() || at->second->damaged()) continue;
    const Result<void> put = co_await put_record(*at->second, Edit::record_of(*at->second));
    CO_TRY(put);
  }
  for (const uint32_t page : erase) {
    co_await metadata_mutex_.lock();
    const bool free = !space_.pages.test(page);
    if (free) space_.pages.set(page);
    Edit edit(*this);
    edit.put_in_place(page, std::nullopt, bs::Page{});
    const Result<void> erased = co_await edit.commit();
    if (free) release_pages_later({page});
    metadata_mutex_.unlock();
    CO_TRY(erased);
  }
  co_return Result<void>{};
}

Task<Result<void>> Store::write_mask(bs::MaskType type, const Bitmap& bits, bs::PageRange range) {
  if (range.length == 0) co_return Result<void>{};
  DmaBuffer buffer(bs::mask_pages(bits.size()) * bs::kPageBytes);
  bs::encode_mask(type, bits.size(), bits.bytes(), buffer.span());
  const IoStatus status = co_await write_bytes(*channel_, geometry_.lba_of_disk_page(range.start), buffer.span());
  if (!status.ok()) co_return io_failed(*disk_, "write a mask", status);
  co_return Result<void>{};
}

// As SPDK would write them: the journal's pages are free.
Task<Result<void>> Store::write_masks() {
  const bs::Super& super = journal_.super();
  Bitmap pages = space_.pages;
  for (const uint32_t page : journal_.pages()) pages.clear(page);
  for (const uint32_t page : pages_for_later_) pages.clear(page);
  Bitmap ids(super.md_len);
  if (super_blob_ != nullptr) ids.set(bs::page_of_blob_id(super_blob_->id));
  for (const auto& [id, blob] : blobs_) ids.set(bs::page_of_blob_id(id));
  Result<void> written = co_await write_mask(bs::MaskType::used_pages, pages, super.used_page_mask);
  CO_TRY(written);
  written = co_await write_mask(bs::MaskType::used_clusters, space_.clusters, super.used_cluster_mask);
  CO_TRY(written);
  written = co_await write_mask(bs::MaskType::used_blobids, ids, super.used_blobid_mask);
  co_return written;
}

Task<Result<void>> Store::unload() {
  DE_ASSERT(provisioner_.idle());
  co_await metadata_mutex_.lock();
  Result<void> outcome;
  if (!journal_.clean()) {
    if (journal_.frozen().empty()) {
      outcome = co_await write_masks();
    } else {
      outcome = Error(Errc::io_error, "its metadata could not be written: " + journal_.frozen());
    }
    if (outcome) outcome = co_await journal_.mark_clean();
  }
  metadata_mutex_.unlock();
  if (!outcome) LOG_WARN("lvol", "store '{}' was left as if after a crash: {}", name_, outcome.error().message());
  abandon();
  co_return outcome;
}

void Store::abandon() {
  if (std::exchange(closed_, true)) return;
  set_stopping(true);
  auto held = std::make_shared<std::unique_ptr<Channel>>(std::move(channel_));
  (*held)->when_idle([held] { held->reset(); });
  for (auto& [id, blob] : blobs_) {
    blob->esnap.set(nullptr);
    blob->parent.store(nullptr, std::memory_order_release);
    blob->clones.clear();
  }
}

void Store::set_stopping(bool stopping) {
  stopping_ = stopping;
  provisioner_.space_changed();
}

StoreInfo Store::info() const {
  const bs::Super& super = journal_.super();
  StoreInfo info;
  info.uuid = uuid_;
  info.name = name_;
  info.base_bdev = disk_->name();
  info.total_data_clusters = data_clusters();
  info.free_clusters = space_.free_clusters();
  info.block_size = geometry_.unit_bytes;
  info.cluster_bytes = super.cluster_bytes;
  info.size_bytes = super.size_bytes;
  info.max_growable_bytes = super.clusters_max() * super.cluster_bytes;
  info.md_pages = super.md_len;
  info.md_pages_used = space_.pages.count() - static_cast<uint32_t>(journal_.pages().size());
  for (const auto& [id, blob] : blobs_) ++(blob->damaged() ? info.damaged : info.lvols);
  info.was_recovered = was_recovered_;
  info.frozen_reason = journal_.frozen();
  return info;
}

std::vector<DamagedLvol> Store::damaged() const {
  std::vector<DamagedLvol> list;
  for (const auto& [id, blob] : blobs_)
    if (blob->damaged())
      list.push_back(
          {.uuid = blob->uuid, .name = blob->name, .blob_id = id, .store_name = name_, .reason = blob->damage});
  return list;
}

Store::BlobPtr Store::find(std::string_view name) const {
  for (const auto& [id, blob] : blobs_)
    if (blob->name == name) return blob;
  return nullptr;
}

Store::BlobPtr Store::find(const Uuid& uuid) const {
  for (const auto& [id, blob] : blobs_)
    if (blob->uuid == uuid) return blob;
  return nullptr;
}

Task<void> Store::grace() {
  co_await grace_mutex_.lock();
  OneShot<bool> landed(main_);
  const auto ticket = std::make_shared<DrainTicket>(main_, [&landed] { landed.set(true); });
  provisioner_.begin_grace(ticket);
  const Ptr self = shared_from_this();
  for (Reactor* reactor : channels_.reactors()) {
    ticket->add();
    reactor->post([self, ticket, reactor] {
      if (StoreChannel* channel = self->channels_.find(*reactor); channel != nullptr) channel->begin_grace(ticket);
      ticket->drop();
    });
  }
  ticket->drop();
  co_await landed;
  grace_mutex_.unlock();
}

Task<void> Store::discard_and_release(std::vector<uint32_t> clusters, ClearMethod method) {
  std::sort(clusters.begin(), clusters.end());
  const uint64_t per_request = std::max<uint64_t>(1, kDiscardBytes / geometry_.cluster_bytes());
  const bool zero = method == ClearMethod::write_zeroes;
  const bool discard = method != ClearMethod::none && (zero || disk_->info().can_unmap);
  for (size_t at = 0; discard && at < clusters.size();) {
    size_t count = 1;
    while (at + count < clusters.size() && count < per_request && clusters[at + count] == clusters[at] + count) ++count;
    const DiskRange range{.lba = geometry_.lba_of_cluster(clusters[at]),
                          .blocks = count * geometry_.blocks_per_cluster()};
    const IoStatus status =
        zero ? co_await zero_blocks(*channel_, range, zeroes()) : co_await disk_io(*channel_, Op::unmap, range, {});
    // What a cluster holds does not matter any more: whoever gets it next fills it first.
    if (!status.ok()) LOG_WARN("lvol", "store '{}': discarding failed: {}", name_, name_of(status.code));
    at += count;
  }
  for (const uint32_t cluster : clusters) space_.release_cluster(cluster);
  if (!clusters.empty()) provisioner_.space_changed();
}

void Store::release_pages_later(std::vector<uint32_t> pages) {
  for (const uint32_t page : pages_for_later_) space_.release_page(page);
  pages_for_later_ = std::move(pages);
}

}  // namespace diskengine::lvol
