// A disk in a file or on a block device, reached through the reactor's io_uring (SPDK: uring and aio bdevs).
//
//   Input object: Request. Output object: one io_uring operation at a time for each request (IoOp, in the request's
//   context area). Completion callback: IoOp::on_completion, then Channel::finish.
//
// What is promised: a completed flush, FUA write or FUA write-zeroes is on the medium (fdatasync, RWF_DSYNC). Buffers
// of any alignment are accepted; those that direct I/O cannot take are copied through a bounded pool of the channel.
// The file is held exclusively while the disk exists.
//
// Threads: devices on the main reactor, channels on their reactors. Owner: the registry. Limits: kInFlightMax
// operations and kBounceBuffers buffers of kBounceBytes for each channel; requests beyond wait in order.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <string>

#include "block/device.h"
#include "disk/backing.h"
#include "runtime/task.h"

namespace diskengine {

class DiscardThread;

class UringDisk final : public Device {
 public:
  static constexpr unsigned kInFlightMax = 256;
  static constexpr unsigned kBounceBuffers = 16;
  static constexpr size_t kBounceBytes = 128 * 1024;
  static constexpr uint64_t kLetGoMaxNs = 3'000'000'000;
  static constexpr uint64_t kLetGoStepNs = 10'000'000;

  // Under which of SPDK's two names the disk was asked for; they differ in what bdev_get_bdevs shows.
  enum class Flavour { uring, aio };

  struct Options {
    std::string name;
    std::string path;
    Uuid uuid{};
    uint32_t block_size = 0;  // 512 or 4096; 0: the device's own, 512 for files
    bool read_only = false;
    Flavour flavour = Flavour::uring;
  };

  // Opens and holds the file. Errors as Backing::open.
  static Result<std::shared_ptr<UringDisk>> create(const Options& options);
  // The same, but waits up to kLetGoMaxNs for the kernel to let go of a file whose holder was killed: a data plane that
  // is restarted at once finds its disks. Then the error is busy. On the main reactor.
  static Task<Result<std::shared_ptr<UringDisk>>> create_when_let_go(Reactor& main, Options options);
  ~UringDisk() override;

  // Fails with not_supported on a reactor without io_uring.
  Result<std::unique_ptr<Channel>> open_channel(Reactor& reactor) override;
  std::string driver_specific_json() const override;
  std::string config_json() const override;
  Uuid cache_instance() const override { return info().write_cache ? backing_.cache_instance() : kNothingCached; }

  // Takes over the file's new size. Main reactor. Fails with busy if a claimed disk would shrink, and with
  // invalid_argument if not a whole block is left.
  Result<void> rescan();

  const Backing& backing() const noexcept { return backing_; }
  Flavour flavour() const noexcept { return options_.flavour; }
  const std::string& path() const noexcept { return options_.path; }

  // For channels, any reactor.
  // fallocate(FALLOC_FL_ZERO_RANGE) was refused once: zeroes are written from now on.
  std::atomic<bool>& zero_range_refused() noexcept { return zero_range_refused_; }
  DiscardThread* discards() noexcept { return discards_.get(); }
  // Logs the first failure of this disk; the others are only counted.
  void note_failure(Op op, uint64_t lba, int positive_errno) noexcept;

 private:
  UringDisk(DeviceInfo info, Options options, Backing backing);

  Options options_;
  Backing backing_;
  std::atomic<bool> zero_range_refused_{false};
  std::atomic<bool> failure_noted_{false};
  std::unique_ptr<DiscardThread> discards_;  // block devices with discard
};

}  // namespace diskengine
