#include "lvol/shallow_copy.h"

#include <algorithm>

#include "lvol/operation.h"

namespace diskengine::lvol {
namespace {

constexpr size_t kCopyBytes = 1024 * 1024;

}  // namespace

ShallowCopy::ShallowCopy(uint32_t id, std::shared_ptr<Store> store, std::shared_ptr<Blob> blob,
                         std::shared_ptr<Device> to)
    : store_(std::move(store)), blob_(std::move(blob)), to_(std::move(to)) {
  status_.operation_id = id;
  status_.total_clusters = blob_->map.allocated();
}

void ShallowCopy::start() {
  spawn<Result<void>>(run(), [self = shared_from_this()](Result<void> outcome) {
    if (!outcome) {
      self->status_.error = outcome.error().message();
      self->status_.negative_errno = -errno_of(outcome.error().code());
    }
    self->status_.ended = true;
    self->to_->release();
    self->to_ = nullptr;
    self->blob_ = nullptr;
    self->store_ = nullptr;
  });
}

Task<Result<void>> ShallowCopy::run() {
  Result<Operation> operation = Operation::begin(blob_, "a shallow copy");
  CO_TRY(operation);
  Result<std::unique_ptr<Channel>> opened = to_->open_channel(store_->main());
  CO_TRY(opened);
  const std::unique_ptr<Channel> channel = std::move(opened).value();
  const Geometry& geometry = store_->geometry();
  DmaBuffer buffer(std::min<uint64_t>(kCopyBytes, geometry.cluster_bytes()));
  for (uint64_t cluster = 0; cluster < blob_->map.size(); ++cluster) {
    const uint32_t where = blob_->map.lookup(cluster);
    if (where == ClusterMap::kUnallocated) continue;
    for (uint64_t at = 0; at < geometry.cluster_bytes(); at += buffer.size()) {
      if (stopping_ || store_->stopping() || to_->removed())
        co_return Error(Errc::canceled, "the shallow copy was stopped");
      const std::span<uint8_t> part =
          buffer.span().first(std::min<uint64_t>(buffer.size(), geometry.cluster_bytes() - at));
      IoStatus status =
          co_await read_bytes(store_->channel(), geometry.lba_of_cluster(where) + at / geometry.disk_block_bytes, part);
      if (!status.ok()) co_return io_failed(store_->disk(), "read a cluster", status);
      const uint64_t to = (cluster * geometry.cluster_bytes() + at) / to_->info().block_size;
      status = co_await write_bytes(*channel, to, part);
      if (!status.ok()) co_return io_failed(*to_, "write a cluster", status);
    }
    ++status_.copied_clusters;
  }
  const IoStatus flushed = co_await barrier(*channel);
  if (!flushed.ok()) co_return io_failed(*to_, "flush", flushed);
  co_return Result<void>{};
}

}  // namespace diskengine::lvol
