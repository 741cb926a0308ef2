// Making a store, and wiping one.
#include <fmt/format.h>

#include <algorithm>

#include "lvol/names.h"
#include "lvol/store.h"

namespace diskengine::lvol {
namespace bs = spec::blobstore;
namespace {

constexpr uint64_t kClearBytes = uint64_t{1} << 30;  // in one request
constexpr size_t kZeroBytes = 1024 * 1024;

Result<bs::Super> plan(const Device& disk, const CreateStore& options) {
  const uint32_t cluster = options.cluster_bytes != 0 ? options.cluster_bytes : kDefaultClusterBytes;
  const uint32_t percent = options.md_pages_per_cluster_percent != 0 ? options.md_pages_per_cluster_percent : 100;
  if (options.md_page_bytes != 0 && options.md_page_bytes != bs::kPageBytes)
    return Error(Errc::invalid_argument, fmt::format("metadata pages of {} bytes; only {} are possible",
                                                     options.md_page_bytes, bs::kPageBytes));
  const uint64_t clusters = disk.info().size_bytes() / cluster;
  return bs::lay_out({.device_bytes = disk.info().size_bytes(),
                      .block_bytes = disk.info().block_size,
                      .cluster_bytes = cluster,
                      .md_len = clusters * percent / 100});
}

class Maker {
 public:
  Maker(Channel& channel, const bs::Super& super)
      : channel_(channel),
        super_(super),
        geometry_(Geometry::of(super, channel.device().info().block_size)),
        zeroes_(kZeroBytes) {}

  Task<Result<void>> make(CreateStore options) {
    Result<void> step = co_await clear(options.clear_method);
    CO_TRY(step);
    step = co_await write_super_blob(options);
    CO_TRY(step);
    step = co_await write_masks();
    CO_TRY(step);
    IoStatus status = co_await barrier(channel_);
    if (!status.ok()) co_return io_failed(channel_.device(), "flush", status);
    super_.clean = true;
    super_.super_blob = bs::blob_id_of_page(0);
    bs::Page page{};
    bs::encode_super(super_, page);
    step = co_await write(0, page, true);
    co_return step;
  }

 private:
  Task<Result<void>> write(uint64_t disk_page, const bs::Page& page, bool fua) {
    DmaBuffer buffer(bs::kPageBytes);
    std::copy(page.begin(), page.end(), buffer.data());
    const IoStatus status = co_await write_bytes(channel_, geometry_.lba_of_disk_page(disk_page), buffer.span(), fua);
    if (!status.ok()) co_return io_failed(channel_.device(), "write metadata", status);
    co_return Result<void>{};
  }

  // First of all, whatever store was there is none any more.
  Task<Result<void>> clear(ClearMethod method) {
    Result<void> wiped = co_await Store::wipe(channel_);
    CO_TRY(wiped);
    const uint64_t metadata = geometry_.lba_of_disk_page(uint64_t{super_.md_start} + super_.md_len);
    IoStatus status = co_await zero_blocks(channel_, {.lba = 0, .blocks = metadata}, zeroes_.span());
    if (!status.ok()) co_return io_failed(channel_.device(), "clear the metadata", status);
    const DeviceInfo& info = channel_.device().info();
    const bool zero = method == ClearMethod::write_zeroes;
    if (method == ClearMethod::none || (!zero && !info.can_unmap)) co_return Result<void>{};
    for (uint64_t lba = metadata; lba < info.size_blocks;) {
      const DiskRange range{.lba = lba, .blocks = std::min(info.size_blocks - lba, kClearBytes / info.block_size)};
      status = zero ? co_await zero_blocks(channel_, range, zeroes_.span())
                    : co_await disk_io(channel_, Op::unmap, range, {});
      if (!status.ok()) co_return io_failed(channel_.device(), "clear the clusters", status);
      lba += range.blocks;
    }
    co_return Result<void>{};
  }

  Task<Result<void>> write_super_blob(const CreateStore& options) {
    bs::BlobRecord record;
    record.id = bs::blob_id_of_page(0);
    record.flags.invalid = bs::Flags::kExtentTable;
    record.xattrs = {{"uuid", xattr_text(options.uuid.to_string())}, {"name", xattr_text(options.name)}};
    Result<std::vector<bs::Page>> chain = bs::encode_blob(record);
    CO_TRY(chain);
    DE_ASSERT(chain->size() == 1);
    const uint32_t place = 0;
    bs::link_chain(*chain, {&place, 1});
    const Result<void> written = co_await write(super_.md_start, chain->front(), false);
    co_return written;
  }

  Task<Result<void>> write_masks() {
    Bitmap first(super_.md_len);
    first.set(0);
    Bitmap clusters(super_.total_clusters());
    for (uint32_t i = 0; i < super_.metadata_clusters(); ++i) clusters.set(i);
    Result<void> written = co_await write_mask(bs::MaskType::used_pages, first, super_.used_page_mask);
    CO_TRY(written);
    written = co_await write_mask(bs::MaskType::used_clusters, clusters, super_.used_cluster_mask);
    CO_TRY(written);
    written = co_await write_mask(bs::MaskType::used_blobids, first, super_.used_blobid_mask);
    co_return written;
  }

  Task<Result<void>> write_mask(bs::MaskType type, const Bitmap& bits, bs::PageRange range) {
    DmaBuffer buffer(bs::mask_pages(bits.size()) * bs::kPageBytes);
    bs::encode_mask(type, bits.size(), bits.bytes(), buffer.span());
    const IoStatus status = co_await write_bytes(channel_, geometry_.lba_of_disk_page(range.start), buffer.span());
    if (!status.ok()) co_return io_failed(channel_.device(), "write a mask", status);
    co_return Result<void>{};
  }

  Channel& channel_;
  bs::Super super_;
  Geometry geometry_;
  DmaBuffer zeroes_;
};

}  // namespace

Task<Result<void>> Store::wipe(Channel& channel) {
  DmaBuffer buffer(bs::kPageBytes);
  const IoStatus status = co_await write_bytes(channel, 0, buffer.span(), true);
  if (!status.ok()) co_return io_failed(channel.device(), "overwrite the super block", status);
  co_return Result<void>{};
}

Task<Result<Store::Ptr>> Store::create(Reactor& main, std::shared_ptr<Device> disk, CreateStore options) {
  Result<bs::Super> super = plan(*disk, options);
  if (!super) co_return super.error().with_context(fmt::format("store '{}' on '{}'", options.name, disk->name()));
  Result<std::unique_ptr<Channel>> channel = disk->open_channel(main);
  CO_TRY(channel);
  Maker maker(**channel, *super);
  const Result<void> made = co_await maker.make(std::move(options));
  CO_TRY(made);
  *channel = nullptr;
  Result<Ptr> loaded = co_await load(main, std::move(disk));
  co_return loaded;
}

}  // namespace diskengine::lvol
