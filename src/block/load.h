// A load on one device from within the process: keeps a number of requests outstanding for a while and says how fast
// they went (what SPDK's bdevperf does).
//
//   Input object: LoadOptions. Output object: Requests to the device's channel. Completion callback: LoadDone, once,
//   with everything drained and the channel closed.
//
// Threads: made, run and destroyed on one reactor. Memory: queue_depth * io_bytes, at most kMemoryMax, allocated before
// the load starts.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <vector>

#include "base/histogram.h"
#include "block/device.h"
#include "runtime/dma_buffer.h"
#include "runtime/random.h"

namespace diskengine {

struct LoadOptions {
  static constexpr uint32_t kQueueDepthMax = 1024;
  static constexpr uint32_t kIoBytesMax = 16 * 1024 * 1024;
  static constexpr uint64_t kDurationMaxNs = 3'600'000'000'000;

  uint32_t read_percent = 100;  // the others are writes
  bool random = true;           // false: ascending, from the start again at the end
  uint32_t queue_depth = 1;
  uint32_t io_bytes = 4096;  // a multiple of the block size
  uint64_t warm_up_ns = 200'000'000;
  uint64_t duration_ns = 1'000'000'000;  // after the warm-up
  uint64_t seed = 1;
};

struct LoadResult {
  uint64_t ios = 0;      // within the duration
  uint64_t all_ios = 0;  // with warm-up and drain
  uint64_t errors = 0;
  IoStatus first_error;
  uint64_t elapsed_ns = 0;
  Histogram latency_ticks{7};  // within the duration
};

class LoadGenerator {
 public:
  using Done = std::function<void(const LoadResult&)>;
  static constexpr uint64_t kMemoryMax = uint64_t{1} << 30;

  // Checks the options against the device. Errors: invalid_argument, and those of open_channel.
  static Result<std::unique_ptr<LoadGenerator>> open(std::shared_ptr<Device> device, Reactor& reactor,
                                                     const LoadOptions& options);
  ~LoadGenerator();

  // `done` may destroy the generator.
  void run(Done done);
  // Ends the load early, for example because the device goes away.
  void stop() noexcept { stopping_ = true; }

 private:
  struct Io final : Request {
    LoadGenerator* load = nullptr;
    iovec piece{};
    uint64_t sent_ticks = 0;
  };

  LoadGenerator(std::unique_ptr<Channel> channel, const LoadOptions& options);
  static void on_done(Request& request) noexcept;
  void send(Io& io, uint64_t now_ticks) noexcept;
  void completed(Io& io) noexcept;
  void finished();

  LoadOptions options_;
  std::unique_ptr<Channel> channel_;
  Reactor& reactor_;
  Random random_;
  uint64_t io_blocks_;
  uint64_t places_;  // how many I/Os fit on the device
  uint64_t next_place_ = 0;
  DmaBuffer memory_;
  std::unique_ptr<Io[]> ios_;
  uint32_t outstanding_ = 0;
  uint64_t measure_from_ns_ = 0;
  uint64_t end_ns_ = 0;
  bool measuring_ = false;
  bool stopping_ = false;
  LoadResult result_;
  Done done_;
};

}  // namespace diskengine
