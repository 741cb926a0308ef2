// One store on a disk in memory: what is written is read back, also after unloading and loading, and what is given up
// comes back.
#include "lvol/store.h"

#include "lvol/test_world.h"

namespace diskengine::lvol {
namespace {

constexpr uint64_t kMiB = 1024 * 1024;

struct Shape {
  uint32_t cluster_bytes = 65536;
  uint32_t block_size = 512;
  bool capable = true;
  bool write_cache = true;
};

class StoreTest : public testing::TestWithParam<Shape> {
 protected:
  StoreTest()
      : disk(TestDisk::make({.bytes = 16 * kMiB,
                             .block_size = GetParam().block_size,
                             .capable = GetParam().capable,
                             .write_cache = GetParam().write_cache})) {
    for (uint8_t& byte : disk->bytes) byte = 0xa5;  // whatever was there
    disk->load(disk->bytes);
    CreateStore options;
    options.name = "lvs";
    options.cluster_bytes = GetParam().cluster_bytes;
    options.clear_method = ClearMethod::none;
    options.uuid = Uuid::from_random(1, 1);
    store = world.run(Store::create(world.main(), disk, options)).value();
  }
  ~StoreTest() override {
    if (store != nullptr) unload();
  }
  void unload() {
    world.settle();
    EXPECT_TRUE(world.run(store->unload()));
    world.settle();
    store = nullptr;
  }
  void reload() {
    unload();
    store = world.run(Store::load(world.main(), disk)).value();
  }
  // As if the process had been killed: what the disk has completed stays.
  void crash() {
    world.settle();
    store->abandon();
    world.settle();
    store = world.run(Store::load(world.main(), disk)).value();
    EXPECT_TRUE(store->info().was_recovered);
  }
  Store::BlobPtr create(const std::string& name, uint64_t clusters, bool thin = true) {
    Store::NewBlob options;
    options.name = name;
    options.uuid = Uuid::from_random(std::hash<std::string>()(name), 2);
    options.clusters = clusters;
    options.thin = thin;
    return world.run(store->create_blob(options)).value();
  }
  uint64_t per_cluster() const { return GetParam().cluster_bytes / GetParam().block_size; }

