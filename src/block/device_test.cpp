#include "block/device.h"

#include <gtest/gtest.h>

#include <array>

#include "block/registry.h"

namespace diskengine {
namespace {

// Completes writes inside start(), and keeps reads until told.
class FakeDevice final : public Device {
 public:
  using Device::Device;
  using Device::set_size_blocks;

  class FakeChannel final : public Channel {
   public:
    using Channel::Channel;
    void release_reads() {
      while (!reads.empty()) finish(reads.pop_front(), IoStatus::success());
    }
    List<Request> reads;

   private:
    void start(Request& request) noexcept override {
      if (request.op == Op::read) {
        reads.push_back(request);
      } else {
        finish(request, IoStatus::success());
      }
    }
  };

  Result<std::unique_ptr<Channel>> open_channel(Reactor& reactor) override {
    return std::unique_ptr<Channel>(std::make_unique<FakeChannel>(shared_from_this(), reactor));
  }
};

DeviceInfo fake_info(std::string name) {
  DeviceInfo info;
  info.name = std::move(name);
  info.size_blocks = 100;
  info.max_transfer_blocks = 8;
  return info;
}

struct Submission : Request {
  Submission(Op o, uint64_t at, uint64_t count) : buffer(count * 512) {
    piece = {buffer.data(), buffer.size()};
    op = o;
    lba = at;
    blocks = count;
    iov = {&piece, 1};
    done = [](Request& r) noexcept { static_cast<Submission&>(r).completed = true; };
  }
  std::vector<char> buffer;
  iovec piece;
  bool completed = false;
};

class ChannelTest : public testing::Test {
 protected:
  Reactor reactor{{.use_ring = false}};
  std::shared_ptr<FakeDevice> device = std::make_shared<FakeDevice>(fake_info("fake"));
  std::unique_ptr<Channel> channel = device->open_channel(reactor).value();
};

TEST_F(ChannelTest, ACompletionNeverRunsInsideSubmit) {
  Submission write(Op::write, 0, 1);
  channel->submit(write);
  EXPECT_FALSE(write.completed);
  reactor.turn();
  EXPECT_TRUE(write.completed);
  EXPECT_TRUE(write.status.ok());
}

TEST_F(ChannelTest, BadRequestsFailBeforeTheyReachTheDevice) {
  const auto status_of = [&](Submission& request) {
    channel->submit(request);
    reactor.turn();
    EXPECT_TRUE(request.completed);
    return request.status.code;
  };
  Submission past_end(Op::write, 100, 1), across_end(Op::read, 99, 2), wraps(Op::write, UINT64_MAX, 1);
  Submission empty(Op::write, 0, 0), too_long(Op::write, 0, 9), unmap(Op::unmap, 0, 1), short_iov(Op::write, 0, 2);
  short_iov.piece.iov_len = 512;
  EXPECT_EQ(status_of(past_end), IoCode::invalid);
  EXPECT_EQ(status_of(across_end), IoCode::invalid);
  EXPECT_EQ(status_of(wraps), IoCode::invalid);
  EXPECT_EQ(status_of(empty), IoCode::invalid);
  EXPECT_EQ(status_of(too_long), IoCode::invalid);
  EXPECT_EQ(status_of(unmap), IoCode::not_supported);
  EXPECT_EQ(status_of(short_iov), IoCode::invalid);
}

TEST_F(ChannelTest, IdleWaitersRunAfterTheLastCompletion) {
  Submission read(Op::read, 0, 1);
  channel->submit(read);
  bool idle = false;
  channel->when_idle([&] { idle = true; });
  reactor.turn();
  EXPECT_FALSE(idle);
  static_cast<FakeDevice::FakeChannel&>(*channel).release_reads();
  reactor.turn();
  EXPECT_TRUE(idle);
}

TEST_F(ChannelTest, StatisticsAddUpOverOpenAndClosedChannels) {
  Submission first(Op::write, 0, 2), second(Op::write, 0, 1);
  channel->submit(first);
  reactor.turn();
  channel = device->open_channel(reactor).value();
  channel->submit(second);
  reactor.turn();
  IoStats got;
  device->collect_stats(StatsReset::everything, [&](DeviceStats stats) { got = stats.total; });
  reactor.turn();
  EXPECT_EQ(got.ops[static_cast<size_t>(Op::write)].count, 2u);
  EXPECT_EQ(got.ops[static_cast<size_t>(Op::write)].bytes, 3u * 512);
  EXPECT_EQ(got.latency[1].total(), 2u);

  size_t channels = 0;
  device->collect_stats(StatsReset::nothing, [&](DeviceStats stats) {
    got = stats.total;
    channels = stats.channels.size();
  });
  reactor.turn();
  EXPECT_EQ(channels, 1u);
  EXPECT_EQ(got.ops[static_cast<size_t>(Op::write)].count, 0u) << "the first collection reset everything";
  EXPECT_EQ(got.latency[1].total(), 0u);
}

TEST_F(ChannelTest, TheOldestOutstandingRequestIsKnownInWhateverOrderTheyComplete) {
  std::array<Submission, 3> reads{Submission(Op::read, 1, 1), Submission(Op::read, 2, 1), Submission(Op::read, 3, 1)};
  EXPECT_EQ(channel->oldest(), nullptr);
  for (Submission& read : reads) channel->submit(read);
  auto& held = static_cast<FakeDevice::FakeChannel&>(*channel).reads;
  const auto complete = [&](Submission& read) {
    List<Request> others;
    while (!held.empty()) {
      Request& next = held.pop_front();
      if (&next != &read) others.push_back(next);
    }
    held.push_back(read);
    static_cast<FakeDevice::FakeChannel&>(*channel).release_reads();
    held.splice_back(others);
  };
  EXPECT_EQ(channel->oldest(), &reads[0]);
  complete(reads[1]);
  EXPECT_EQ(channel->oldest(), &reads[0]);
  std::vector<Outstanding> found;
  device->collect_outstanding([&](std::vector<Outstanding> all) { found = std::move(all); });
  reactor.turn();
  ASSERT_EQ(found.size(), 1u);
  EXPECT_EQ(found[0].count, 2u);
  EXPECT_EQ(found[0].oldest_lba, 1u);
  complete(reads[0]);
  EXPECT_EQ(channel->oldest(), &reads[2]);
  complete(reads[2]);
  EXPECT_EQ(channel->oldest(), nullptr);
}

TEST(IoStats, ResetsOnlyWhatIsAskedFor) {
  const auto counted = [] {
    IoStats stats;
    stats.ops[0] = {.count = 3, .bytes = 1536, .errors = 1, .ticks = 30, .max_ticks = 20, .min_ticks = 4};
    return stats;
  };
  IoStats extremes = counted();
  extremes.reset(StatsReset::extremes);
  EXPECT_EQ(extremes.ops[0].max_ticks, 0u);
  EXPECT_EQ(extremes.ops[0].min_ticks, UINT64_MAX);
  EXPECT_EQ(extremes.ops[0].count, 3u);
  IoStats errors = counted();
  errors.reset(StatsReset::errors);
  EXPECT_EQ(errors.ops[0].errors, 0u);
  EXPECT_EQ(errors.ops[0].max_ticks, 20u);
  IoStats nothing = counted();
  nothing.reset(StatsReset::nothing);
  EXPECT_EQ(nothing.ops[0].errors, 1u);
}

TEST(Device, HasOneOwnerAtATime) {
  auto device = std::make_shared<FakeDevice>(fake_info("fake"));
  EXPECT_TRUE(device->claim("raid_1"));
  EXPECT_EQ(device->claim("vhost.0").error().message(), "device 'fake' is already claimed by raid_1");
  device->release();
  EXPECT_TRUE(device->claim("vhost.0"));
}

struct Owner final : DeviceWatcher {
  explicit Owner(std::shared_ptr<Device> d) : device(std::move(d)) { device->watch(*this); }
  void on_removed(Device&) override {
    device->unwatch(*this);
    told = true;
  }
  std::shared_ptr<Device> device;
  bool told = false;
};

TEST(CacheInstance, OfTwoDevicesIsUnknownIfEitherIsAndChangesWithEither) {
  const Uuid a = Uuid::from_name("a"), b = Uuid::from_name("b");
  EXPECT_TRUE(join_cache_instances(a, {}).is_nil());
  EXPECT_TRUE(join_cache_instances({}, kNothingCached).is_nil());
  EXPECT_EQ(join_cache_instances(a, a), a);
  EXPECT_EQ(join_cache_instances(a, kNothingCached), a);
  EXPECT_EQ(join_cache_instances(kNothingCached, b), b);
  EXPECT_EQ(join_cache_instances(a, b), join_cache_instances(a, b));
  EXPECT_NE(join_cache_instances(a, b), join_cache_instances(a, Uuid::from_name("c")));
  EXPECT_NE(join_cache_instances(a, b), join_cache_instances(Uuid::from_name("c"), b));
}

TEST(DeviceRegistry, NamesAliasesAndUuidsAreOneNamespace) {
  Reactor reactor({.use_ring = false});
  DeviceRegistry registry(reactor);
  DeviceInfo info = fake_info("a");
  info.aliases = {"lvs/a"};
  info.uuid = Uuid::from_random(1, 2);
  ASSERT_TRUE(registry.add(std::make_shared<FakeDevice>(info)));
  EXPECT_TRUE(registry.find("lvs/a"));
  EXPECT_TRUE(registry.find(info.uuid.to_string()));
  EXPECT_EQ(registry.find("b").error().code(), Errc::no_device);
  EXPECT_EQ(registry.add(std::make_shared<FakeDevice>(fake_info("lvs/a"))).error().code(), Errc::already_exists);
}

TEST(DeviceRegistry, AnAliasIsReplaced) {
  Reactor reactor({.use_ring = false});
  DeviceRegistry registry(reactor);
  DeviceInfo info = fake_info("a");
  info.aliases = {"lvs/a"};
  ASSERT_TRUE(registry.add(std::make_shared<FakeDevice>(info)));
  ASSERT_TRUE(registry.add(std::make_shared<FakeDevice>(fake_info("taken"))));
  EXPECT_EQ(registry.replace_alias("a", "lvs/a", "taken").error().code(), Errc::already_exists);
  EXPECT_EQ(registry.replace_alias("b", "lvs/a", "lvs/b").error().code(), Errc::no_device);
  ASSERT_TRUE(registry.replace_alias("a", "lvs/a", "lvs/b"));
  EXPECT_FALSE(registry.find("lvs/a"));
  EXPECT_EQ(registry.find("lvs/b").value()->info().aliases, std::vector<std::string>{"lvs/b"});
}

TEST(DeviceRegistry, RemovalTellsTheOwnerAndWaitsUntilItLetGo) {
  ManualClock clock;
  Reactor reactor({.clock = &clock, .use_ring = false});
  DeviceRegistry registry(reactor);
  ASSERT_TRUE(registry.add(std::make_shared<FakeDevice>(fake_info("a"))));
  Owner owner(registry.find("a").value());
  bool removed = false;
  spawn<Result<void>>(registry.remove("a"), [&](Result<void> r) { removed = r.has_value(); });
  EXPECT_TRUE(owner.told);
  EXPECT_FALSE(registry.find("a"));
  clock.advance_ns(5'000'000);
  reactor.turn();
  EXPECT_FALSE(removed);
  owner.device.reset();
  clock.advance_ns(5'000'000);
  reactor.turn();
  EXPECT_TRUE(removed);
}

}  // namespace
}  // namespace diskengine
