#include <gtest/gtest.h>

#include <cstring>

#include "block/decorators/delay.h"
#include "block/decorators/error.h"

namespace diskengine {
namespace {

constexpr uint64_t kBlocks = 64;
constexpr uint64_t kUs = 1000;

// Keeps bytes; completes at once.
class MemoryDevice final : public Device {
 public:
  explicit MemoryDevice(std::string device_name) : Device(make_info(std::move(device_name))), bytes(kBlocks * 512) {}
  using Device::set_size_blocks;

  Result<std::unique_ptr<Channel>> open_channel(Reactor& reactor) override {
    return std::unique_ptr<Channel>(
        std::make_unique<MemoryChannel>(std::static_pointer_cast<MemoryDevice>(shared_from_this()), reactor));
  }
  std::vector<uint8_t> bytes;

 private:
  class MemoryChannel final : public Channel {
   public:
    MemoryChannel(std::shared_ptr<MemoryDevice> d, Reactor& r) : Channel(d, r), memory_(*d) {}

   private:
    void start(Request& request) noexcept override {
      uint8_t* at = memory_.bytes.data() + request.lba * 512;
      for (const iovec& piece : request.iov) {
        if (request.op == Op::write) std::memcpy(at, piece.iov_base, piece.iov_len);
        if (request.op == Op::read) std::memcpy(piece.iov_base, at, piece.iov_len);
        at += piece.iov_len;
      }
      finish(request, IoStatus::success());
    }
    MemoryDevice& memory_;
  };

  static DeviceInfo make_info(std::string device_name) {
    DeviceInfo info;
    info.name = std::move(device_name);
    info.size_blocks = kBlocks;
    info.can_unmap = true;
    return info;
  }
};

struct Io : Request {
  Io(Op o, uint64_t at, uint64_t count) : payload(count * 512) {
    op = o;
    lba = at;
    blocks = count;
    const size_t half = payload.size() / 2;
    pieces[0] = {payload.data(), half};
    pieces[1] = {payload.data() + half, half};
    iov = pieces;
    done = [](Request& r) noexcept { static_cast<Io&>(r).completed = true; };
  }
  std::vector<uint8_t> payload;
  iovec pieces[2];
  bool completed = false;
};

class DecoratorTest : public testing::Test {
 protected:
  DecoratorTest() { EXPECT_TRUE(registry.add(base)); }
  template <typename Disk>
  std::shared_ptr<Disk> open(Result<std::shared_ptr<Disk>> made) {
    EXPECT_TRUE(made) << made.error().message();
    EXPECT_TRUE(registry.add(*made));
    channel = (*made)->open_channel(reactor).value();
    return *made;
  }
  std::shared_ptr<ErrorDisk> open_error() { return open(ErrorDisk::create(registry, {.base_name = "base"})); }
  std::shared_ptr<DelayDisk> open_delay(std::array<uint64_t, 4> latency_us) {
    return open(
        DelayDisk::create(registry, {.name = "slow", .base_name = "base", .latency_us = latency_us, .seed = 1}));
  }
  void turns(int count = 4) {
    for (int i = 0; i < count; ++i) reactor.turn();
  }
  void remove(const std::string& device_name) {
    spawn<Result<void>>(registry.remove(device_name, 1'000'000));
    clock.advance_ns(10'000'000);
    turns();
  }
  IoStatus run(Io& io) {
    channel->submit(io);
    turns();
    EXPECT_TRUE(io.completed);
    return io.status;
  }
  IoCode run(Op op, uint64_t lba = 0) {
    Io io(op, lba, 1);
    return run(io).code;
  }