  TestWorld world;
  std::shared_ptr<TestDisk> disk;
  Store::Ptr store;
};

TEST_P(StoreTest, AnEmptyStoreIsLoadedAgain) {
  const StoreInfo before = store->info();
  EXPECT_EQ(before.name, "lvs");
  EXPECT_EQ(before.lvols, 0u);
  EXPECT_EQ(before.free_clusters, before.total_data_clusters);
  reload();
  EXPECT_EQ(store->info().uuid, before.uuid);
  EXPECT_EQ(store->info().free_clusters, before.free_clusters);
  EXPECT_FALSE(store->info().was_recovered);
}

TEST_P(StoreTest, AThinLvolReadsAsZeroesUntilWritten) {
  const auto blob = create("a", 20);
  EXPECT_EQ(store->info().free_clusters, store->info().total_data_clusters);
  const auto channel = world.open(store, blob);
  EXPECT_TRUE(world.holds(*channel, 0, per_cluster() * 3, 0));
  ASSERT_TRUE(world.write(*channel, 3, 1, 0x11).ok());
  EXPECT_EQ(blob->map.allocated(), 1u);
  EXPECT_TRUE(world.holds(*channel, 0, 3, 0)) << "the rest of the cluster is not what was there before";
  EXPECT_TRUE(world.holds(*channel, 3, 1, 0x11));
  EXPECT_TRUE(world.holds(*channel, 4, per_cluster() - 4, 0));
}

TEST_P(StoreTest, WhatWasWrittenIsThereAfterUnloadingAndAfterACrash) {
  const auto blob = create("a", 20);
  {
    const auto channel = world.open(store, blob);
    ASSERT_TRUE(world.write(*channel, 1, 2, 0x11).ok());
    ASSERT_TRUE(world.write(*channel, per_cluster() * 7 - 1, 2, 0x22).ok()) << "over two clusters";
    ASSERT_TRUE(world.write(*channel, per_cluster() * 10, per_cluster() * 2, 0x33).ok());
  }
  for (const bool clean : {true, false}) {
    if (clean) {
      reload();
    } else {
      crash();
    }
    const auto again = store->find("a");
    ASSERT_NE(again, nullptr);
    EXPECT_FALSE(again->damaged());
    EXPECT_EQ(again->map.allocated(), clean ? 5u : 6u);
    const auto channel = world.open(store, again);
    EXPECT_TRUE(world.holds(*channel, 0, 1, 0));
    EXPECT_TRUE(world.holds(*channel, 1, 2, 0x11));
    EXPECT_TRUE(world.holds(*channel, per_cluster() * 7 - 1, 2, 0x22));
    EXPECT_TRUE(world.holds(*channel, per_cluster() * 10, per_cluster() * 2, 0x33));
    EXPECT_TRUE(world.holds(*channel, per_cluster() * 12, per_cluster() * 6, 0));
    ASSERT_TRUE(world.write(*channel, per_cluster() * 19, 1, 0x44).ok());
  }
}

TEST_P(StoreTest, AThickLvolHasEverythingFromTheStart) {
  const uint64_t free = store->info().free_clusters;
  const auto blob = create("a", 20, false);
  EXPECT_EQ(store->info().free_clusters, free - 20);
  {
    const auto channel = world.open(store, blob);
    EXPECT_TRUE(world.holds(*channel, 0, per_cluster() * 20, 0));
    const uint64_t before = disk->flushes;
    ASSERT_TRUE(world.write(*channel, 5, 1, 0x44).ok());
    EXPECT_EQ(disk->flushes, before);
  }
  reload();
  const auto channel = world.open(store, store->find("a"));
  EXPECT_TRUE(world.holds(*channel, 5, 1, 0x44));
}

TEST_P(StoreTest, UnmappedClustersComeBack) {
  const auto blob = create("a", 20);
  const uint64_t free = store->info().free_clusters;
  const auto channel = world.open(store, blob);
  ASSERT_TRUE(world.write(*channel, 0, per_cluster() * 4, 0x55).ok());
  EXPECT_EQ(store->info().free_clusters, free - 4);
  // One and a half: the half stays, but reads as zeroes.
  ASSERT_TRUE(world.io(*channel, Op::unmap, per_cluster() / 2, per_cluster() * 3 / 2).ok());
  EXPECT_EQ(store->info().free_clusters, free - 3);
  EXPECT_TRUE(world.holds(*channel, 0, per_cluster() / 2, 0x55));
  EXPECT_TRUE(world.holds(*channel, per_cluster() / 2, per_cluster() * 3 / 2, 0));
  EXPECT_TRUE(world.holds(*channel, per_cluster() * 2, per_cluster() * 2, 0x55));
  ASSERT_TRUE(world.io(*channel, Op::write_zeroes, per_cluster() * 2, per_cluster()).ok());
  EXPECT_EQ(store->info().free_clusters, free - 3) << "zeroes that must stay allocated";
  ASSERT_TRUE(world.io(*channel, Op::write_zeroes, per_cluster() * 2, per_cluster(), {}, true).ok());
  EXPECT_EQ(store->info().free_clusters, free - 2);
  EXPECT_TRUE(world.holds(*channel, per_cluster() * 2, per_cluster(), 0));
}

TEST_P(StoreTest, ADeletedLvolGivesBackItsClustersAndPages) {
  const StoreInfo before = store->info();
  const auto blob = create("a", 2001);
  {
    const auto channel = world.open(store, blob);
    for (uint64_t i = 0; i < blob->map.size(); i += 100)
      ASSERT_TRUE(world.write(*channel, i * per_cluster(), 1, 1).ok());
  }
  EXPECT_GT(store->info().md_pages_used, before.md_pages_used);
  ASSERT_TRUE(world.run(store->delete_blob(blob)));
  EXPECT_EQ(store->find("a"), nullptr);
  EXPECT_EQ(store->info().free_clusters, before.free_clusters);
  reload();
  EXPECT_EQ(store->find("a"), nullptr);
  EXPECT_EQ(store->info().free_clusters, before.free_clusters);
  EXPECT_EQ(store->info().md_pages_used, before.md_pages_used);
}

TEST_P(StoreTest, ResizingKeepsWhatIsInside) {
  const auto blob = create("a", 10);
  const uint64_t free = store->info().free_clusters;
  {
    const auto channel = world.open(store, blob);
    ASSERT_TRUE(world.write(*channel, per_cluster() * 2, 1, 0x21).ok());
    ASSERT_TRUE(world.write(*channel, per_cluster() * 9, 1, 0x29).ok());
    ASSERT_TRUE(world.run(store->resize_blob(blob, 700)));
    ASSERT_TRUE(world.write(*channel, per_cluster() * 699, 1, 0x77).ok());
    EXPECT_TRUE(world.holds(*channel, per_cluster() * 9, 1, 0x29));
    EXPECT_EQ(store->info().free_clusters, free - 3);
    ASSERT_TRUE(world.run(store->resize_blob(blob, 9)));
    EXPECT_EQ(store->info().free_clusters, free - 1);
    EXPECT_EQ(world.io(*channel, Op::write_zeroes, per_cluster() * 9, 1).code, IoCode::invalid);
    ASSERT_TRUE(world.run(store->resize_blob(blob, 513)));
    EXPECT_TRUE(world.holds(*channel, per_cluster() * 9, 1, 0)) << "what was cut off does not come back";
    EXPECT_TRUE(world.holds(*channel, per_cluster() * 2, 1, 0x21));
  }
  reload();
  const auto channel = world.open(store, store->find("a"));
  EXPECT_EQ(store->find("a")->map.size(), 513u);
  EXPECT_TRUE(world.holds(*channel, per_cluster() * 2, 1, 0x21));
  EXPECT_TRUE(world.holds(*channel, per_cluster() * 512, 1, 0));
  EXPECT_EQ(store->info().free_clusters, free - 1);
}

TEST_P(StoreTest, AThickLvolGrowsAndShrinks) {
  const uint64_t free = store->info().free_clusters;
  const auto blob = create("a", 10, false);
  ASSERT_TRUE(world.run(store->resize_blob(blob, 30)));
  EXPECT_EQ(store->info().free_clusters, free - 30);
  ASSERT_TRUE(world.run(store->resize_blob(blob, 5)));
  EXPECT_EQ(store->info().free_clusters, free - 5);
  EXPECT_EQ(world.run(store->resize_blob(blob, free + 1)).error().code(), Errc::no_space);
  reload();
  EXPECT_EQ(store->find("a")->map.allocated(), 5u);
}

TEST_P(StoreTest, AFullStoreFailsOnlyWhatNeedsSpace) {
  const uint64_t free = store->info().free_clusters;
  const auto thick = create("thick", free - 2, false);
  const auto blob = create("a", 20);
  const auto channel = world.open(store, blob);
  ASSERT_TRUE(world.write(*channel, 0, per_cluster() * 2, 1).ok());
  EXPECT_EQ(world.write(*channel, per_cluster() * 5, 1, 1).code, IoCode::no_space);
  EXPECT_TRUE(world.write(*channel, per_cluster(), 1, 2).ok());
  EXPECT_TRUE(world.holds(*channel, per_cluster() * 5, 1, 0));
  ASSERT_TRUE(world.run(store->delete_blob(thick)));
  EXPECT_TRUE(world.write(*channel, per_cluster() * 5, 1, 1).ok());
}

TEST_P(StoreTest, NamesAreKept) {
  const auto blob = create("a", 1);
  ASSERT_TRUE(world.run(store->rename_blob(blob, "b")));
  ASSERT_TRUE(world.run(store->rename("other")));
  reload();
  EXPECT_EQ(store->name(), "other");
  EXPECT_EQ(store->find("a"), nullptr);
  EXPECT_NE(store->find("b"), nullptr);
}

INSTANTIATE_TEST_SUITE_P(Disks, StoreTest,
                         testing::Values(Shape{}, Shape{.cluster_bytes = 65536, .block_size = 4096},
                                         Shape{.capable = false}, Shape{.cluster_bytes = 49152},
                                         Shape{.write_cache = false}));

}  // namespace
}  // namespace diskengine::lvol
