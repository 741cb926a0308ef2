// Snapshots, clones and outside parents: each lvol goes on showing what it showed, whatever is written, merged or cut
// off around it.
#include "lvol/store.h"
#include "lvol/test_world.h"

namespace diskengine::lvol {
namespace {

constexpr uint64_t kMiB = 1024 * 1024;
constexpr uint64_t kPerCluster = 128;  // blocks of 512 bytes

class SnapshotTest : public testing::Test {
 protected:
  SnapshotTest() : disk(TestDisk::make({.bytes = 16 * kMiB})) {
    CreateStore options;
    options.name = "lvs";
    options.cluster_bytes = 65536;
    options.uuid = Uuid::from_random(1, 1);
    store = world.run(Store::create(world.main(), disk, options)).value();
  }
  ~SnapshotTest() override {
    world.settle();
    EXPECT_TRUE(world.run(store->unload()));
    world.settle();
  }
  void reload(bool clean) {
    world.settle();
    if (clean) {
      EXPECT_TRUE(world.run(store->unload()));
    } else {
      store->abandon();
    }
    world.settle();
    store = world.run(Store::load(world.main(), disk)).value();
    for (const auto& [id, blob] : store->blobs()) EXPECT_FALSE(blob->damaged()) << blob->damage;
  }
  Store::BlobPtr create(const std::string& name, uint64_t clusters, Blob* parent = nullptr) {
    Store::NewBlob options;
    options.name = name;
    options.uuid = Uuid::from_random(std::hash<std::string>()(name), 2);
    options.clusters = clusters;
    options.thin = true;
    options.parent = parent;
    return world.run(store->create_blob(options)).value();
  }
  Store::BlobPtr snapshot(const Store::BlobPtr& blob, const std::string& name) {
    return world.run(store->snapshot(blob, name, Uuid::from_random(std::hash<std::string>()(name), 3))).value();
  }
  bool shows(const std::string& name, uint64_t cluster, uint8_t value, uint64_t blocks = kPerCluster) {
    const auto channel = world.open(store, store->find(name));
    return world.holds(*channel, cluster * kPerCluster, blocks, value);
  }
  void write(const std::string& name, uint64_t cluster, uint8_t value, uint64_t blocks = kPerCluster) {
    const auto channel = world.open(store, store->find(name));
    ASSERT_TRUE(world.write(*channel, cluster * kPerCluster, blocks, value).ok());
  }

