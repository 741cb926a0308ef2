// Stores and lvols by name, as an operator works with them: devices appear and go, names are taken, disks vanish.
#include "lvol/manager.h"

#include <fmt/format.h>

#include "lvol/test_world.h"

namespace diskengine::lvol {
namespace {

constexpr uint64_t kMiB = 1024 * 1024;

class ManagerTest : public testing::Test {
 protected:
  ManagerTest() { add_disk("disk", 16 * kMiB); }
  ~ManagerTest() override {
    world.run(manager.stop());
    world.settle();
  }
  std::shared_ptr<TestDisk> add_disk(const std::string& name, uint64_t bytes) {
    auto disk = TestDisk::make({.name = name, .bytes = bytes});
    EXPECT_TRUE(registry.add(disk));
    settle();
    return disk;
  }
  void settle() {
    world.settle();
    EXPECT_TRUE(world.main().run_until([&] { return manager.examining() == 0; }));
  }
  void create_store(const std::string& name = "lvs", const std::string& disk = "disk") {
    CreateStore options;
    options.base_bdev = disk;
    options.name = name;
    options.cluster_bytes = 65536;
    const auto made = world.run(manager.create_store(options));
    ASSERT_TRUE(made) << made.error().message();
  }
  Result<LvolInfo> create(const std::string& name, uint64_t bytes = kMiB, bool thin = true) {
    CreateLvol options;
    options.store = "lvs";
    options.name = name;
    options.size_bytes = bytes;
    options.thin = thin;
    return world.run(manager.create_lvol(options));
  }
  Errc code_of(const auto& result) { return result ? Errc::internal : result.error().code(); }

