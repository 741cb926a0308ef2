// A disk in this process's memory (SPDK: malloc bdev). It has no cache to lose, so flush and FUA complete at once, and
// loses everything when the process ends.
//
//   Input object: Request. Output object: none, the bytes are copied or lent here. Completion callback:
//   Channel::finish, deferred to later in the same turn.
//
// Threads: any number of channels on any reactors; requests to the same blocks from several reactors at once have no
// defined order, as on any disk.
#pragma once

#include <memory>
#include <string>

#include "block/device.h"
#include "runtime/dma_buffer.h"

namespace diskengine {

class RamDisk final : public Device {
 public:
  struct Options {
    std::string name;
    Uuid uuid{};
    uint32_t block_size = 512;
    uint64_t size_blocks = 0;
  };

  // Memory is reserved by the kernel as it is written, in pages of 4 KiB or 2 MiB.
  static Result<std::shared_ptr<RamDisk>> create(Options options);

  Result<std::unique_ptr<Channel>> open_channel(Reactor& reactor) override;
  std::string config_json() const override;

  // The disk's bytes, for its channels and for tests.
  uint8_t* bytes() noexcept { return memory_->data(); }
  // Lent to readers, so it may outlive the disk.
  const std::shared_ptr<DmaBuffer>& memory() const noexcept { return memory_; }

 private:
  RamDisk(DeviceInfo info, DmaBuffer memory)
      : Device(std::move(info)), memory_(std::make_shared<DmaBuffer>(std::move(memory))) {}

  std::shared_ptr<DmaBuffer> memory_;
};

}  // namespace diskengine
