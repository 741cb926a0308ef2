#include "disk/ram.h"

#include <fmt/format.h>

#include <cstring>

#include "base/checked.h"

namespace diskengine {
namespace {

class RamChannel final : public Channel {
 public:
  RamChannel(std::shared_ptr<RamDisk> disk, Reactor& reactor) : Channel(disk, reactor), disk_(*disk) {}

 private:
  void start(Request& request) noexcept override {
    const uint64_t block_size = disk_.info().block_size;
    uint8_t* at = disk_.bytes() + request.lba * block_size;
    IoStatus status;
    switch (request.op) {
      case Op::read:
        if (request.may_lend) {
          request.loan = {disk_.memory(), at};
          break;
        }
        for (const iovec& piece : request.iov) {
          std::memcpy(piece.iov_base, at, piece.iov_len);
          at += piece.iov_len;
        }
        break;
      case Op::write:
        for (const iovec& piece : request.iov) {
          std::memcpy(at, piece.iov_base, piece.iov_len);
          at += piece.iov_len;
        }
        break;
      case Op::compare:
        for (const iovec& piece : request.iov) {
          if (std::memcmp(at, piece.iov_base, piece.iov_len) != 0) status = IoStatus::error(IoCode::miscompare);
          at += piece.iov_len;
        }
        break;
      case Op::unmap:
      case Op::write_zeroes:
        std::memset(at, 0, request.blocks * block_size);
        break;
      case Op::flush:
        break;
    }
    finish(request, status);
  }

  RamDisk& disk_;
};

}  // namespace

Result<std::shared_ptr<RamDisk>> RamDisk::create(Options options) {
  constexpr uint64_t kBytesMax = uint64_t{1} << 46;
  uint64_t bytes = 0;
  if (options.block_size != 512 && options.block_size != 4096)
    return Error(Errc::invalid_argument,
                 fmt::format("ram disk '{}': block size {} is not 512 or 4096", options.name, options.block_size));
  if (options.size_blocks == 0 || !checked_mul<uint64_t>(options.size_blocks, options.block_size, &bytes) ||
      bytes > kBytesMax)
    return Error(Errc::invalid_argument,
                 fmt::format("ram disk '{}': {} blocks is not a size between 1 block and 64 TiB", options.name,
                             options.size_blocks));
  TRY_ASSIGN(DmaBuffer memory, DmaBuffer::allocate(bytes));
  DeviceInfo info;
  info.name = std::move(options.name);
  info.product_name = "Malloc disk";
  info.layer = trace::Layer::disk;
  info.uuid = options.uuid;
  info.block_size = options.block_size;
  info.size_blocks = options.size_blocks;
  info.can_unmap = info.can_write_zeroes = info.can_compare = true;
  return std::shared_ptr<RamDisk>(new RamDisk(std::move(info), std::move(memory)));
}

Result<std::unique_ptr<Channel>> RamDisk::open_channel(Reactor& reactor) {
  return std::unique_ptr<Channel>(
      std::make_unique<RamChannel>(std::static_pointer_cast<RamDisk>(shared_from_this()), reactor));
}

std::string RamDisk::config_json() const {
  return fmt::format(
      R"({{"method":"bdev_malloc_create","params":{{"name":"{}","num_blocks":{},"block_size":{},"uuid":"{}"}}}})",
      info().name, info().size_blocks, info().block_size, info().uuid.to_string());
}

}  // namespace diskengine