  TestWorld world;
  DeviceRegistry registry{world.main()};
  LvolManager manager{registry, 1};
};

TEST_F(ManagerTest, ALvolIsADeviceWithItsNames) {
  create_store();
  const auto info = create("a").value();
  const auto device = registry.find("lvs/a").value();
  EXPECT_EQ(device->name(), info.uuid.to_string());
  EXPECT_EQ(device->info().product_name, "Logical Volume");
  EXPECT_EQ(device->info().size_bytes(), kMiB);
  EXPECT_TRUE(device->info().write_cache);
  EXPECT_NE(device->driver_specific_json().find(R"("thin_provision":true)"), std::string::npos);
  EXPECT_EQ(registry.find("disk").value()->claimed_by(), "lvol store lvs");
  EXPECT_EQ(manager.lvols("lvs")->size(), 1u);
  EXPECT_EQ(manager.lvol("lvs/a")->uuid, info.uuid);
}

TEST_F(ManagerTest, WhatIsWrongIsRefused) {
  CreateStore store;
  store.base_bdev = "nowhere";
  store.name = "lvs";
  EXPECT_EQ(code_of(world.run(manager.create_store(store))), Errc::no_device);
  store.base_bdev = "disk";
  store.cluster_bytes = 1000;
  EXPECT_EQ(code_of(world.run(manager.create_store(store))), Errc::invalid_argument);
  store.cluster_bytes = 32 * kMiB;
  EXPECT_EQ(code_of(world.run(manager.create_store(store))), Errc::no_space);
  store.name = std::string(64, 'x');
  EXPECT_EQ(code_of(world.run(manager.create_store(store))), Errc::invalid_argument);
  create_store();
  store.name = "lvs";
  EXPECT_EQ(code_of(world.run(manager.create_store(store))), Errc::already_exists);
  store.name = "other";
  store.cluster_bytes = 65536;
  EXPECT_EQ(code_of(world.run(manager.create_store(store))), Errc::permission_denied) << "the disk is claimed";
  ASSERT_TRUE(create("a"));
  EXPECT_EQ(code_of(create("a")), Errc::already_exists);
  EXPECT_EQ(code_of(create("")), Errc::invalid_argument);
  EXPECT_EQ(code_of(create("b", 0)), Errc::invalid_argument);
  EXPECT_EQ(code_of(create("b", uint64_t{1} << 60)), Errc::invalid_argument);
  EXPECT_EQ(code_of(create("b", 64 * kMiB, false)), Errc::no_space);
  EXPECT_EQ(code_of(world.run(manager.delete_lvol("lvs/b"))), Errc::no_device);
  EXPECT_EQ(code_of(world.run(manager.resize_lvol("lvs/a", 0))), Errc::invalid_argument);
  EXPECT_EQ(code_of(world.run(manager.clone("lvs/a", "c"))), Errc::invalid_argument) << "it can be written";
  EXPECT_EQ(code_of(world.run(manager.rename_store("nowhere", "x"))), Errc::not_found);
  EXPECT_EQ(code_of(manager.start_shallow_copy("lvs/a", "disk")), Errc::permission_denied);
  EXPECT_EQ(code_of(manager.check_shallow_copy(7)), Errc::no_device);
}

TEST_F(ManagerTest, AStoreIsFoundAgainWhenItsDiskAppears) {
  create_store();
  const auto info = create("a").value();
  ASSERT_TRUE(world.run(manager.unload_store("lvs")));
  EXPECT_FALSE(registry.find("lvs/a"));
  EXPECT_TRUE(registry.find("disk").value()->claimed_by().empty());
  ASSERT_TRUE(world.run(manager.load_store("disk")));
  EXPECT_EQ(manager.lvol("lvs/a")->uuid, info.uuid);

  auto disk = std::static_pointer_cast<TestDisk>(registry.find("disk").value());
  const std::vector<uint8_t> bytes = disk->bytes;
  disk = nullptr;
  ASSERT_TRUE(world.run(registry.remove("disk")));
  EXPECT_TRUE(manager.stores().empty());
  EXPECT_FALSE(registry.find("lvs/a"));
  auto again = TestDisk::make({.name = "disk2", .bytes = 16 * kMiB});
  again->load(bytes);
  ASSERT_TRUE(registry.add(again));
  settle();
  EXPECT_EQ(manager.lvol("lvs/a")->uuid, info.uuid);
}

TEST_F(ManagerTest, AStoreIsClosedAfterWhatIsUnderWay) {
  create_store();
  ASSERT_TRUE(create("a"));
  CreateLvol wanted;
  wanted.store = "lvs";
  wanted.name = "b";
  wanted.size_bytes = kMiB;
  bool created = false, snapped = false, unloaded = false;
  spawn<Result<LvolInfo>>(manager.create_lvol(wanted), [&](Result<LvolInfo> made) { created = made.has_value(); });
  spawn<Result<LvolInfo>>(manager.snapshot("lvs/a", "s"), [&](Result<LvolInfo> made) { snapped = made.has_value(); });
  spawn<Result<void>>(manager.unload_store("lvs"), [&](Result<void> gone) {
    EXPECT_TRUE(created && snapped);
    unloaded = gone.has_value();
  });
  EXPECT_EQ(code_of(create("c")), Errc::busy);
  EXPECT_TRUE(world.run_until([&] { return unloaded; }));
  ASSERT_TRUE(world.run(manager.load_store("disk")));
  EXPECT_EQ(manager.lvols("lvs")->size(), 3u);
}

TEST_F(ManagerTest, ADeletedStoreIsGone) {
  create_store();
  ASSERT_TRUE(create("a"));
  ASSERT_TRUE(world.run(manager.delete_store("lvs")));
  EXPECT_TRUE(manager.stores().empty());
  EXPECT_EQ(code_of(world.run(manager.load_store("disk"))), Errc::not_found);
  create_store();
  EXPECT_TRUE(manager.lvols("lvs")->empty());
}

TEST_F(ManagerTest, RenamingChangesTheAlias) {
  create_store();
  ASSERT_TRUE(create("a"));
  ASSERT_TRUE(create("taken"));
  EXPECT_EQ(code_of(world.run(manager.rename_lvol("lvs/a", "taken"))), Errc::already_exists);
  ASSERT_TRUE(world.run(manager.rename_lvol("lvs/a", "b")));
  EXPECT_TRUE(registry.find("lvs/b"));
  EXPECT_FALSE(registry.find("lvs/a"));
  ASSERT_TRUE(world.run(manager.rename_store("lvs", "store")));
  EXPECT_TRUE(registry.find("store/b"));
  EXPECT_EQ(manager.stores().front().name, "store");
}

TEST_F(ManagerTest, FamiliesAreDescribed) {
  create_store();
  ASSERT_TRUE(create("a"));
  const auto snapshot = world.run(manager.snapshot("lvs/a", "s"));
  ASSERT_TRUE(snapshot) << snapshot.error().message();
  ASSERT_TRUE(world.run(manager.clone("lvs/s", "c")));
  const LvolInfo info = manager.lvol("lvs/s").value();
  EXPECT_TRUE(info.snapshot);
  EXPECT_EQ(info.clone_names, (std::vector<std::string>{"a", "c"}));
  EXPECT_EQ(code_of(world.run(manager.delete_lvol("lvs/s"))), Errc::busy);
  ASSERT_TRUE(world.run(manager.decouple_parent("lvs/c")));
  ASSERT_TRUE(world.run(manager.inflate("lvs/a")));
  ASSERT_TRUE(world.run(manager.delete_lvol("lvs/s")));
}

TEST_F(ManagerTest, AnOutsideParentComesAndGoes) {
  create_store();
  auto outside = add_disk("outside", kMiB);
  for (uint8_t& byte : outside->bytes) byte = 0x77;
  ASSERT_TRUE(world.run(manager.clone_bdev("outside", "lvs", "e")));
  EXPECT_EQ(outside->claimed_by(), "lvol external snapshot");
  const auto lvol = registry.find("lvs/e").value();
  const auto channel = lvol->open_channel(world.main()).value();
  EXPECT_TRUE(world.holds(*channel, 0, 128, 0x77));
  outside = nullptr;
  ASSERT_TRUE(world.run(registry.remove("outside")));
  world.settle();
  EXPECT_TRUE(manager.lvol("lvs/e")->degraded);
  std::vector<uint8_t> data(512);
  EXPECT_EQ(world.io(*channel, Op::read, 0, 1, data).code, IoCode::disconnected);
  outside = add_disk("outside", kMiB);
  for (uint8_t& byte : outside->bytes) byte = 0x78;
  world.settle();
  EXPECT_TRUE(world.holds(*channel, 0, 128, 0x78));
  ASSERT_TRUE(world.run(manager.decouple_parent("lvs/e")));
  EXPECT_TRUE(outside->claimed_by().empty());
}

TEST_F(ManagerTest, AShallowCopyHasWhatTheLvolHasOfItsOwn) {
  create_store();
  ASSERT_TRUE(create("a"));
  {
    const auto channel = registry.find("lvs/a").value()->open_channel(world.main()).value();
    ASSERT_TRUE(world.write(*channel, 128, 128, 0x31).ok());
  }
  ASSERT_TRUE(world.run(manager.snapshot("lvs/a", "s")));
  const auto to = add_disk("to", kMiB);
  const uint32_t id = manager.start_shallow_copy("lvs/s", "to").value();
  world.settle();
  const ShallowCopyStatus status = manager.check_shallow_copy(id).value();
  EXPECT_TRUE(status.ended);
  EXPECT_EQ(status.error, "");
  EXPECT_EQ(status.copied_clusters, 1u);
  EXPECT_EQ(to->bytes[65535], 0);
  EXPECT_EQ(to->bytes[65536], 0x31);
  EXPECT_EQ(code_of(manager.check_shallow_copy(id)), Errc::no_device) << "asked about once";
}

TEST_F(ManagerTest, AStoreGrowsWithItsDisk) {
  create_store();
  auto disk = std::static_pointer_cast<TestDisk>(registry.find("disk").value());
  const uint64_t before = manager.stores().front().total_data_clusters;
  ASSERT_TRUE(world.run(manager.grow_store("lvs")));
  EXPECT_EQ(manager.stores().front().total_data_clusters, before);
  disk->grow(32 * kMiB);
  ASSERT_TRUE(world.run(manager.grow_store("lvs")));
  EXPECT_EQ(manager.stores().front().total_data_clusters, before + 256);
  ASSERT_TRUE(world.run(manager.unload_store("lvs")));
  ASSERT_TRUE(world.run(manager.load_store("disk")));
  EXPECT_EQ(manager.stores().front().total_data_clusters, before + 256);
  EXPECT_EQ(manager.stores().front().free_clusters, before + 256);
}

TEST_F(ManagerTest, ThresholdsAndPausesAreToldAndEnd) {
  std::vector<std::pair<unsigned, bool>> told;
  manager.set_events(
      {.on_threshold = [&](const StoreInfo&, unsigned percent, bool below) { told.emplace_back(percent, below); },
       .on_store_loaded = nullptr,
       .on_damaged = nullptr});
  create_store();
  ASSERT_TRUE(create("a"));
  ASSERT_TRUE(world.run(manager.set_pause_when_full("lvs/a", true)));
  ASSERT_TRUE(world.run(manager.unload_store("lvs")));
  ASSERT_TRUE(world.run(manager.load_store("disk")));
  const uint64_t free = manager.stores().front().free_clusters;
  ASSERT_TRUE(create("big", free * 65536, false));
  EXPECT_EQ(told.size(), 4u);
  ASSERT_TRUE(manager.lvol("lvs/a")->pause_when_full) << "it is kept on disk";
  const auto channel = registry.find("lvs/a").value()->open_channel(world.main()).value();
  struct Waiting : Request {
    bool ended = false;
  } request;
  std::vector<uint8_t> data(512, 1);
  const iovec piece{data.data(), data.size()};
  request.op = Op::write;
  request.blocks = 1;
  request.iov = {&piece, 1};
  request.done = [](Request& done) noexcept { static_cast<Waiting&>(done).ended = true; };
  channel->submit(request);
  world.settle();
  EXPECT_FALSE(request.ended);
  EXPECT_EQ(code_of(world.run(manager.snapshot("lvs/a", "s"))), Errc::busy);
  ASSERT_TRUE(world.run(manager.set_pause_when_full("lvs/a", true))) << "may be said again while writes wait";
  ASSERT_TRUE(world.run(manager.delete_lvol("lvs/big")));
  world.settle();
  EXPECT_TRUE(request.ended);
  EXPECT_TRUE(request.status.ok());
  EXPECT_EQ(told.size(), 8u);
}

TEST_F(ManagerTest, ADamagedLvolCostsOnlyItself) {
  create_store();
  ASSERT_TRUE(create("a"));
  const LvolInfo bad = create("bad").value();
  ASSERT_TRUE(world.run(manager.unload_store("lvs")));
  auto disk = std::static_pointer_cast<TestDisk>(registry.find("disk").value());
  const std::string uuid = bad.uuid.to_string();
  const auto at = std::search(disk->bytes.begin(), disk->bytes.end(), uuid.begin(), uuid.end());
  ASSERT_NE(at, disk->bytes.end());
  *at ^= 1;
  EXPECT_FALSE(world.run(manager.check("disk", false))->sound());
  ASSERT_TRUE(world.run(manager.load_store("disk")));
  EXPECT_TRUE(manager.lvol("lvs/a"));
  ASSERT_EQ(manager.damaged().size(), 1u);
  EXPECT_EQ(manager.damaged().front().blob_id, bad.blob_id);
  EXPECT_NE(manager.damaged().front().reason.find("checksum"), std::string::npos);
  EXPECT_FALSE(world.run(manager.check("lvs", true))->sound());
  ASSERT_TRUE(world.run(manager.delete_lvol(fmt::format("lvs/{:#x}", bad.blob_id))));
  EXPECT_TRUE(manager.damaged().empty());
  const auto report = world.run(manager.check("lvs", true)).value();
  EXPECT_TRUE(report.sound()) << report.findings.front().text;
  EXPECT_EQ(report.lvols, 1u);
}

TEST_F(ManagerTest, WrongMasksAreFoundAndMadeAnew) {
  create_store();
  ASSERT_TRUE(create("a", kMiB, false));
  ASSERT_TRUE(world.run(manager.unload_store("lvs")));
  auto disk = std::static_pointer_cast<TestDisk>(registry.find("disk").value());
  EXPECT_TRUE(world.run(manager.check("disk", false))->sound());
  disk->bytes[2 * 4096 + 5 + 20] ^= 0xff;  // of the mask of clusters
  const auto found = world.run(manager.check("disk", false)).value();
  ASSERT_FALSE(found.sound());
  EXPECT_TRUE(found.findings.front().repairable);
  EXPECT_FALSE(world.run(manager.check("disk", true))->sound()) << "it says what it has mended";
  EXPECT_TRUE(world.run(manager.check("disk", false))->sound());
}

}  // namespace
}  // namespace diskengine::lvol
