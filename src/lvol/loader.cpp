// Reading: super block, masks, metadata pages, journal.
#include "lvol/loader.h"

#include <fmt/format.h>

#include <algorithm>

#include "base/log.h"

namespace diskengine::lvol {
namespace bs = spec::blobstore;
namespace {

constexpr uint32_t kRunPages = 256;  // read at a time

}  // namespace

Loader::Loader(Channel& channel, Options options)
    : channel_(channel), options_(options), buffer_(kRunPages * bs::kPageBytes) {}

Task<Result<LoadedStore>> Loader::load() {
  Result<void> step = co_await read_super();
  CO_TRY(step);
  geometry_ = Geometry::of(found_.super, channel_.device().info().block_size);
  if (found_.super.clean && found_.super.used_blobid_mask.length != 0) {
    step = co_await read_masks();
    CO_TRY(step);
  }
  found_.scanned = !found_.masks_read || !options_.trust_masks;
  if (!found_.scanned) {
    step = co_await read_used();
  } else {
    step = co_await scan();
    CO_TRY(step);
    step = co_await replay_journals();
  }
  CO_TRY(step);
  if (found_.super_seal == bs::Seal::broken)
    co_return Error(Errc::corrupt,
                    fmt::format("device '{}': the checksum of its super block is wrong", channel_.device().name()));
  gather_blobs();
  resolve_marks();
  claim_all();
  link_parents();
  co_return std::move(found_);
}

Task<Result<void>> Loader::read_super() {
  const DeviceInfo& info = channel_.device().info();
  if (info.size_bytes() < bs::kPageBytes) co_return Error(Errc::not_found, "the device is too small for a store");
  const IoStatus status = co_await read_bytes(channel_, 0, buffer_.span().first(bs::kPageBytes));
  if (!status.ok()) co_return io_failed(channel_.device(), "read the super block", status);
  std::copy_n(buffer_.data(), bs::kPageBytes, found_.super_page.begin());
  Result<bs::FoundSuper> decoded = bs::decode_super(found_.super_page, info.size_bytes());
  if (!decoded) co_return decoded.error().with_context(fmt::format("device '{}'", info.name));
  found_.super = decoded->super;
  found_.super_seal = decoded->seal;
  if (found_.super.type != bs::kLvolStoreType)
    co_return Error(Errc::not_found, fmt::format("device '{}' holds a blobstore of type '{}', not of lvols", info.name,
                                                 found_.super.type));
  if (found_.super.io_unit_bytes % info.block_size != 0)
    co_return Error(Errc::not_supported, fmt::format("device '{}' has blocks of {} bytes; its store was made for {}",
                                                     info.name, info.block_size, found_.super.io_unit_bytes));
  co_return Result<void>{};
}

Task<Result<void>> Loader::read_mask(bs::MaskType type, bs::PageRange range, Bitmap& bits) {
  std::vector<uint8_t> bytes(bs::mask_pages(bits.size()) * bs::kPageBytes);
  DE_ASSERT(bytes.size() <= size_t{range.length} * bs::kPageBytes);
  for (size_t at = 0; at < bytes.size(); at += buffer_.size()) {
    const size_t length = std::min(bytes.size() - at, buffer_.size());
    const uint64_t lba = geometry_.lba_of_disk_page(range.start + at / bs::kPageBytes);
    const IoStatus status = co_await read_bytes(channel_, lba, buffer_.span().first(length));
    if (!status.ok()) co_return io_failed(channel_.device(), "read a mask", status);
    std::copy_n(buffer_.data(), length, bytes.begin() + static_cast<std::ptrdiff_t>(at));
  }
  const Result<std::span<const uint8_t>> mask = bs::decode_mask(bytes, type, bits.size());
  CO_TRY(mask);
  bits.load(*mask);
  co_return Result<void>{};
}

// A mask that cannot be read is no loss: everything is found by reading all pages.
Task<Result<void>> Loader::read_masks() {
  found_.disk_pages.resize(found_.super.md_len);
  found_.disk_clusters.resize(found_.super.total_clusters());
  roots_.resize(found_.super.md_len);
  Result<void> read = co_await read_mask(bs::MaskType::used_pages, found_.super.used_page_mask, found_.disk_pages);
  if (read)
    read = co_await read_mask(bs::MaskType::used_clusters, found_.super.used_cluster_mask, found_.disk_clusters);
  if (read) read = co_await read_mask(bs::MaskType::used_blobids, found_.super.used_blobid_mask, roots_);
  found_.masks_read = read.has_value();
  if (!read) {
    found_.mask_damage = read.error().message();
    LOG_WARN("lvol", "device '{}': {}: the masks are made anew", channel_.device().name(), read.error().message());
  }
  co_return Result<void>{};
}

void Loader::keep(uint32_t page, const bs::Page& image, bool keep_all) {
  if (bs::is_journal(image)) {
    Result<bs::JournalHeader> header = bs::decode_journal(image, page, found_.super.md_len);
    if (header) headers_.push_back(std::move(header).value());
    found_.journals.push_back(page);
    return;
  }
  // Of an unsealed page only one that seems to begin a blob says anything.
  const bs::PageHeader header = bs::header_of(image);
  const bool begins = header.sequence_num == 0 && header.id == bs::blob_id_of_page(page);
  if (keep_all || begins || bs::is_sealed(image)) images_.insert_or_assign(page, image);
}

Task<Result<void>> Loader::read_run(uint32_t page, uint32_t count, bool keep_all) {
  IoStatus status =
      co_await read_bytes(channel_, geometry_.lba_of_md_page(page), buffer_.span().first(count * bs::kPageBytes));
  bs::Page image;
  for (uint32_t i = 0; i < count; ++i) {
    if (!status.ok() || count == 1) {
      // One bad block costs its page, not its neighbours.
      const IoStatus single = count == 1
                                  ? status
                                  : co_await read_bytes(channel_, geometry_.lba_of_md_page(page + i),
                                                        buffer_.span().subspan(i * bs::kPageBytes, bs::kPageBytes));
      if (!single.ok()) {
        LOG_WARN("lvol", "device '{}': metadata page {} cannot be read: {}", channel_.device().name(), page + i,
                 name_of(single.code));
        continue;
      }
    }
    std::copy_n(buffer_.data() + size_t{i} * bs::kPageBytes, bs::kPageBytes, image.begin());
    keep(page + i, image, keep_all);
  }
  co_return Result<void>{};
}

Task<Result<void>> Loader::read_used() {
  const Bitmap& used = found_.disk_pages;
  for (uint32_t page = 0; page < used.size();) {
    if (!used.test(page)) {
      ++page;
      continue;
    }
    uint32_t count = 1;
    while (count < kRunPages && page + count < used.size() && used.test(page + count)) ++count;
    const Result<void> read = co_await read_run(page, count, true);
    CO_TRY(read);
    page += count;
  }
  co_return Result<void>{};
}

Task<Result<void>> Loader::scan() {
  const uint32_t pages = found_.super.md_len;
  for (uint32_t page = 0; page < pages;) {
    const uint32_t count = std::min(kRunPages, pages - page);
    const Result<void> read = co_await read_run(page, count, false);
    CO_TRY(read);
    page += count;
    if (images_.size() > kPagesMax) co_return Error(Errc::no_memory, "the store's metadata is too large");
  }
  co_return Result<void>{};
}

Task<Result<void>> Loader::replay_journals() {
  if (headers_.empty()) co_return Result<void>{};
  const auto latest = std::max_element(headers_.begin(), headers_.end(),
                                       [](const auto& a, const auto& b) { return a.number < b.number; });
  found_.last_number = latest->number;
  if (!options_.may_write) co_return Result<void>{};
  Journal journal(channel_, geometry_, found_.super, found_.super_page);
  const Result<bool> replayed = co_await journal.replay(*latest);
  CO_TRY(replayed);
  if (*replayed) {
    LOG_INFO("lvol", "device '{}': transaction {} of its store was completed", channel_.device().name(),
             latest->number);
    for (const bs::JournalEntry& entry : latest->entries) {
      if (entry.target == bs::kSuperTarget) continue;
      images_.erase(entry.target);
      const Result<void> read = co_await read_run(entry.target, 1, false);
      CO_TRY(read);
    }
    const Result<void> super = co_await read_super();
    CO_TRY(super);
  }
  // What was in its places may still be in the disk's cache only.
  const IoStatus flushed = co_await barrier(channel_);
  if (!flushed.ok()) co_return io_failed(channel_.device(), "flush", flushed);
  const Result<void> forgotten = co_await journal.forget(found_.journals);
  co_return forgotten;
}

}  // namespace diskengine::lvol
