// Legs that lose what they had not flushed while nobody serves the volume: whoever puts it together again knows by the
// caches in the log's header, reads from a leg that lost nothing, and shows nothing of one that did before it has it
// back.
#include "raid/test_mirror.h"

namespace diskengine::raid {
namespace {

constexpr uint64_t kData = TestDisk::kFirstMiB;
constexpr uint64_t kPlace = 64;
constexpr uint8_t kOld = 0x11, kNew = 0x22;

// A disk over the end of the process that served it.
struct Found {
  std::vector<uint8_t> bytes;
  Uuid cache;
};

using Names = std::vector<std::string>;

class World : public MirrorTest {
 public:
  explicit World(const Names& names = {}) : MirrorTest(names) {
    EXPECT_TRUE(manager.set_options({.process_window_size_kb = 64, .log_region_kb = 16}));
    for (auto& one : disks) {
      one->begin_to_cache();
      one->cache = Uuid::from_name(one->name());
    }
  }
  // The same disks after a crash, and everything else anew.
  World(std::initializer_list<Found> found) : World(std::vector<Found>(found)) {}
  explicit World(const std::vector<Found>& found) : World(Names{}) {
    for (const Found& one : found) add(one);
    find_volume();
  }
  void TestBody() override {}

  TestDisk& add(const Found& found) {
    const std::string name(1, static_cast<char>('a' + disks.size()));
    auto disk = TestDisk::make(name, kBlocks);
    disk->completes_at_once = true;
    disk->bytes = found.bytes;
    disk->cache = found.cache;
    disk->begin_to_cache();
    disks.push_back(disk);
    EXPECT_TRUE(registry.add(disk));
    return *disk;
  }
  void find_volume() {
    for (int i = 0; i < 20; ++i) turn();
    const auto online = registry.find("r");
    ASSERT_TRUE(online);
    device = online->get();
    raid = device->open_channel(reactor).value();
  }
  void write(uint64_t lba, uint64_t blocks, uint8_t fill) {
    Io io(Op::write, lba, blocks, fill);
    ASSERT_EQ(submit(io), IoCode::ok);
  }
  void sweep() {
    for (int i = 0; i < 12; ++i) {
      clock.advance_ns(DirtyLog::kSweepNs / 4);
      for (int j = 0; j < 20; ++j) turn();
    }
  }
  // Old data everywhere and flushed, and new data in one place that is not.
  void prepare(const Names& legs) {
    create(true, legs);
    write(0, kData, kOld);
    sweep();
    ASSERT_TRUE(volume().dirty_log().marked().empty());
    write(kPlace, 1, kNew);
  }
  Found kept(unsigned i) { return {disk(i).bytes, disk(i).cache}; }
  Found lost(unsigned i) { return {disk(i).durable, Uuid::from_name(disk(i).cache.to_string())}; }
  void reads(uint8_t expected) {
    for (int i = 0; i < 6; ++i) {
      Io io(Op::read, kPlace, 1);
      ASSERT_EQ(submit(io), IoCode::ok);
      EXPECT_EQ(io.buffer[0], expected);
    }
  }
  void until_in_sync() {
    const auto well = [&] {
      for (const auto& slot : volume().slots())
        if (slot->role != SlotRole::in_sync || slot->unsynced || slot->excluding) return false;
      return true;
    };
    for (int i = 0; i < 3000 && !well(); ++i) turn();
    EXPECT_TRUE(well()) << volume().info_json();
  }
  void expect_alike() {
    for (unsigned i = 1; i < disks.size(); ++i)
      EXPECT_TRUE(
          std::equal(disk(0).bytes.begin() + 1024 * 1024, disk(0).bytes.end(), disk(i).bytes.begin() + 1024 * 1024));
  }
  using MirrorTest::disk;
  using MirrorTest::drain;
  using MirrorTest::machine;
  using MirrorTest::raid;
  using MirrorTest::run;
  using MirrorTest::submit;
  using MirrorTest::turn;
  using MirrorTest::volume;
};

TEST(RememberedCache, ALegThatLostItsCacheMeanwhileIsNotReadBeforeItHasBackWhatWasNotFlushed) {
  for (const unsigned which : {0u, 1u}) {
    World before(Names{"a", "b"});
    before.prepare({"a", "b"});
    World after{which == 0 ? before.lost(0) : before.kept(0), which == 1 ? before.lost(1) : before.kept(1)};
    EXPECT_FALSE(after.volume().stopped());
    after.reads(kNew);
    after.until_in_sync();
    after.reads(kNew);
    after.expect_alike();
    World again{after.kept(0), after.kept(1)};
    EXPECT_EQ(again.volume().slots()[which]->role, SlotRole::in_sync) << "it has it all back, on record too";
    again.reads(kNew);
  }
}

TEST(RememberedCache, OfThreeLegsTwoMayLoseTheirs) {
  World before(Names{"a", "b", "c"});
  before.prepare({"a", "b", "c"});
  World after{before.lost(0), before.lost(1), before.kept(2)};
  after.reads(kNew);
  after.until_in_sync();
  after.reads(kNew);
  after.expect_alike();
}

TEST(RememberedCache, WhenAllLostThemAndTheGuestMayLiveTheVolumeStopsUntilItIsToldToGoOn) {
  World before(Names{"a", "b"});
  before.prepare({"a", "b"});
  World after{before.lost(0), before.lost(1)};
  EXPECT_TRUE(after.volume().stopped());
  Io read(Op::read, kPlace, 1);
  after.raid->submit(read);
  after.drain();
  EXPECT_FALSE(read.completed);
  World again{after.kept(0), after.kept(1)};
  EXPECT_TRUE(again.volume().stopped()) << "nobody has said so yet";
  ASSERT_TRUE(again.run(again.volume().resume()));
  again.reads(kOld);
  again.until_in_sync();
  World later{again.kept(0), again.kept(1)};
  EXPECT_FALSE(later.volume().stopped());
  later.reads(kOld);
  ASSERT_TRUE(after.run(after.volume().resume()));
  after.drain();
  EXPECT_TRUE(read.completed && read.status.ok());
}

TEST(RememberedCache, WhenAllLostThemWithTheGuestsMachineTheVolumeGoesOn) {
  World before(Names{"a", "b"});
  before.prepare({"a", "b"});
  const Uuid boot = std::exchange(World::machine, Uuid::from_name("the next boot"));
  {
    World after{before.lost(0), before.lost(1)};
    EXPECT_FALSE(after.volume().stopped());
    after.reads(kOld);
    after.write(kPlace, 1, kNew);
    World again{after.kept(0), after.lost(1)};
    EXPECT_FALSE(again.volume().stopped());
    again.reads(kNew);
  }
  World::machine = boot;
}

TEST(RememberedCache, WhereNothingWasMarkedNothingWasLost) {
  World before(Names{"a", "b"});
  before.prepare({"a", "b"});
  before.sweep();
  World after{before.lost(0), before.lost(1)};
  EXPECT_FALSE(after.volume().stopped());
  after.reads(kNew);
  EXPECT_EQ(after.volume().slots()[0]->role, SlotRole::in_sync);
}

TEST(RememberedCache, ALossThatCostNothingIsForgotten) {
  World before(Names{"a", "b"});
  before.prepare({"a", "b"});
  before.sweep();
  for (const unsigned i : {0u, 1u}) before.disk(i).lose_cache();
  before.drain();
  before.write(kPlace, 1, kOld);
  World after{before.kept(0), before.kept(1)};
  EXPECT_FALSE(after.volume().stopped());
  after.reads(kOld);
}

TEST(RememberedCache, ALegThatIsOnItsWayBackStillLacksWhatItLost) {
  World before(Names{"a", "b"});
  before.prepare({"a", "b"});
  World after;
  std::optional<std::pair<Found, Found>> midway;
  TestDisk& first = after.add(before.lost(0));
  first.before_change = [&](const Request&) {
    if (!midway) midway = {after.kept(0), after.lost(1)};
  };
  after.add(before.kept(1));
  after.find_volume();
  after.until_in_sync();
  ASSERT_TRUE(midway.has_value()) << "it was copied to";
  World again{midway->first, midway->second};
  EXPECT_TRUE(again.volume().stopped()) << "the other one lost its cache as well, before that was done";
}

TEST(RememberedCache, ALogOfAnEarlierVersionSaysNothing) {
  World before(Names{"a", "b"});
  before.prepare({"a", "b"});
  std::vector<Found> found{before.lost(0), before.lost(1)};
  for (Found& one : found) {
    const spec::RaidDirtyLogPageSpan page(one.bytes.data() + spec::kRaidDirtyLogOffsetBytes,
                                          spec::kRaidDirtyLogPageBytes);
    auto header = spec::decode_raid_dirty_log_header(page).value();
    header.machine = {};
    header.caches = {};
    spec::encode(header, page);
  }
  World after(found);
  EXPECT_FALSE(after.volume().stopped());
  after.until_in_sync();
  after.expect_alike();
}

}  // namespace
}  // namespace diskengine::raid
