// Filling a cluster that was just reserved: the payload of the write, and around it what the lvol shows there.
#include <algorithm>

#include "base/checked.h"
#include "lvol/join.h"
#include "lvol/lvol_channel.h"
#include "lvol/provisioner.h"
#include "lvol/store.h"

namespace diskengine::lvol {

DmaBuffer Provisioner::take_buffer() {
  if (buffers_.empty()) return DmaBuffer(kCopyBytes);
  DmaBuffer buffer = std::move(buffers_.back());
  buffers_.pop_back();
  return buffer;
}

void Provisioner::give_buffer(DmaBuffer buffer) {
  if (buffers_.size() < kCopyBuffersKept) buffers_.push_back(std::move(buffer));
}

Task<IoStatus> Provisioner::fill(const Work& work, uint32_t cluster) {
  const Geometry& geometry = store_.geometry();
  Piece* piece = work.first;
  const uint64_t units = geometry.units_per_cluster;
  const uint64_t from = piece == nullptr ? units : piece->offset;
  const uint64_t to = piece == nullptr ? units : piece->offset + piece->units;
  const Source::Kind before = source_of(*work.blob, work.cluster).kind;
  if (piece != nullptr)
    piece->copied = (before == Source::Kind::cluster || before == Source::Kind::outside) && (from > 0 || to < units);
  const bool writes = piece != nullptr && piece->what == Op::write;
  IoJoin join(store_.main());
  if (from > 0) join.add(fill_range(*work.blob, work.cluster, cluster, 0, from));
  if (to < units) join.add(fill_range(*work.blob, work.cluster, cluster, to, units - to));
  const DiskRange own{.lba = geometry.lba_in_cluster(cluster, from), .blocks = (to - from) * geometry.disk_per_unit};
  if (writes) {
    join.add(disk_io(store_.channel(), Op::write, own, piece->payload));
  } else if (piece != nullptr) {
    join.add(zero_blocks(store_.channel(), own, store_.zeroes()));
  }
  OneShot<IoStatus>& all = join.wait();
  const IoStatus status = co_await all;
  co_return status;
}

// Blocks [from, from + units) of a cluster, as they are seen now, to the cluster at `where`.
Task<IoStatus> Provisioner::fill_range(const Blob& blob, uint64_t cluster, uint32_t where, uint64_t from,
                                       uint64_t units) {
  const Geometry& geometry = store_.geometry();
  const uint64_t lba = geometry.lba_in_cluster(where, from);
  const Source source = source_of(blob, cluster);
  IoStatus status;
  switch (source.kind) {
    case Source::Kind::zeroes:
      status = co_await zero_blocks(store_.channel(), {.lba = lba, .blocks = units * geometry.disk_per_unit},
                                    store_.zeroes());
      break;
    case Source::Kind::cluster:
      status = co_await copy(store_.channel(), geometry.lba_in_cluster(source.cluster, from), lba,
                             units * geometry.unit_bytes);
      break;
    case Source::Kind::outside:
      status = co_await copy_outside(blob, cluster * geometry.units_per_cluster + from, lba, units);
      break;
    case Source::Kind::busy:  // parents are read-only: none of their clusters is ever given up
      status = IoStatus::error(IoCode::io_error);
      break;
  }
  co_return status;
}

Task<IoStatus> Provisioner::copy(Channel& from, uint64_t from_lba, uint64_t to_lba, uint64_t bytes) {
  DmaBuffer buffer = take_buffer();
  IoStatus status;
  const uint32_t from_block = from.device().info().block_size;
  const uint32_t to_block = store_.channel().device().info().block_size;
  while (bytes > 0 && status.ok()) {
    const std::span<uint8_t> part = buffer.span().first(std::min<uint64_t>(bytes, kCopyBytes));
    status = co_await read_bytes(from, from_lba, part);
    if (!status.ok()) break;
    status = co_await write_bytes(store_.channel(), to_lba, part);
    from_lba += part.size() / from_block;
    to_lba += part.size() / to_block;
    bytes -= part.size();
  }
  give_buffer(std::move(buffer));
  co_return status;
}

// From block `at` of the lvol on, of the outside device at the bottom; zeroes beyond its end.
Task<IoStatus> Provisioner::copy_outside(const Blob& blob, uint64_t at, uint64_t to_lba, uint64_t units) {
  const Geometry& geometry = store_.geometry();
  const std::shared_ptr<Device> device = blob.bottom().esnap.get();
  if (device == nullptr) co_return IoStatus::error(IoCode::disconnected);
  Result<std::unique_ptr<Channel>> opened = device->open_channel(store_.main());
  if (!opened) co_return IoStatus::error(IoCode::disconnected);
  const std::unique_ptr<Channel> channel = std::move(opened).value();
  const uint64_t end = device->info().size_bytes() / geometry.unit_bytes;
  const uint64_t there = at < end ? std::min(units, end - at) : 0;
  IoStatus status;
  if (there > 0)
    status = co_await copy(*channel, at * (geometry.unit_bytes / device->info().block_size), to_lba,
                           there * geometry.unit_bytes);
  if (status.ok() && there < units)
    status = co_await zero_blocks(
        store_.channel(),
        {.lba = to_lba + there * geometry.disk_per_unit, .blocks = (units - there) * geometry.disk_per_unit},
        store_.zeroes());
  co_return status;
}

}  // namespace diskengine::lvol
