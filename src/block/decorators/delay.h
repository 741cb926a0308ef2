// A device that answers reads and writes later than its base does (SPDK: delay bdev, bdev_delay_*): most by the average
// latency, one in a hundred, at random, by the p99 latency.
//
//   Input object: Request. Output object: a child Request for the base. Completion callback: base_done(), which holds
//   the answer until its time.
//
// Threads: set_latency() on the main reactor; it holds for requests that the base answers from then on.
#pragma once

#include <array>
#include <atomic>
#include <memory>
#include <string>

#include "block/decorators/layered.h"
#include "runtime/random.h"

namespace diskengine {

class DelayDisk final : public LayeredDevice {
 public:
  enum class Latency : uint8_t { avg_read, p99_read, avg_write, p99_write };
  static constexpr size_t kLatencies = 4;
  static constexpr uint64_t kLatencyMaxUs = 3'600'000'000;  // an hour

  struct Options {
    std::string name;
    std::string base_name;
    Uuid uuid{};
    std::array<uint64_t, kLatencies> latency_us{};  // by Latency
    uint64_t seed = 0;                              // for the choice of the one in a hundred
  };

  // Claims the base. Errors: no_device, busy, invalid_argument (a p99 below its average, or over kLatencyMaxUs).
  static Result<std::shared_ptr<DelayDisk>> create(DeviceRegistry& registry, const Options& options);

  Result<std::unique_ptr<Channel>> open_channel(Reactor& reactor) override;
  std::string driver_specific_json() const override;
  std::string config_json() const override;

  // Microseconds. Errc::invalid_argument over kLatencyMaxUs.
  Result<void> set_latency(Latency which, uint64_t latency_us);
  uint64_t latency_us(Latency which) const noexcept {
    return latency_us_[static_cast<size_t>(which)].load(std::memory_order_relaxed);
  }

 private:
  class DelayChannel;
  DelayDisk(DeviceInfo info, std::shared_ptr<Device> base, DeviceRegistry& registry, const Options& options);
  std::string parameters_json() const;

  std::array<std::atomic<uint64_t>, kLatencies> latency_us_;
  Random seeds_;
};

}  // namespace diskengine
