// A device that fails, holds or falsifies requests on demand, for tests and drills (SPDK: error bdev, bdev_error_*).
//
//   Input object: Request. Output object: a child Request for the base. Completion callback: base_done().
//
// Threads: inject(), clear() and resume_pending() on the main reactor; what is injected counts over all channels.
#pragma once

#include <array>
#include <atomic>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <vector>

#include "block/decorators/layered.h"

namespace diskengine {

class ErrorDisk final : public LayeredDevice {
 public:
  enum class Kind : uint8_t {
    failure,       // completes with io_error and does not reach the base
    pending,       // is held until resume_pending() or the device's removal
    corrupt_data,  // one byte of the payload is changed on its way
    no_memory,     // as failure, with ENOMEM
    nvme_failure,  // as failure, with an NVMe status
  };
  struct Injection {
    Kind kind = Kind::failure;
    uint32_t count = 1;            // requests to hit
    uint64_t queue_depth = 0;      // only while at least so many others are under way
    uint64_t corrupt_offset = 0;   // in bytes of the payload; beyond it nothing is changed
    uint8_t corrupt_value = 0xff;  // exclusive-or'd in
    uint8_t nvme_sct = 0;
    uint8_t nvme_sc = 0;
  };

  struct Options {
    std::string base_name;
    Uuid uuid{};
  };

  // "EE_" and the base's name. Claims the base; errors: no_device, busy.
  static Result<std::shared_ptr<ErrorDisk>> create(DeviceRegistry& registry, const Options& options);

  Result<std::unique_ptr<Channel>> open_channel(Reactor& reactor) override;
  std::string driver_specific_json() const override;
  std::string config_json() const override;
  void on_remove() override;

  // For one kind of request, or all (nullopt).
  void inject(std::optional<Op> op, const Injection& injection) noexcept;
  // No more errors; what is pending stays so.
  void clear() noexcept;
  // Lets the held requests go on to the base.
  void resume_pending();

 private:
  class ErrorChannel;
  struct Armed {
    std::atomic<uint32_t> remaining{0};
    std::atomic<Kind> kind{Kind::failure};
    std::atomic<uint64_t> queue_depth{0};
    std::atomic<uint64_t> corrupt_offset{0};
    std::atomic<uint8_t> corrupt_value{0};
    std::atomic<uint8_t> nvme_sct{0};
    std::atomic<uint8_t> nvme_sc{0};
  };

  ErrorDisk(DeviceInfo info, std::shared_ptr<Device> base, DeviceRegistry& registry)
      : LayeredDevice(std::move(info), std::move(base), registry) {}
  Armed& armed(Op op) noexcept { return armed_[static_cast<size_t>(op)]; }
  bool has(ErrorChannel& channel);
  // Runs `resume` or the failing of what is held on every channel's reactor.
  void settle_pending(bool resume);

  std::array<Armed, kOps> armed_;
  std::mutex mutex_;  // guards channels_
  std::vector<ErrorChannel*> channels_;
};

}  // namespace diskengine
