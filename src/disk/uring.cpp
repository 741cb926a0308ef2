#include "disk/uring.h"

#include <fmt/format.h>

#include <cstring>

#include "base/json_text.h"
#include "base/log.h"
#include "disk/discard_thread.h"
#include "disk/uring_channel.h"

namespace diskengine {

UringDisk::UringDisk(DeviceInfo info, Options options, Backing backing)
    : Device(std::move(info)), options_(std::move(options)), backing_(std::move(backing)) {
  if (backing_.is_block_device() && backing_.can_unmap()) discards_ = std::make_unique<DiscardThread>(backing_.fd());
}

UringDisk::~UringDisk() = default;

Result<std::shared_ptr<UringDisk>> UringDisk::create(const Options& options) {
  Result<Backing> opened =
      Backing::open({.path = options.path, .block_size = options.block_size, .read_only = options.read_only});
  if (!opened) return opened.error().with_context(fmt::format("disk '{}'", options.name));
  Backing backing = std::move(*opened);
  if (!backing.direct())
    LOG_INFO("disk", "disk '{}' on '{}' goes through the page cache: {}", options.name, options.path,
             backing.buffered_because());
  DeviceInfo info;
  info.name = options.name;
  info.product_name = options.flavour == Flavour::aio ? "AIO disk" : "URING bdev";
  info.layer = trace::Layer::disk;
  info.uuid = options.uuid;
  info.block_size = backing.block_size();
  info.size_blocks = backing.size_bytes() / backing.block_size();
  info.write_cache = backing.volatile_cache() && !backing.read_only();
  info.read_only = backing.read_only();
  info.can_unmap = backing.can_unmap();
  info.can_write_zeroes = !backing.read_only();
  info.can_compare = true;
  info.buffer_align = backing.memory_align();
  return std::shared_ptr<UringDisk>(new UringDisk(std::move(info), options, std::move(backing)));
}

Task<Result<std::shared_ptr<UringDisk>>> UringDisk::create_when_let_go(Reactor& main, Options options) {
  const uint64_t deadline_ns = main.now_ns() + kLetGoMaxNs;
  for (;;) {
    Result<std::shared_ptr<UringDisk>> disk = create(options);
    if (disk || disk.error().code() != Errc::would_block) co_return disk;
    if (main.now_ns() >= deadline_ns) co_return Error(Errc::busy, disk.error().message());
    co_await sleep_for(main, kLetGoStepNs);
  }
}

Result<std::unique_ptr<Channel>> UringDisk::open_channel(Reactor& reactor) {
  if (!reactor.has_ring())
    return Error(Errc::not_supported, fmt::format("disk '{}' needs a reactor with io_uring", name()));
  return std::unique_ptr<Channel>(
      std::make_unique<UringChannel>(std::static_pointer_cast<UringDisk>(shared_from_this()), reactor));
}

Result<void> UringDisk::rescan() {
  TRY_ASSIGN(const uint64_t bytes, backing_.current_size_bytes());
  const uint64_t blocks = bytes / info().block_size;
  if (blocks == 0)
    return Error(Errc::invalid_argument, fmt::format("disk '{}': '{}' has shrunk to {} bytes, less than one block",
                                                     name(), options_.path, bytes));
  if (blocks == info().size_blocks) return {};
  if (blocks < info().size_blocks && !claimed_by().empty())
    return Error(Errc::busy, fmt::format("disk '{}': '{}' has shrunk from {} to {} blocks while claimed by {}", name(),
                                         options_.path, info().size_blocks, blocks, claimed_by()));
  set_size_blocks(blocks);
  return {};
}

std::string UringDisk::driver_specific_json() const {
  return fmt::format(R"({{"{}":{{"filename":{},"readonly":{},"direct_io":{}}}}})",
                     options_.flavour == Flavour::aio ? "aio" : "uring", json_quote(options_.path),
                     backing_.read_only(), backing_.direct());
}

std::string UringDisk::config_json() const {
  return fmt::format(
      R"({{"method":"bdev_{}_create","params":{{"name":{},"filename":{},"block_size":{},"uuid":"{}"{}}}}})",
      options_.flavour == Flavour::aio ? "aio" : "uring", json_quote(name()), json_quote(options_.path),
      info().block_size, info().uuid.to_string(), backing_.read_only() ? R"(,"readonly":true)" : "");
}

void UringDisk::note_failure(Op op, uint64_t lba, int positive_errno) noexcept {
  if (failure_noted_.exchange(true, std::memory_order_relaxed)) return;
  LOG_ERROR("disk", "disk '{}': {} at block {} of '{}' failed: {}; later failures are only counted", name(),
            name_of(op), lba, options_.path, std::strerror(positive_errno));
}

}  // namespace diskengine