  TestWorld world;
  std::shared_ptr<TestDisk> disk;
  Store::Ptr store;
};

TEST_F(SnapshotTest, ASnapshotKeepsTheMomentAndTheLvolGoesOn) {
  create("a", 10);
  write("a", 0, 1);
  write("a", 1, 1);
  snapshot(store->find("a"), "s");
  EXPECT_TRUE(shows("a", 0, 1));
  write("a", 0, 2, 3);  // copies the rest of the cluster
  write("a", 5, 2);
  for (const bool clean : {true, false}) {
    write("a", 6, clean ? 2 : 3);  // so that the store is not clean
    reload(clean);
    EXPECT_TRUE(shows("s", 0, 1));
    EXPECT_TRUE(shows("s", 5, 0));
    EXPECT_TRUE(shows("a", 0, 2, 3));
    const auto channel = world.open(store, store->find("a"));
    EXPECT_TRUE(world.holds(*channel, 3, kPerCluster - 3, 1));
    EXPECT_TRUE(world.holds(*channel, kPerCluster, kPerCluster, 1));
    EXPECT_TRUE(world.holds(*channel, 5 * kPerCluster, kPerCluster, 2));
    const auto below = world.open(store, store->find("s"));
    EXPECT_EQ(world.write(*below, 0, 1, 9).code, IoCode::read_only);
    const LvolInfo info = store->info_of(*store->find("a"));
    EXPECT_TRUE(info.clone);
    EXPECT_EQ(info.parent_name, "s");
    EXPECT_EQ(info.allocated_clusters, 3u);
    EXPECT_EQ(info.shared_clusters, 1u);
    EXPECT_EQ(store->info_of(*store->find("s")).unique_clusters, 1u);
  }
}

TEST_F(SnapshotTest, LoadingKeepsTheFamily) {
  create("a", 10);
  write("a", 0, 1);
  snapshot(store->find("a"), "s1");
  write("a", 1, 2);
  snapshot(store->find("a"), "s2");
  write("a", 2, 3);
  create("c", 10, store->find("s1").get());
  write("c", 3, 4);
  for (const bool clean : {true, false, true}) {
    reload(clean);
    EXPECT_TRUE(shows("a", 0, 1));
    EXPECT_TRUE(shows("a", 1, 2));
    EXPECT_TRUE(shows("a", 2, 3));
    EXPECT_TRUE(shows("a", 3, 0));
    EXPECT_TRUE(shows("c", 0, 1));
    EXPECT_TRUE(shows("c", 1, 0));
    EXPECT_TRUE(shows("c", 3, 4));
    EXPECT_EQ(store->find("s1")->clones.size(), 2u);
    write("c", 9, clean ? 7 : 8);
  }
}

TEST_F(SnapshotTest, ADeletedSnapshotIsMergedIntoItsClone) {
  const uint64_t free = store->info().free_clusters;
  create("a", 1200);
  write("a", 0, 1);
  write("a", 1, 1);
  write("a", 600, 1);
  snapshot(store->find("a"), "s");
  write("a", 1, 2);
  write("a", 1100, 2);
  EXPECT_EQ(store->info().free_clusters, free - 5);
  ASSERT_TRUE(world.run(store->delete_blob(store->find("s"))));
  EXPECT_EQ(store->info().free_clusters, free - 4);
  for (int round = 0; round < 2; ++round) {
    EXPECT_TRUE(shows("a", 0, 1));
    EXPECT_TRUE(shows("a", 1, 2));
    EXPECT_TRUE(shows("a", 600, 1));
    EXPECT_TRUE(shows("a", 1100, 2));
    EXPECT_FALSE(store->info_of(*store->find("a")).clone);
    reload(round == 0);
    EXPECT_EQ(store->info().free_clusters, free - 4);
  }
}

TEST_F(SnapshotTest, ASnapshotInTheMiddleIsMergedForAllAboveIt) {
  create("a", 10);
  for (const uint8_t value : {1, 2, 3}) {
    write("a", value, value);
    write("a", 9, value);
    snapshot(store->find("a"), "s" + std::to_string(value));
  }
  create("c", 10, store->find("s3").get());
  EXPECT_EQ(world.run(store->delete_blob(store->find("s3"))).error().code(), Errc::busy);
  ASSERT_TRUE(world.run(store->delete_blob(store->find("s2"))));
  EXPECT_EQ(store->find("s3")->parent.load(), store->find("s1").get());
  for (int round = 0; round < 2; ++round) {
    for (const char* name : {"a", "c", "s3"}) {
      for (const uint8_t value : {1, 2, 3}) EXPECT_TRUE(shows(name, value, value)) << name;
      EXPECT_TRUE(shows(name, 9, 3));
    }
    EXPECT_TRUE(shows("s1", 9, 1));
    reload(round == 0);
  }
}

TEST_F(SnapshotTest, WhatAShorterSnapshotHidesStaysHiddenWithoutIt) {
  create("a", 10);
  write("a", 5, 1);
  snapshot(store->find("a"), "long");
  ASSERT_TRUE(world.run(store->resize_blob(store->find("a"), 2)));
  snapshot(store->find("a"), "short");
  ASSERT_TRUE(world.run(store->resize_blob(store->find("a"), 10)));
  EXPECT_TRUE(shows("a", 5, 0));
  create("b", 2, store->find("short").get());
  ASSERT_TRUE(world.run(store->resize_blob(store->find("b"), 10)));
  EXPECT_TRUE(shows("b", 5, 0));
  ASSERT_TRUE(world.run(store->inflate(store->find("b"), true)));
  EXPECT_TRUE(shows("b", 5, 0));
  ASSERT_TRUE(world.run(store->delete_blob(store->find("short"))));
  EXPECT_TRUE(shows("a", 5, 0));
}

TEST_F(SnapshotTest, InflatingAllocatesEverything) {
  create("a", 10);
  write("a", 0, 1);
  snapshot(store->find("a"), "s");
  write("a", 1, 2);
  ASSERT_TRUE(world.run(store->inflate(store->find("a"), false)));
  EXPECT_EQ(store->find("a")->map.allocated(), 10u);
  EXPECT_FALSE(store->find("a")->thin);
  EXPECT_TRUE(store->find("s")->clones.empty());
  ASSERT_TRUE(world.run(store->delete_blob(store->find("s"))));
  reload(true);
  EXPECT_TRUE(shows("a", 0, 1));
  EXPECT_TRUE(shows("a", 1, 2));
  EXPECT_TRUE(shows("a", 2, 0));
}

TEST_F(SnapshotTest, DecouplingCopiesWhatTheParentHasAndStandsOnItsParent) {
  create("a", 10);
  EXPECT_EQ(world.run(store->inflate(store->find("a"), true)).error().code(), Errc::invalid_argument);
  write("a", 0, 1);
  snapshot(store->find("a"), "s1");
  write("a", 1, 2);
  snapshot(store->find("a"), "s2");
  ASSERT_TRUE(world.run(store->inflate(store->find("a"), true)));
  EXPECT_EQ(store->find("a")->map.allocated(), 1u);
  EXPECT_EQ(store->find("a")->parent.load(), store->find("s1").get());
  reload(true);
  EXPECT_TRUE(shows("a", 0, 1));
  EXPECT_TRUE(shows("a", 1, 2));
  EXPECT_EQ(store->find("s2")->clones.size(), 0u);
}

TEST_F(SnapshotTest, AnotherParentShowsThrough) {
  create("a", 10);
  write("a", 0, 1);
  snapshot(store->find("a"), "s");
  create("b", 10);
  write("b", 1, 5);
  ASSERT_TRUE(world.run(store->set_parent(store->find("b"), store->find("s"))));
  EXPECT_EQ(world.run(store->set_parent(store->find("b"), store->find("s"))).error().code(), Errc::already_exists);
  create("small", 9);
  EXPECT_EQ(world.run(store->set_parent(store->find("small"), store->find("s"))).error().code(),
            Errc::invalid_argument);
  reload(false);
  EXPECT_TRUE(shows("b", 0, 1));
  EXPECT_TRUE(shows("b", 1, 5));
}

TEST_F(SnapshotTest, UnmappingACloneDoesNotBringItsParentBack) {
  create("a", 10);
  write("a", 0, 1);
  write("a", 1, 1);
  snapshot(store->find("a"), "s");
  write("a", 1, 2);
  const auto channel = world.open(store, store->find("a"));
  ASSERT_TRUE(world.io(*channel, Op::unmap, 0, 2 * kPerCluster).ok());
  EXPECT_TRUE(world.holds(*channel, 0, 2 * kPerCluster, 0));
  EXPECT_TRUE(shows("s", 0, 1));
}

TEST_F(SnapshotTest, AReadOnlyLvolIsNotWrittenAndCanBeCloned) {
  create("a", 10);
  write("a", 0, 1);
  ASSERT_TRUE(world.run(store->set_read_only(store->find("a"))));
  {
    const auto channel = world.open(store, store->find("a"));
    EXPECT_EQ(world.write(*channel, 0, 1, 2).code, IoCode::read_only);
  }
  EXPECT_EQ(world.run(store->resize_blob(store->find("a"), 11)).error().code(), Errc::permission_denied);
  create("c", 10, store->find("a").get());
  write("c", 0, 3, 1);
  reload(true);
  EXPECT_TRUE(store->find("a")->read_only);
  EXPECT_TRUE(shows("a", 0, 1));
  EXPECT_TRUE(shows("c", 0, 3, 1));
}

TEST_F(SnapshotTest, AnOutsideDeviceShowsThroughUpToItsEnd) {
  const auto outside = TestDisk::make({.name = "outside", .bytes = 3 * 65536 + 5 * 512});
  for (uint8_t& byte : outside->bytes) byte = 0x66;
  Store::NewBlob options;
  options.name = "e";
  options.uuid = Uuid::from_random(5, 5);
  options.clusters = 6;
  options.thin = true;
  options.esnap_id = outside->info().uuid.to_string();
  options.esnap = outside;
  const auto blob = world.run(store->create_blob(options)).value();
  {
    const auto channel = world.open(store, blob);
    EXPECT_TRUE(world.holds(*channel, 0, 3 * kPerCluster + 5, 0x66));
    EXPECT_TRUE(world.holds(*channel, 3 * kPerCluster + 5, kPerCluster * 2, 0));
    ASSERT_TRUE(world.write(*channel, 3 * kPerCluster + 1, 1, 0x11).ok());
    EXPECT_TRUE(world.holds(*channel, 3 * kPerCluster + 2, 3, 0x66));
    EXPECT_TRUE(world.holds(*channel, 3 * kPerCluster + 5, kPerCluster - 5, 0));
    const std::vector<uint8_t> mixed = world.read(*channel, 3 * kPerCluster - 1, 3);
    EXPECT_EQ(mixed[511], 0x66);
    EXPECT_EQ(mixed[512], 0x66);
    EXPECT_EQ(mixed[1024], 0x11);
  }
  snapshot(blob, "s");
  EXPECT_TRUE(shows("e", 0, 0x66));
  reload(true);
  EXPECT_TRUE(store->info_of(*store->find("e")).degraded);
  {
    const auto channel = world.open(store, store->find("e"));
    std::vector<uint8_t> data(512);
    EXPECT_EQ(world.io(*channel, Op::read, 0, 1, data).code, IoCode::disconnected);
    world.run(store->set_outside_device(outside->info().uuid.to_string(), outside));
    world.settle();
    EXPECT_TRUE(world.holds(*channel, 0, kPerCluster, 0x66));
  }
  ASSERT_TRUE(world.run(store->delete_blob(store->find("s"))));
  EXPECT_TRUE(shows("e", 0, 0x66));
  ASSERT_TRUE(world.run(store->inflate(store->find("e"), true)));
  reload(true);
  EXPECT_TRUE(shows("e", 0, 0x66));
  EXPECT_FALSE(store->info_of(*store->find("e")).esnap_clone);
  world.settle();
}

}  // namespace
}  // namespace diskengine::lvol
