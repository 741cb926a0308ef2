// A lvol as the registry lists it (SPDK: lvol bdev): a thin face of the Blob for the layers above.
//
// Threads: as Device. Owner: the registry and its users, by shared_ptr; it keeps its store and blob alive.
#pragma once

#include <memory>

#include "lvol/store.h"

namespace diskengine::lvol {

class LvolDevice final : public Device {
 public:
  static std::shared_ptr<LvolDevice> make(std::shared_ptr<Store> store, std::shared_ptr<Blob> blob);
  LvolDevice(DeviceInfo info, std::shared_ptr<Store> store, std::shared_ptr<Blob> blob)
      : Device(std::move(info)), store_(std::move(store)), blob_(std::move(blob)) {}

  Result<std::unique_ptr<Channel>> open_channel(Reactor& reactor) override;
  std::string driver_specific_json() const override;
  // In an xattr of the lvol.
  uint64_t writer_epoch() const noexcept override { return blob_->writer_epoch; }
  Task<Result<void>> set_writer_epoch(uint64_t epoch) override;
  // Of the store's disk, and of the outside device that it reads through to: what the store knows is durable before a
  // write is acknowledged.
  Uuid cache_instance() const override;
  using Device::set_read_only;
  using Device::set_size_blocks;

  Store& store() const noexcept { return *store_; }
  const std::shared_ptr<Blob>& blob() const noexcept { return blob_; }

 private:
  std::shared_ptr<Store> store_;
  std::shared_ptr<Blob> blob_;
};

}  // namespace diskengine::lvol