  ManualClock clock;
  Reactor reactor{{.clock = &clock, .use_ring = false}};
  DeviceRegistry registry{reactor};
  std::shared_ptr<MemoryDevice> base = std::make_shared<MemoryDevice>("base");
  std::unique_ptr<Channel> channel;
};

TEST_F(DecoratorTest, AnErrorDiskWithoutErrorsIsItsBase) {
  auto disk = open_error();
  EXPECT_EQ(disk->name(), "EE_base");
  EXPECT_EQ(base->claimed_by(), "EE_base");
  Io io(Op::write, 5, 2);
  std::memset(io.payload.data(), 7, io.payload.size());
  EXPECT_TRUE(run(io).ok());
  EXPECT_EQ(base->bytes[5 * 512], 7);
  EXPECT_EQ(base->bytes[7 * 512 - 1], 7);
  EXPECT_EQ(ErrorDisk::create(registry, {.base_name = "base"}).error().code(), Errc::busy);
  EXPECT_EQ(ErrorDisk::create(registry, {.base_name = "none"}).error().code(), Errc::no_device);
}

TEST_F(DecoratorTest, AsManyRequestsFailAsWereAskedForAndOnlyOfThatKind) {
  auto disk = open_error();
  disk->inject(Op::write, {.count = 2});
  EXPECT_EQ(run(Op::read), IoCode::ok);
  EXPECT_EQ(run(Op::write), IoCode::io_error);
  EXPECT_EQ(run(Op::write), IoCode::io_error);
  EXPECT_EQ(run(Op::write), IoCode::ok);
  disk->inject(std::nullopt, {.count = 1});
  EXPECT_EQ(run(Op::unmap), IoCode::io_error);
  EXPECT_EQ(run(Op::flush), IoCode::io_error);
  disk->clear();
  EXPECT_EQ(run(Op::read), IoCode::ok);
}

TEST_F(DecoratorTest, AnErrorMayWaitForAQueueDepth) {
  auto disk = open_error();
  disk->inject(Op::write, {.count = 10, .queue_depth = 1});
  Io first(Op::write, 0, 1), second(Op::write, 1, 1);
  channel->submit(first);
  channel->submit(second);
  turns();
  EXPECT_TRUE(first.status.ok());
  EXPECT_EQ(second.status.code, IoCode::io_error);
}

TEST_F(DecoratorTest, AnNvmeStatusIsHandedUpAsInjected) {
  auto disk = open_error();
  disk->inject(Op::read, {.kind = ErrorDisk::Kind::nvme_failure, .nvme_sct = 2, .nvme_sc = 0x81});
  Io io(Op::read, 0, 1);
  const IoStatus status = run(io);
  EXPECT_EQ(status.code, IoCode::io_error);
  EXPECT_EQ(status.nvme_sct, 2);
  EXPECT_EQ(status.nvme_sc, 0x81);
}

TEST_F(DecoratorTest, PendingRequestsGoOnWhenResumed) {
  auto disk = open_error();
  disk->inject(Op::write, {.kind = ErrorDisk::Kind::pending});
  Io io(Op::write, 3, 1);
  io.payload[0] = 9;
  channel->submit(io);
  turns();
  EXPECT_FALSE(io.completed);
  disk->resume_pending();
  turns();
  EXPECT_TRUE(io.completed && io.status.ok());
  EXPECT_EQ(base->bytes[3 * 512], 9);
}

TEST_F(DecoratorTest, PendingRequestsAreCanceledWhenTheDeviceIsRemoved) {
  auto disk = open_error();
  disk->inject(Op::write, {.kind = ErrorDisk::Kind::pending, .count = 2});
  Io io(Op::write, 3, 1), late(Op::write, 4, 1);
  channel->submit(io);
  disk.reset();
  remove("EE_base");
  EXPECT_TRUE(io.completed);
  EXPECT_EQ(io.status.code, IoCode::canceled);
  EXPECT_EQ(run(late).code, IoCode::canceled);
  channel.reset();
  turns();
  EXPECT_EQ(base->claimed_by(), "");
}

TEST_F(DecoratorTest, OneByteOfAWriteIsCorruptedOnTheWayAndNotInTheSubmittersMemory) {
  auto disk = open_error();
  for (const uint64_t offset : {0u, 255u, 256u, 511u}) {
    disk->inject(Op::write, {.kind = ErrorDisk::Kind::corrupt_data, .corrupt_offset = offset, .corrupt_value = 0x0f});
    Io io(Op::write, 0, 1);
    std::memset(io.payload.data(), 0xA0, 512);
    EXPECT_TRUE(run(io).ok());
    for (size_t i = 0; i < 512; ++i) ASSERT_EQ(base->bytes[i], i == offset ? 0xAF : 0xA0) << i << " of " << offset;
    EXPECT_EQ(io.payload, std::vector<uint8_t>(512, 0xA0));
  }
}

TEST_F(DecoratorTest, OneByteOfAReadIsCorruptedInItsBuffer) {
  auto disk = open_error();
  disk->inject(Op::read, {.kind = ErrorDisk::Kind::corrupt_data, .corrupt_offset = 300, .corrupt_value = 1});
  Io io(Op::read, 0, 1);
  EXPECT_TRUE(run(io).ok());
  std::vector<uint8_t> expected(512);
  expected[300] = 1;
  EXPECT_EQ(io.payload, expected);
}

TEST_F(DecoratorTest, RemovingTheBaseRemovesWhatIsOverIt) {
  open_error();
  bool removed = false;
  spawn<Result<void>>(registry.remove("base"), [&](Result<void> r) { removed = r.has_value(); });
  EXPECT_FALSE(registry.find("EE_base"));
  base.reset();
  channel.reset();
  for (int i = 0; i < 4; ++i) {
    clock.advance_ns(2'000'000);
    turns();
  }
  EXPECT_TRUE(removed);
}

TEST_F(DecoratorTest, TheSizeFollowsTheBase) {
  auto disk = open_error();
  base->set_size_blocks(32);
  EXPECT_EQ(disk->size_blocks(), 32u);
  EXPECT_EQ(run(Op::read, 32), IoCode::invalid);
}

TEST_F(DecoratorTest, MoreRequestsThanTheChildPoolHoldsAllComplete) {
  open_error();
  std::vector<std::unique_ptr<Io>> ios;
  for (unsigned i = 0; i < 3 * LayeredChannel::kChildrenMax; ++i) {
    ios.push_back(std::make_unique<Io>(Op::write, i % kBlocks, 1));
    channel->submit(*ios.back());
  }
  turns(10);
  for (const auto& io : ios) EXPECT_TRUE(io->completed && io->status.ok());
}

TEST_F(DecoratorTest, DelayedAnswersComeAtTheirTimeAndNotBefore) {
  open_delay({100, 100, 500, 500});
  Io read(Op::read, 0, 1), write(Op::write, 1, 1), flush(Op::flush, 0, 1);
  for (Io* io : {&read, &write, &flush}) channel->submit(*io);
  turns();
  EXPECT_TRUE(flush.completed);
  EXPECT_FALSE(read.completed || write.completed);
  clock.advance_ns(99 * kUs);
  turns();
  EXPECT_FALSE(read.completed);
  clock.advance_ns(1 * kUs);
  turns();
  EXPECT_TRUE(read.completed);
  EXPECT_FALSE(write.completed);
  clock.advance_ns(400 * kUs);
  turns();
  EXPECT_TRUE(write.completed);
}

TEST_F(DecoratorTest, AboutOneInAHundredTakesTheP99Latency) {
  open_delay({1, 1000, 0, 0});
  constexpr unsigned kReads = 2000;
  std::vector<std::unique_ptr<Io>> ios;
  for (unsigned i = 0; i < kReads; ++i) {
    ios.push_back(std::make_unique<Io>(Op::read, 0, 1));
    channel->submit(*ios.back());
  }
  turns(40);
  clock.advance_ns(2 * kUs);
  turns(40);
  const auto late = std::count_if(ios.begin(), ios.end(), [](const auto& io) { return !io->completed; });
  EXPECT_GE(late, 5);
  EXPECT_LE(late, 60);
  clock.advance_ns(1000 * kUs);
  turns(40);
  EXPECT_TRUE(std::all_of(ios.begin(), ios.end(), [](const auto& io) { return io->completed; }));
}

TEST_F(DecoratorTest, ALatencyCanBeChangedAndIsChecked) {
  auto disk = open_delay({0, 0, 0, 0});
  EXPECT_EQ(run(Op::read), IoCode::ok);
  EXPECT_TRUE(disk->set_latency(DelayDisk::Latency::avg_read, 50));
  EXPECT_TRUE(disk->set_latency(DelayDisk::Latency::p99_read, 50));
  Io io(Op::read, 0, 1);
  channel->submit(io);
  turns();
  EXPECT_FALSE(io.completed);
  clock.advance_ns(50 * kUs);
  turns();
  EXPECT_TRUE(io.completed);
  EXPECT_EQ(disk->set_latency(DelayDisk::Latency::avg_read, DelayDisk::kLatencyMaxUs + 1).error().code(),
            Errc::invalid_argument);
  EXPECT_EQ(DelayDisk::create(registry, {.name = "x", .base_name = "base", .latency_us = {2, 1, 0, 0}}).error().code(),
            Errc::invalid_argument);
}

}  // namespace
}  // namespace diskengine
