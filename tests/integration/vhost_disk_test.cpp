// A vhost-user-blk disk as a front end sees it: data, sizes, errors, coming and going of front ends and devices.
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cstring>

#include "vhost/blk_device.h"
#include "vhost_bed.h"

namespace diskengine::vhost {
namespace {

using client::VhostCompletion;
using client::VhostFrontend;
using spec::VirtioBlkType;

struct VhostDisk : testing::Test {
  std::unique_ptr<VhostFrontend> connect(const std::string& name = "vhost.0", bool event_idx = true,
                                         bool indirect = true, unsigned queues = 1) {
    VhostFrontend::Options options;
    options.socket_path = bed.path(name);
    options.event_idx = event_idx;
    options.indirect = indirect;
    options.queues = queues;
    auto disk = VhostFrontend::connect(options);
    EXPECT_TRUE(disk) << disk.error().message();
    return disk ? std::move(*disk) : nullptr;
  }
  // One request with what is at the start of the front end's data; its status.
  static int run(VhostFrontend& disk, VirtioBlkType type, uint64_t sector, uint32_t bytes, unsigned queue = 0) {
    const auto status = disk.run(queue, {.type = type, .sector = sector, .data = disk.data(), .bytes = bytes});
    EXPECT_TRUE(status) << status.error().message();
    return status ? *status : -1;
  }
  static int run_range(VhostFrontend& disk, VirtioBlkType type, uint64_t sector, uint32_t sectors, uint32_t flags = 0) {
    const spec::VirtioBlkRange range{sector, sectors, flags};
    std::memcpy(disk.data(), &range, sizeof range);
    return run(disk, type, 0, sizeof range);
  }
  static void expect_data_round_trip(VhostFrontend& disk, uint64_t sector, uint32_t bytes, uint8_t seed) {
    for (uint32_t i = 0; i < bytes; ++i) disk.data()[i] = static_cast<uint8_t>(seed + i * 7);
    ASSERT_EQ(run(disk, VirtioBlkType::out, sector, bytes), spec::kVirtioBlkOk);
    std::memset(disk.data(), 0, bytes);
    ASSERT_EQ(run(disk, VirtioBlkType::in, sector, bytes), spec::kVirtioBlkOk);
    for (uint32_t i = 0; i < bytes; ++i) ASSERT_EQ(disk.data()[i], static_cast<uint8_t>(seed + i * 7)) << i;
  }

