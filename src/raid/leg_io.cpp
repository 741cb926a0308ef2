#include "raid/leg_io.h"

#include <algorithm>

namespace diskengine::raid {

Task<IoStatus> leg_io(LegRef leg, Op op, uint64_t lba, std::span<uint8_t> data) {
  const std::shared_ptr<Volume> volume = leg.slot().volume->shared_from_this();
  const uint64_t block_size = volume->block_size();
  while (!data.empty()) {
    if (!leg.there()) co_return IoStatus::error(IoCode::canceled);
    uint64_t most = LegRef::kPieceBytes / block_size;
    const uint32_t limit = leg.slot().leg->device().info().max_transfer_blocks;
    if (limit != 0) most = std::min<uint64_t>(most, limit);
    const uint64_t blocks = std::min<uint64_t>(most, data.size() / block_size);
    const std::span<uint8_t> piece = data.first(blocks * block_size);
    const IoStatus status = co_await control_io(*leg.slot().control, op, leg.slot().data_offset + lba, piece, false);
    if (!leg.there()) co_return IoStatus::error(IoCode::canceled);
    if (!status.ok()) co_return status;
    lba += blocks;
    data = data.subspan(piece.size());
  }
  co_return IoStatus::success();
}

}  // namespace diskengine::raid
