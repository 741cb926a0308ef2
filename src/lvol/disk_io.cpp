#include "lvol/disk_io.h"

#include <fmt/format.h>

#include <algorithm>

namespace diskengine::lvol {
namespace {

struct AwaitedRequest : Request {
  explicit AwaitedRequest(Reactor& reactor) : answered(reactor) {
    done = [](Request& request) noexcept { static_cast<AwaitedRequest&>(request).answered.set(request.status); };
  }
  OneShot<IoStatus> answered;
};

uint64_t longest(const Channel& channel, uint64_t blocks) noexcept {
  const uint32_t most = channel.device().info().max_transfer_blocks;
  return most == 0 ? blocks : std::min<uint64_t>(most, blocks);
}

// As long as the kernel and the devices below take in one piece without splitting it themselves.
constexpr uint64_t kPieceBytes = 1024 * 1024;

Task<IoStatus> transfer(Channel& channel, Op op, uint64_t lba, std::span<uint8_t> bytes, bool fua) {
  const uint32_t block_size = channel.device().info().block_size;
  DE_ASSERT(bytes.size() % block_size == 0);
  while (!bytes.empty()) {
    const uint64_t blocks = longest(channel, std::min<uint64_t>(bytes.size(), kPieceBytes) / block_size);
    const iovec piece{bytes.data(), blocks * block_size};
    const IoStatus status =
        co_await disk_io(channel, op, {.lba = lba, .blocks = blocks}, std::span<const iovec>(&piece, 1), fua);
    if (!status.ok()) co_return status;
    lba += blocks;
    bytes = bytes.subspan(blocks * block_size);
  }
  co_return IoStatus::success();
}

}  // namespace

Task<IoStatus> disk_io(Channel& channel, Op op, DiskRange range, std::span<const iovec> iov, bool fua) {
  AwaitedRequest request(channel.reactor());
  request.op = op;
  request.fua = fua;
  request.may_unmap = op == Op::write_zeroes;
  request.lba = range.lba;
  request.blocks = range.blocks;
  request.iov = iov;
  channel.submit(request);
  const IoStatus status = co_await request.answered;
  co_return status;
}

Task<IoStatus> read_bytes(Channel& channel, uint64_t lba, std::span<uint8_t> bytes) {
  return transfer(channel, Op::read, lba, bytes, false);
}

Task<IoStatus> write_bytes(Channel& channel, uint64_t lba, std::span<const uint8_t> bytes, bool fua) {
  return transfer(channel, Op::write, lba, {const_cast<uint8_t*>(bytes.data()), bytes.size()}, fua);
}

Task<IoStatus> barrier(Channel& channel) {
  if (!channel.device().info().write_cache) co_return IoStatus::success();
  const IoStatus status = co_await disk_io(channel, Op::flush, {}, {});
  co_return status;
}

Task<IoStatus> zero_blocks(Channel& channel, DiskRange range, std::span<const uint8_t> zeroes) {
  const DeviceInfo& info = channel.device().info();
  if (range.blocks == 0) co_return IoStatus::success();
  if (info.can_write_zeroes) {
    const IoStatus status = co_await disk_io(channel, Op::write_zeroes, range, {});
    co_return status;
  }
  while (range.blocks > 0) {
    const uint64_t blocks = std::min<uint64_t>(range.blocks, zeroes.size() / info.block_size);
    const IoStatus status = co_await write_bytes(channel, range.lba, zeroes.first(blocks * info.block_size));
    if (!status.ok()) co_return status;
    range.lba += blocks;
    range.blocks -= blocks;
  }
  co_return IoStatus::success();
}

Error io_failed(const Device& device, const std::string& what, IoStatus status) {
  return Error(Errc::io_error, fmt::format("device '{}': cannot {}: {}", device.name(), what, name_of(status.code)));
}

}  // namespace diskengine::lvol
