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

bool LegContents::configured(const Uuid& device) const noexcept {
  if (!superblock) return false;
  return std::any_of(superblock->base_bdevs.begin(), superblock->base_bdevs.end(), [&](const spec::RaidBaseDisk& disk) {
    return disk.uuid == device && disk.state == spec::RaidBaseState::configured;
  });
}

Task<Result<LegContents>> read_leg(Channel& channel) {
  LegContents contents;
  Result<spec::RaidSuperblock> superblock = co_await load_superblock(channel);
  if (!superblock && superblock.error().code() == Errc::not_found) co_return contents;
  CO_TRY(superblock);
  contents.superblock = std::move(superblock).value();
  DmaBuffer buffer(spec::kRaidDirtyLogPageBytes);
  const uint64_t lba = spec::kRaidDirtyLogOffsetBytes / channel.device().info().block_size;
  const IoStatus status = co_await control_io(channel, Op::read, lba, buffer.span(), false);
  if (!status.ok()) co_return failed(channel, "read what follows", status);
  const Result<spec::RaidDirtyLogHeader> header =
      spec::decode_raid_dirty_log_header(spec::RaidDirtyLogPageView(buffer.data(), spec::kRaidDirtyLogPageBytes));
  if (header && header->volume_uuid == contents.superblock->uuid) contents.log = *header;
  contents.log_damaged = !header && header.error().code() != Errc::not_found;
  co_return contents;
}

Task<Result<bool>> is_blank(Channel& channel) {
  const DeviceInfo& info = channel.device().info();
  DmaBuffer buffer(spec::kRaidDirtyLogOffsetBytes);
  const uint64_t blocks = std::min(buffer.span().size() / info.block_size, channel.device().size_blocks());
  uint64_t step = info.max_transfer_blocks == 0 ? blocks : std::min<uint64_t>(blocks, info.max_transfer_blocks);
  for (uint64_t lba = 0; lba < blocks; lba += step) {
    const std::span<uint8_t> piece = buffer.span().first(std::min(step, blocks - lba) * info.block_size);
    const IoStatus status = co_await control_io(channel, Op::read, lba, piece, false);
    if (!status.ok()) co_return failed(channel, "look for", status);
    if (std::any_of(piece.begin(), piece.end(), [](uint8_t byte) { return byte != 0; })) co_return false;
  }
  co_return true;
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
