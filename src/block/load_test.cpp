#include "block/load.h"

#include <gtest/gtest.h>

#include <set>

namespace diskengine {
namespace {

// Answers in the next turn; remembers what it saw.
class RecordingDevice final : public Device {
 public:
  explicit RecordingDevice(uint64_t size_blocks) : Device(make_info(size_blocks)) {}
  Result<std::unique_ptr<Channel>> open_channel(Reactor& reactor) override {
    return std::unique_ptr<Channel>(
        std::make_unique<RecordingChannel>(std::static_pointer_cast<RecordingDevice>(shared_from_this()), reactor));
  }
  std::set<uint64_t> places;
  uint64_t reads = 0, writes = 0, most_outstanding = 0;
  IoStatus answer;

 private:
  class RecordingChannel final : public Channel {
   public:
    RecordingChannel(std::shared_ptr<RecordingDevice> d, Reactor& r) : Channel(d, r), seen_(*d) {}

   private:
    void start(Request& request) noexcept override {
      seen_.places.insert(request.lba);
      ++(request.op == Op::read ? seen_.reads : seen_.writes);
      seen_.most_outstanding = std::max(seen_.most_outstanding, outstanding());
      reactor().post([this, &request] { finish(request, seen_.answer); });
    }
    RecordingDevice& seen_;
  };
  static DeviceInfo make_info(uint64_t size_blocks) {
    DeviceInfo info;
    info.name = "disk";
    info.size_blocks = size_blocks;
    return info;
  }
};

class LoadTest : public testing::Test {
 protected:
  LoadResult run(const LoadOptions& options) {
    std::unique_ptr<LoadGenerator> load = LoadGenerator::open(device, reactor, options).value();
    bool finished = false;
    LoadResult result;
    load->run([&](const LoadResult& r) {
      result = r;
      finished = true;
      load.reset();
    });
    for (int i = 0; i < 10'000 && !finished; ++i) {
      clock.advance_ns(1000);
      reactor.turn();
    }
    EXPECT_TRUE(finished);
    return result;
  }
  ManualClock clock;
  Reactor reactor{{.clock = &clock, .use_ring = false}};
  std::shared_ptr<RecordingDevice> device = std::make_shared<RecordingDevice>(64);
};

TEST_F(LoadTest, KeepsItsQueueDepthForItsTimeAndDrains) {
  const LoadResult result = run({.queue_depth = 4, .warm_up_ns = 50'000, .duration_ns = 100'000});
  EXPECT_EQ(device->most_outstanding, 4u);
  EXPECT_EQ(device->writes, 0u);
  EXPECT_EQ(result.elapsed_ns, 100'000u);
  EXPECT_EQ(result.ios, result.latency_ticks.total());
  EXPECT_NEAR(static_cast<double>(result.ios), 4 * 100, 8);
  EXPECT_GT(result.all_ios, result.ios);
  EXPECT_EQ(result.errors, 0u);
}

TEST_F(LoadTest, GoesOverTheWholeDeviceAndStaysOnIt) {
  run({.read_percent = 50, .random = false, .warm_up_ns = 0, .duration_ns = 100'000});
  EXPECT_EQ(device->places, (std::set<uint64_t>{0, 8, 16, 24, 32, 40, 48, 56}));
  EXPECT_GT(device->reads, 0u);
  EXPECT_GT(device->writes, 0u);
}

TEST_F(LoadTest, EndsAtTheFirstErrorAndReportsIt) {
  device->answer = IoStatus::error(IoCode::disconnected);
  const LoadResult result = run({.queue_depth = 2});
  EXPECT_EQ(result.errors, 2u);
  EXPECT_EQ(result.first_error.code, IoCode::disconnected);
}

TEST_F(LoadTest, RefusesWhatTheDeviceCannotDo) {
  const auto refused = [&](const LoadOptions& options) { return !LoadGenerator::open(device, reactor, options); };
  EXPECT_TRUE(refused({.queue_depth = 0}));
  EXPECT_TRUE(refused({.queue_depth = LoadOptions::kQueueDepthMax + 1}));
  EXPECT_TRUE(refused({.io_bytes = 1000}));
  EXPECT_TRUE(refused({.io_bytes = 65 * 512}));
  EXPECT_FALSE(refused({.io_bytes = 64 * 512}));
}

}  // namespace
}  // namespace diskengine
