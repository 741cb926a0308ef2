#include "raid/control_io.h"

#include <fmt/format.h>

#include <algorithm>

#include "base/checked.h"
#include "runtime/dma_buffer.h"

namespace diskengine::raid {
namespace {

struct AwaitedRequest : Request {
  explicit AwaitedRequest(Reactor& reactor) : answered(reactor) {
    done = [](Request& request) noexcept { static_cast<AwaitedRequest&>(request).answered.set(request.status); };
  }
  OneShot<IoStatus> answered;
  iovec piece{};
};

Error failed(const Channel& channel, const char* what, IoStatus status) {
  return Error(Errc::io_error, fmt::format("cannot {} the RAID superblock of '{}': {}", what, channel.device().name(),
                                           name_of(status.code)));
}

}  // namespace

Task<IoStatus> control_io(Channel& channel, Op op, uint64_t lba, std::span<uint8_t> payload, bool fua) {
  AwaitedRequest request(channel.reactor());
  request.op = op;
  request.fua = fua;
  request.lba = lba;
  request.blocks = payload.size() / channel.device().info().block_size;
  request.piece = {payload.data(), payload.size()};
  if (!payload.empty()) request.iov = {&request.piece, 1};
  channel.submit(request);
  const IoStatus status = co_await request.answered;
  co_return status;
}

Task<Result<spec::RaidSuperblock>> load_superblock(Channel& channel) {
  const uint32_t block_size = channel.device().info().block_size;
  const size_t first = round_up(sizeof(spec::RaidSuperblockHeader), block_size);
  if (channel.device().size_blocks() * block_size < spec::kRaidDataOffsetBytes)
    co_return Error(Errc::not_found, "the device is too small for a RAID superblock");
  DmaBuffer buffer(round_up(spec::kRaidSuperblockBytesMax, DmaBuffer::kAlignment));
  IoStatus status = co_await control_io(channel, Op::read, 0, buffer.span().first(first), false);
  if (!status.ok()) co_return failed(channel, "read", status);
  Result<size_t> length = spec::raid_superblock_length(buffer.span().first(first));
  CO_TRY(length);
  const size_t all = round_up(*length, block_size);
  if (all > first) {
    const std::span<uint8_t> rest = buffer.span().subspan(first, all - first);
    status = co_await control_io(channel, Op::read, first / block_size, rest, false);
    if (!status.ok()) co_return failed(channel, "read", status);
  }
  Result<spec::RaidSuperblock> decoded = spec::decode_raid_superblock(buffer.span().first(all));
  if (!decoded) co_return decoded.error().with_context("device '" + channel.device().name() + "'");
  co_return decoded;
}

Task<Result<void>> store_superblock(Channel& channel, std::vector<uint8_t> bytes) {
  DmaBuffer buffer(round_up(bytes.size(), DmaBuffer::kAlignment));
  std::copy(bytes.begin(), bytes.end(), buffer.data());
  const size_t length = round_up(bytes.size(), channel.device().info().block_size);
  const IoStatus status = co_await control_io(channel, Op::write, 0, buffer.span().first(length), true);
  if (!status.ok()) co_return failed(channel, "write", status);
  co_return Result<void>{};
}

void close_when_idle(std::unique_ptr<Channel> channel) {
  if (channel == nullptr) return;
  auto held = std::make_shared<std::unique_ptr<Channel>>(std::move(channel));
  (*held)->when_idle([held] { held->reset(); });
}

}  // namespace diskengine::raid