  Bed bed;
};

TEST_F(VhostDisk, WhatIsWrittenIsReadBackWithEveryKindOfRing) {
  auto device = bed.add_disk(disk_info("disk"));
  ASSERT_TRUE(bed.create("vhost.0", "disk"));
  for (const bool event_idx : {false, true}) {
    for (const bool indirect : {false, true}) {
      SCOPED_TRACE(testing::Message() << "event index " << event_idx << ", indirect " << indirect);
      auto disk = connect("vhost.0", event_idx, indirect);
      ASSERT_NE(disk, nullptr);
      EXPECT_EQ(disk->config().capacity, 8192u);
      expect_data_round_trip(*disk, 8, 4096, event_idx ? 1 : 2);
      bed.order();
      EXPECT_EQ(std::memcmp(device->bytes.data() + 8 * 512, disk->data(), 4096), 0);
      expect_data_round_trip(*disk, 100, 1 << 20, 3);
      EXPECT_EQ(run(*disk, VirtioBlkType::flush, 0, 0), spec::kVirtioBlkOk);
      // Long enough for the queue to fall asleep.
      std::this_thread::sleep_for(std::chrono::milliseconds(20));
      expect_data_round_trip(*disk, 0, 512, 4);
      disk.reset();
      ASSERT_TRUE(eventually([&] { return !bed.connected("vhost.0"); }));
    }
  }
}

TEST_F(VhostDisk, ItNamesItselfAndZeroesAndDiscardsRanges) {
  auto device = bed.add_disk(disk_info("a name longer than twenty characters"));
  ASSERT_TRUE(bed.create("vhost.0", "a name longer than twenty characters"));
  auto disk = connect();
  ASSERT_EQ(run(*disk, VirtioBlkType::get_id, 0, 20), spec::kVirtioBlkOk);
  EXPECT_EQ(std::string(reinterpret_cast<char*>(disk->data()), 20), "a name longer than t");
  std::memset(device->bytes.data(), 0xee, device->bytes.size());
  bed.order();
  EXPECT_EQ(run_range(*disk, VirtioBlkType::discard, 8, 8), spec::kVirtioBlkOk);
  EXPECT_EQ(run_range(*disk, VirtioBlkType::write_zeroes, 24, 8, spec::kVirtioBlkRangeUnmap), spec::kVirtioBlkOk);
  bed.order();
  for (const uint64_t sector : {0, 7, 16, 23, 32}) EXPECT_EQ(device->bytes[sector * 512], 0xee) << sector;
  for (const uint64_t sector : {8, 15, 24, 31}) EXPECT_EQ(device->bytes[sector * 512 + 511], 0) << sector;
  EXPECT_EQ(run_range(*disk, VirtioBlkType::discard, 8, 8, 1), spec::kVirtioBlkUnsupp);
  EXPECT_EQ(run_range(*disk, VirtioBlkType::write_zeroes, 8, 8, 2), spec::kVirtioBlkUnsupp);
  EXPECT_EQ(run_range(*disk, VirtioBlkType::discard, 8192, 1), spec::kVirtioBlkIoErr);
  EXPECT_EQ(run_range(*disk, VirtioBlkType::discard, UINT64_MAX, 2), spec::kVirtioBlkIoErr);
  EXPECT_EQ(run(*disk, VirtioBlkType::discard, 0, 32), spec::kVirtioBlkIoErr) << "two ranges";
}

TEST_F(VhostDisk, WrongRequestsFailAloneAndAreCounted) {
  bed.add_disk(disk_info("disk", 4096, 1024));
  ASSERT_TRUE(bed.create("vhost.0", "disk"));
  auto disk = connect();
  EXPECT_EQ(disk->config().blk_size, 4096u);
  EXPECT_EQ(disk->config().capacity, 8192u);
  EXPECT_EQ(run(*disk, VirtioBlkType::in, 1, 4096), spec::kVirtioBlkIoErr) << "start within a block";
  EXPECT_EQ(run(*disk, VirtioBlkType::in, 0, 512), spec::kVirtioBlkIoErr) << "part of a block";
  EXPECT_EQ(run(*disk, VirtioBlkType::out, 0, 4097), spec::kVirtioBlkIoErr);
  EXPECT_EQ(run(*disk, VirtioBlkType::in, 0, 0), spec::kVirtioBlkIoErr) << "no data";
  EXPECT_EQ(run(*disk, static_cast<VirtioBlkType>(77), 0, 0), spec::kVirtioBlkUnsupp);
  EXPECT_EQ(run(*disk, VirtioBlkType::in, 8192, 4096), spec::kVirtioBlkIoErr) << "past the end";
  EXPECT_EQ(run(*disk, VirtioBlkType::in, UINT64_MAX - 7, 4096), spec::kVirtioBlkIoErr);
  EXPECT_EQ(bed.queues("vhost.0")[0].bad_requests, 5u);
  expect_data_round_trip(*disk, 8184, 4096, 9);
}

TEST_F(VhostDisk, AReadOnlyDiskSaysSoAndKeepsItsData) {
  auto device = bed.add_disk(disk_info("disk"));
  ASSERT_TRUE(bed.create("vhost.0", "disk", true));
  auto disk = connect();
  EXPECT_NE(disk->features() >> spec::kVirtioBlkFRo & 1, 0u);
  EXPECT_EQ(disk->features() >> spec::kVirtioBlkFDiscard & 1, 0u);
  std::memset(disk->data(), 0xff, 512);
  EXPECT_EQ(run(*disk, VirtioBlkType::out, 0, 512), spec::kVirtioBlkIoErr);
  EXPECT_EQ(run_range(*disk, VirtioBlkType::discard, 0, 1), spec::kVirtioBlkIoErr);
  EXPECT_EQ(run(*disk, VirtioBlkType::in, 0, 512), spec::kVirtioBlkOk);
  bed.order();
  EXPECT_EQ(device->bytes[0], 0);
}

TEST_F(VhostDisk, TransfersLongerThanTheDeviceTakesGoInParts) {
  DeviceInfo info = disk_info("disk");
  info.max_transfer_blocks = 24;
  auto device = bed.add_disk(info);
  ASSERT_TRUE(bed.create("vhost.0", "disk"));
  auto disk = connect();
  expect_data_round_trip(*disk, 16, 512 * 24, 1);
  expect_data_round_trip(*disk, 16, 512 * 25, 2);
  expect_data_round_trip(*disk, 3, 512 * 1000, 3);
  bed.order();
  EXPECT_EQ(std::memcmp(device->bytes.data() + 3 * 512, disk->data(), 512 * 1000), 0);
  EXPECT_EQ(device->most_blocks, 24u);
}

TEST_F(VhostDisk, ADriverThatKnowsOfNoCacheGetsDurableWrites) {
  DeviceInfo info = disk_info("disk");
  info.write_cache = true;
  auto device = bed.add_disk(info);
  ASSERT_TRUE(bed.create("vhost.0", "disk"));
  auto disk = connect();
  EXPECT_NE(disk->features() >> spec::kVirtioBlkFFlush & 1, 0u);
  expect_data_round_trip(*disk, 0, 512, 1);
  EXPECT_EQ(device->fua_writes, 0);
  ASSERT_TRUE(disk->stop());
  ASSERT_TRUE(disk->socket().send_u64(spec::VhostUserRequest::set_features,
                                      disk->features() & ~(uint64_t{1} << spec::kVirtioBlkFFlush)));
  const uint64_t queue = 0;
  ASSERT_TRUE(disk->socket().send_acknowledged(spec::VhostUserRequest::set_vring_kick, &queue, sizeof queue,
                                               {disk->queue(0).kick_fd()}));
  expect_data_round_trip(*disk, 0, 512, 2);
  EXPECT_EQ(device->fua_writes, 1);
}

TEST_F(VhostDisk, ManyRequestsOnManyQueuesAllComplete) {
  auto device = bed.add_disk(disk_info("disk"));
  ASSERT_TRUE(bed.create("vhost.0", "disk"));
  constexpr unsigned kQueues = 8;
  auto disk = connect("vhost.0", true, true, kQueues);
  unsigned completed = 0;
  for (int round = 0; round < 50; ++round) {
    for (unsigned q = 0; q < kQueues; ++q) {
      for (uint32_t i = 0; i < disk->queue(q).capacity(); ++i)
        ASSERT_TRUE(disk->queue(q).submit(
            {.type = VirtioBlkType::out, .sector = i * 8, .data = disk->data(), .bytes = 4096, .tag = i}));
      EXPECT_FALSE(disk->queue(q).submit({}));
      disk->queue(q).kick();
    }
    for (unsigned q = 0; q < kQueues; ++q) {
      VhostCompletion done[64];
      while (disk->queue(q).outstanding() > 0) {
        ASSERT_TRUE(disk->queue(q).wait(10'000));
        const unsigned count = disk->queue(q).reap(done);
        for (unsigned i = 0; i < count; ++i) EXPECT_EQ(done[i].status, spec::kVirtioBlkOk);
        completed += count;
      }
    }
  }
  EXPECT_EQ(completed, 50 * kQueues * disk->queue(0).capacity());
}

TEST_F(VhostDisk, AFrontEndThatVanishesIsDrainedBeforeTheNextIsServed) {
  auto device = bed.add_disk(disk_info("disk"));
  ASSERT_TRUE(bed.create("vhost.0", "disk"));
  auto first = connect();
  device->hold = true;
  for (uint64_t i = 0; i < 4; ++i)
    first->queue(0).submit({.type = VirtioBlkType::in, .sector = i, .data = first->data() + i * 512, .bytes = 512});
  first->queue(0).kick();
  ASSERT_TRUE(eventually([&] { return device->held == 4; }));
  EXPECT_EQ(bed.queues("vhost.0")[0].outstanding, 4u);
  std::memset(device->bytes.data(), 0x5a, 4 * 512);
  bed.order();
  first->disconnect();
  std::this_thread::sleep_for(std::chrono::milliseconds(20));
  EXPECT_TRUE(bed.connected("vhost.0")) << "its requests are under way";
  EXPECT_EQ(device->held, 4);
  // The next one connects meanwhile and waits.
  std::thread release([&] {
    std::this_thread::sleep_for(std::chrono::milliseconds(100));
    device->hold = false;
  });
  auto second = connect();
  release.join();
  ASSERT_NE(second, nullptr);
  expect_data_round_trip(*second, 0, 512, 1);
  // The data arrived in the first one's memory, and its ring shows it.
  EXPECT_EQ(first->queue(0).used_index(), 4);
  EXPECT_EQ(first->data()[3 * 512], 0x5a);
}

TEST_F(VhostDisk, ASecondFrontEndIsRefusedWhileTheFirstLives) {
  bed.add_disk(disk_info("disk"));
  ASSERT_TRUE(bed.create("vhost.0", "disk"));
  auto first = connect();
  VhostFrontend::Options options;
  options.socket_path = bed.path("vhost.0");
  EXPECT_FALSE(VhostFrontend::connect(options));
  expect_data_round_trip(*first, 0, 512, 1);
}

TEST_F(VhostDisk, AFrontEndThatComesBackWithItsRingsGoesOnWhereItWas) {
  auto device = bed.add_disk(disk_info("disk"));
  ASSERT_TRUE(bed.create("vhost.0", "disk"));
  auto disk = connect();
  for (uint8_t round = 1; round < 5; ++round) {
    expect_data_round_trip(*disk, round, 512, round);
    device->hold = true;
    disk->queue(0).submit({.type = VirtioBlkType::flush, .tag = round});
    disk->queue(0).kick();
    ASSERT_TRUE(eventually([&] { return device->held == 1; }));
    disk->disconnect();
    device->hold = false;
    const auto again = disk->reconnect();
    ASSERT_TRUE(again) << again.error().message();
    VhostCompletion done[4];
    ASSERT_TRUE(disk->queue(0).wait(10'000));
    ASSERT_EQ(disk->queue(0).reap(done), 1u) << "once, not twice";
    EXPECT_EQ(done[0].tag, round);
  }
  expect_data_round_trip(*disk, 77, 4096, 9);
}

TEST_F(VhostDisk, StoppedQueuesStartAgain) {
  bed.add_disk(disk_info("disk"));
  ASSERT_TRUE(bed.create("vhost.0", "disk"));
  auto disk = connect("vhost.0", true, true, 2);
  expect_data_round_trip(*disk, 0, 512, 1);
  ASSERT_TRUE(disk->stop());
  EXPECT_TRUE(bed.queues("vhost.0").empty());
  ASSERT_TRUE(disk->reconnect());
  EXPECT_EQ(bed.queues("vhost.0").size(), 2u);
  expect_data_round_trip(*disk, 0, 512, 2);
}

TEST_F(VhostDisk, ADeviceThatIsRemovedLeavesADiskOfErrors) {
  auto device = bed.add_disk(disk_info("disk"));
  ASSERT_TRUE(bed.create("vhost.0", "disk"));
  auto disk = connect();
  expect_data_round_trip(*disk, 0, 512, 1);
  device->hold = true;
  disk->queue(0).submit({.type = VirtioBlkType::flush});
  disk->queue(0).kick();
  ASSERT_TRUE(eventually([&] { return device->held == 1; }));
  std::thread release([&device] {
    std::this_thread::sleep_for(std::chrono::milliseconds(50));
    device->hold = false;
    device.reset();
  });
  const auto removed = bed.remove_disk("disk");
  release.join();
  ASSERT_TRUE(removed) << removed.error().message();
  VhostCompletion done[1];
  ASSERT_TRUE(disk->queue(0).wait(10'000));
  ASSERT_EQ(disk->queue(0).reap(done), 1u);
  EXPECT_EQ(run(*disk, VirtioBlkType::in, 0, 512), spec::kVirtioBlkIoErr);
  ASSERT_TRUE(disk->read_config());
  EXPECT_EQ(disk->config().capacity, 0u);
  EXPECT_TRUE(bed.remove_controller("vhost.0"));
}

TEST_F(VhostDisk, AResizeIsAnnouncedAndUsable) {
  auto device = bed.add_disk(disk_info("disk"));
  device->bytes.resize(16384 * 512);
  bed.order();
  ASSERT_TRUE(bed.create("vhost.0", "disk"));
  auto disk = connect();
  int channel[2];
  ASSERT_EQ(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, channel), 0);
  const UniqueFd ours(channel[0]);
  {
    const UniqueFd theirs(channel[1]);
    ASSERT_TRUE(disk->socket().send(spec::VhostUserRequest::set_backend_req_fd, nullptr, 0, {theirs.get()}));
  }
  ASSERT_TRUE(disk->read_config());  // the message before it was handled
  bed.on_main<bool>([&] {
    device->resize(16384);
    return true;
  });
  spec::VhostUserHeader told{};
  ASSERT_EQ(recv(ours.get(), &told, sizeof told, MSG_WAITALL), static_cast<ssize_t>(sizeof told));
  EXPECT_EQ(told.request, spec::kVhostUserBackendConfigChange);
  ASSERT_TRUE(disk->read_config());
  EXPECT_EQ(disk->config().capacity, 16384u);
  expect_data_round_trip(*disk, 16383, 512, 5);
}

TEST_F(VhostDisk, ControllersAreRefusedForGoodReasons) {
  bed.add_disk(disk_info("disk"));
  ASSERT_TRUE(bed.create("vhost.0", "disk"));
  EXPECT_EQ(bed.create("vhost.0", "disk").error().code(), Errc::already_exists);
  EXPECT_EQ(bed.create("vhost.1", "disk").error().code(), Errc::busy) << "claimed";
  EXPECT_EQ(bed.create("vhost.1", "nothing").error().code(), Errc::no_device);
  for (const char* name : {"", ".", "..", "a/b", "a\"b"})
    EXPECT_EQ(bed.create(name, "disk").error().code(), Errc::invalid_argument) << name;
  EXPECT_EQ(bed.create(std::string(120, 'x'), "disk").error().code(), Errc::invalid_argument) << "too long a path";
  std::FILE* file = std::fopen(bed.path("vhost.2").c_str(), "w");
  ASSERT_NE(file, nullptr);
  std::fclose(file);
  EXPECT_EQ(bed.create("vhost.2", "disk", true).error().code(), Errc::already_exists) << "a file is in the way";
  EXPECT_EQ(bed.remove_controller("vhost.9").error().code(), Errc::no_device);
  ASSERT_TRUE(bed.remove_controller("vhost.0"));
  EXPECT_FALSE(std::filesystem::exists(bed.path("vhost.0")));
  EXPECT_TRUE(bed.create("vhost.1", "disk")) << "the claim was released";
}

TEST_F(VhostDisk, DeletingAControllerFinishesWhatIsUnderWay) {
  auto device = bed.add_disk(disk_info("disk"));
  ASSERT_TRUE(bed.create("vhost.0", "disk"));
  auto disk = connect();
  device->hold = true;
  disk->queue(0).submit({.type = VirtioBlkType::flush});
  disk->queue(0).kick();
  ASSERT_TRUE(eventually([&] { return device->held == 1; }));
  std::thread release([&] {
    std::this_thread::sleep_for(std::chrono::milliseconds(50));
    device->hold = false;
  });
  EXPECT_TRUE(bed.remove_controller("vhost.0"));
  release.join();
  EXPECT_EQ(disk->queue(0).used_index(), 1);
}

TEST_F(VhostDisk, WhatFailsBecauseTheProcessEndsStaysInTheRingForTheNextOne) {
  auto device = bed.add_disk(disk_info("disk"));
  ASSERT_TRUE(bed.create("vhost.0", "disk"));
  auto disk = connect();
  device->hold = true;
  for (uint64_t i = 0; i < 3; ++i) disk->queue(0).submit({.type = VirtioBlkType::flush, .tag = i});
  disk->queue(0).kick();
  ASSERT_TRUE(eventually([&] { return device->held == 3; }));
  std::thread release([&] {
    ASSERT_TRUE(eventually([&] { return !std::filesystem::exists(bed.path("vhost.0")); })) << "it is on its way out";
    bed.on_main<bool>([&] {
      bed.manager().end_waits();
      return true;
    });
    device->fail = true;
    device->hold = false;
  });
  EXPECT_TRUE(bed.remove_controller("vhost.0"));
  release.join();
  EXPECT_EQ(disk->queue(0).used_index(), 0) << "the guest saw no error";
  device->fail = false;
  ASSERT_TRUE(bed.create("vhost.0", "disk"));
  disk->disconnect();
  ASSERT_TRUE(disk->reconnect());
  VhostCompletion done[4];
  size_t count = 0;
  while (count < 3 && disk->queue(0).wait(10'000)) {
    const size_t reaped = disk->queue(0).reap(done);
    for (size_t i = 0; i < reaped; ++i) EXPECT_EQ(done[i].status, spec::kVirtioBlkOk);
    count += reaped;
  }
  EXPECT_EQ(count, 3u);
  expect_data_round_trip(*disk, 5, 512, 3);
}

TEST_F(VhostDisk, AFrontEndWithoutAnInFlightBufferSeesTheErrors) {
  auto device = bed.add_disk(disk_info("disk"));
  ASSERT_TRUE(bed.create("vhost.0", "disk"));
  VhostFrontend::Options options;
  options.socket_path = bed.path("vhost.0");
  options.inflight = false;
  auto disk = VhostFrontend::connect(options);
  ASSERT_TRUE(disk);
  bed.on_main<bool>([&] {
    bed.manager().end_waits();
    return true;
  });
  device->fail = true;
  EXPECT_EQ(run(**disk, VirtioBlkType::flush, 0, 0), spec::kVirtioBlkIoErr);
}

TEST_F(VhostDisk, HeldBackCallsComeInTheEnd) {
  bed.add_disk(disk_info("disk"));
  ASSERT_TRUE(bed.create("vhost.0", "disk"));
  ASSERT_TRUE(bed.on_main<Result<void>>([&] { return bed.manager().set_coalescing("vhost.0", {100, 1}); }));
  auto disk = connect();
  for (int i = 0; i < 500; ++i) ASSERT_EQ(run(*disk, VirtioBlkType::in, 0, 512), spec::kVirtioBlkOk);
  EXPECT_FALSE(bed.on_main<Result<void>>([&] { return bed.manager().set_coalescing("vhost.0", {100, 0}); }));
  EXPECT_FALSE(bed.on_main<Result<void>>([&] { return bed.manager().set_coalescing("nothing", {0, 1}); }));
}

TEST(VhostReactors, QueuesAreSpreadOverTheReactorsAndAllWork) {
  Bed bed(2);
  bed.add_disk(disk_info("disk"));
  ASSERT_TRUE(bed.create("vhost.0", "disk"));
  VhostFrontend::Options options;
  options.socket_path = bed.path("vhost.0");
  options.queues = 4;
  auto disk = VhostFrontend::connect(options);
  ASSERT_TRUE(disk) << disk.error().message();
  const auto queues = bed.queues("vhost.0");
  ASSERT_EQ(queues.size(), 4u);
  EXPECT_EQ(queues[0].reactor, queues[2].reactor);
  EXPECT_NE(queues[0].reactor, queues[1].reactor);
  for (unsigned queue = 0; queue < 4; ++queue) {
    // Each to its own place: see Bed::order().
    const auto status = (*disk)->run(queue, {.sector = queue * 8, .data = (*disk)->data(), .bytes = 4096});
    ASSERT_TRUE(status) << status.error().message();
    EXPECT_EQ(*status, spec::kVirtioBlkOk);
  }
}

}  // namespace
}  // namespace diskengine::vhost
