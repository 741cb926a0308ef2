// Volumes that are put together by somebody else's record: only from the legs that it names, under its epoch, and never
// by examination alone. What cannot be right is refused, and nothing is written.
#include "raid/test_mirror.h"

namespace diskengine::raid {
namespace {

constexpr uint64_t kData = TestDisk::kFirstMiB;

class AssemblyTest : public MirrorTest {
 protected:
  explicit AssemblyTest(const std::vector<std::string>& names = {"a", "b", "c"}) : MirrorTest(names) {
    EXPECT_TRUE(manager.set_options({.process_window_size_kb = 64, .log_region_kb = 16}));
  }
  Result<void> assemble(std::vector<std::string> legs, uint64_t epoch = 1, unsigned slots = 2, bool create = true) {
    Result<void> done = run(manager.assemble({.name = "r",
                                              .uuid = {},
                                              .epoch = epoch,
                                              .confirm_exclusions = false,
                                              .base_bdevs = legs,
                                              .slots = slots,
                                              .create = create}));
    if (const auto online = registry.find("r"); done && online && raid == nullptr) {
      device = online->get();
      raid = device->open_channel(reactor).value();
    }
    return done;
  }
  Errc refused(std::vector<std::string> legs, uint64_t epoch = 1, unsigned slots = 2, bool create = true) {
    std::vector<std::vector<uint8_t>> before;
    for (const auto& one : disks) before.push_back(one->bytes);
    const Result<void> done = assemble(std::move(legs), epoch, slots, create);
    EXPECT_FALSE(done);
    for (size_t i = 0; i < disks.size(); ++i) EXPECT_TRUE(before[i] == disks[i]->bytes) << "nothing is written";
    return done ? Errc::internal : done.error().code();
  }
  void write(uint64_t lba, uint64_t blocks, uint8_t fill) {
    Io io(Op::write, lba, blocks, fill);
    ASSERT_EQ(submit(io), IoCode::ok);
  }
  uint8_t read(uint64_t lba) {
    Io io(Op::read, lba, 1);
    EXPECT_EQ(submit(io), IoCode::ok);
    return io.buffer[0];
  }
  void until_in_sync() {
    const auto well = [&] {
      for (const auto& slot : volume().slots())
        if (slot->role != SlotRole::in_sync || slot->unsynced) return false;
      return true;
    };
    for (int i = 0; i < 3000 && !well(); ++i) turn();
    EXPECT_TRUE(well()) << volume().info_json();
  }
  bool data_alike(unsigned i, unsigned j) {
    return std::equal(disk(i).bytes.begin() + 1024 * 1024, disk(i).bytes.end(), disk(j).bytes.begin() + 1024 * 1024);
  }
  std::vector<uint8_t> superblock_of(unsigned i) const {
    return {disks[i]->bytes.begin(), disks[i]->bytes.begin() + 1024 * 1024};
  }
};

// The machine after a restart: the same disks as they were, everything else anew.
class Restarted final : public AssemblyTest {
 public:
  explicit Restarted(const std::vector<std::pair<std::string, const TestDisk*>>& found) : AssemblyTest({}) {
    for (const auto& [name, disk] : found) add_disk(name, kBlocks, true, &disk->bytes);
    for (int i = 0; i < 20; ++i) turn();
  }
  void TestBody() override {}
  using AssemblyTest::assemble;
  using AssemblyTest::data_alike;
  using AssemblyTest::disk;
  using AssemblyTest::disks;
  using AssemblyTest::manager;
  using AssemblyTest::read;
  using AssemblyTest::refused;
  using AssemblyTest::registry;
  using AssemblyTest::role;
  using AssemblyTest::run;
  using AssemblyTest::turn;
  using AssemblyTest::until_in_sync;
  using AssemblyTest::volume;
  using AssemblyTest::write;
};

TEST_F(AssemblyTest, BlankLegsMakeANewVolumeAndThePlaceThatStaysFreeTakesALegLater) {
  ASSERT_TRUE(assemble({"a"}));
  EXPECT_EQ(volume().epoch(), 1u);
  EXPECT_EQ(role(0), SlotRole::in_sync);
  EXPECT_EQ(role(1), SlotRole::empty);
  write(7, 1, 0x11);
  ASSERT_TRUE(run(manager.add_base("r", "b")));
  until_in_sync();
  EXPECT_TRUE(data_alike(0, 1));
}

TEST_F(AssemblyTest, TheSameCallAgainChangesNothingAndOtherLegsAreRefused) {
  ASSERT_TRUE(assemble({"a", "b"}));
  const uint64_t sequence = volume().sequence();
  ASSERT_TRUE(assemble({"b", "a"}));
  EXPECT_EQ(volume().sequence(), sequence);
  EXPECT_EQ(assemble({"a"}).error().code(), Errc::already_exists);
  EXPECT_EQ(assemble({"a", "b", "c"}, 1, 3).error().code(), Errc::already_exists);
  ASSERT_TRUE(assemble({"a", "b"}, 2));
  EXPECT_EQ(volume().epoch(), 2u);
  EXPECT_EQ(assemble({"a", "b"}, 1).error().code(), Errc::conflict);
  ASSERT_TRUE(run(volume().fence(3)));
  EXPECT_EQ(assemble({"a", "b"}, 3).error().code(), Errc::conflict);
}

TEST_F(AssemblyTest, AManagedVolumeWaitsForItsRecordAndThenReturnsALegByDelta) {
  ASSERT_TRUE(assemble({"a", "b"}, 4));
  write(0, kData, 0x11);
  Restarted after({{"a", &disk(0)}, {"b", &disk(1)}});
  ASSERT_FALSE(after.registry.find("r")) << "examination must not decide";
  EXPECT_NE(after.volume().info_json().find("diskengine_raid_assemble puts it together"), std::string::npos);
  EXPECT_NE(after.volume().info_json().find(R"("epoch":4)"), std::string::npos);
  EXPECT_EQ(after.run(after.volume().set_epoch(5, true)).error().code(), Errc::busy);
  EXPECT_EQ(after.refused({"a", "b"}, 3), Errc::conflict) << "an old epoch";
  EXPECT_NE(after.manager.find("r"), nullptr) << "a refused call leaves the volume waiting";

  ASSERT_TRUE(after.assemble({"a"}, 5));
  after.write(100, 1, 0x22);
  EXPECT_TRUE(after.disk(1).claimed_by().empty());
  after.disk(1).data_blocks = 0;
  ASSERT_TRUE(after.run(after.manager.add_base("r", "b")));
  after.until_in_sync();
  EXPECT_TRUE(after.data_alike(0, 1));
  EXPECT_EQ(after.volume().epoch(), 5u);
}

TEST_F(AssemblyTest, WhatALegThatIsNotNamedLacksIsMarkedAndNothingElseIsCopied) {
  ASSERT_TRUE(assemble({"a", "b"}));
  write(0, kData, 0x11);
  raid.reset();
  ASSERT_TRUE(run(manager.remove("r", false)));  // in order: nothing is marked
  ASSERT_TRUE(assemble({"a"}, 2));
  write(100, 1, 0x22);
  disk(1).data_blocks = 0;
  ASSERT_TRUE(run(manager.add_base("r", "b")));
  until_in_sync();
  EXPECT_TRUE(data_alike(0, 1));
  EXPECT_GT(disk(1).data_blocks, 0u);
  EXPECT_LE(disk(1).data_blocks, 32u);
}

TEST_F(AssemblyTest, AReturningLegIsCopiedWhereItsOwnLogSaysThatItGotMore) {
  ASSERT_TRUE(assemble({"a", "b"}));
  const std::vector<uint8_t> b = disk(1).bytes;
  write(500, 1, 0x33);  // reaches both, but the record then says that only b, as it was before, is in sync
  disk(1).bytes = b;
  Restarted after({{"a", &disk(0)}, {"b", &disk(1)}});
  ASSERT_TRUE(after.assemble({"b"}, 2));
  EXPECT_EQ(after.read(500), 0);
  ASSERT_TRUE(after.run(after.manager.add_base("r", "a")));
  after.until_in_sync();
  EXPECT_TRUE(after.data_alike(0, 1)) << "what only the returning leg had is gone";
}

TEST_F(AssemblyTest, TheNewestOfTheNamedLegsIsRightAndOneThatItCallsOutIsCopiedTo) {
  ASSERT_TRUE(assemble({"a", "b"}));
  write(10, 1, 0x11);
  ASSERT_TRUE(run(manager.remove_base("b")));
  write(10, 1, 0x22);
  Restarted after({{"b", &disk(1)}, {"a", &disk(0)}});
  ASSERT_TRUE(after.assemble({"b", "a"}, 2));
  EXPECT_EQ(after.read(10), 0x22);
  after.until_in_sync();
  EXPECT_TRUE(after.data_alike(0, 1));
  EXPECT_EQ(after.read(10), 0x22);
}

TEST_F(AssemblyTest, ALegUnderRebuildAloneIsNoVolume) {
  ASSERT_TRUE(
      manager.set_options({.process_window_size_kb = 64, .process_max_bandwidth_mb_sec = 1, .log_region_kb = 16}));
  ASSERT_TRUE(assemble({"a"}));
  ASSERT_TRUE(run(manager.add_base("r", "b")));
  for (int i = 0; i < 50; ++i) turn();
  ASSERT_EQ(role(1), SlotRole::rebuilding);
  Restarted after({{"b", &disk(1)}});
  EXPECT_EQ(after.refused({"b"}, 2), Errc::conflict);
}

TEST_F(AssemblyTest, ACreationThatWasCutShortIsDoneAgainAndAWipedLegIsNot) {
  disk(1).fails = [](const Request& request) { return request.op == Op::write && request.lba == 0; };
  EXPECT_EQ(assemble({"a", "b"}).error().code(), Errc::io_error);
  disk(1).fails = nullptr;
  EXPECT_NE(disk(0).bytes[0], 0) << "one leg has its superblock already";
  const Result<void> again = assemble({"a", "b"}, 2);
  ASSERT_TRUE(again) << again.error().message();
  write(5, 1, 0x11);
  until_in_sync();
  EXPECT_TRUE(data_alike(0, 1));
  std::fill(disk(1).bytes.begin(), disk(1).bytes.end(), uint8_t{0});
  Restarted after({{"a", &disk(0)}, {"b", &disk(1)}});
  EXPECT_EQ(after.refused({"a", "b"}, 3), Errc::conflict) << "it lost what it is on record for";
  EXPECT_EQ(after.refused({"b"}, 3, 2, false), Errc::not_found) << "no empty volume in place of a lost one";
  EXPECT_TRUE(after.assemble({"a"}, 3));
}

TEST_F(AssemblyTest, TheLegThatWasReadStaysTheOneAfterAnotherCrash) {
  ASSERT_TRUE(assemble({"a", "b"}));
  ASSERT_TRUE(run(volume().set_epoch(1, true)));  // exclusions are to be confirmed
  write(10, 1, 0x11);
  disk(0).dead = true;  // its exclusion never gets on record
  Io held(Op::write, 10, 1, 0x22);
  raid->submit(held);
  drain();
  ASSERT_FALSE(held.completed);
  Restarted second({{"a", &disk(0)}, {"b", &disk(1)}});
  std::vector<uint8_t> a, b;
  second.disk(0).before_change = [&](const Request&) {  // the copy to it is about to begin: the second crash
    if (!a.empty()) return;
    a = second.disk(0).bytes;
    b = second.disk(1).bytes;
  };
  ASSERT_TRUE(second.assemble({"a", "b"}, 2));
  EXPECT_EQ(second.read(10), 0x22) << "the newer leg is read";
  ASSERT_FALSE(a.empty());
  second.disk(0).bytes = a;
  second.disk(1).bytes = b;
  Restarted third({{"a", &second.disk(0)}, {"b", &second.disk(1)}});
  ASSERT_TRUE(third.assemble({"a", "b"}, 3));
  third.until_in_sync();
  EXPECT_EQ(third.read(10), 0x22);
  ASSERT_TRUE(run(volume().confirm_exclusion(1, "a")));
  drain();
}

TEST_F(AssemblyTest, ALegWhoseCopyFailedIsCalledOutBeforeAnotherTakesItsPlace) {
  ASSERT_TRUE(assemble({"a", "b"}));
  write(64, 1, 0x22);
  Restarted after({{"a", &disk(0)}, {"b", &disk(1)}, {"c", &disk(2)}});
  const auto copies = [](const Request& request) { return request.lba >= kData && request.op != Op::read; };
  after.disk(1).fails = after.disk(2).fails = copies;
  ASSERT_TRUE(after.assemble({"a", "b"}, 2));
  for (int i = 0; i < 50; ++i) after.turn();
  EXPECT_EQ(after.role(1), SlotRole::empty);
  bool called_in_sync = false;
  after.disk(2).fails = [&](const Request& request) {
    const auto superblock = spec::decode_raid_superblock(after.disk(0).bytes).value();
    called_in_sync = called_in_sync || superblock.base_bdevs[1].state == spec::RaidBaseState::configured;
    return copies(request);
  };
  ASSERT_TRUE(after.run(after.manager.add_base("r", "c")));
  for (int i = 0; i < 50; ++i) after.turn();
  EXPECT_EQ(after.role(1), SlotRole::empty);
  EXPECT_FALSE(called_in_sync);
}

TEST_F(AssemblyTest, WhatIsNotThisVolumesLegIsRefusedWithItsReason) {
  add_disk("text", kBlocks)->bytes[70'000] = 1;
  add_disk("small", kData + 8);
  ASSERT_TRUE(run(manager.create({.name = "other", .uuid = {}, .base_bdevs = {"b", "c"}, .superblock = true})));
  EXPECT_EQ(refused({"a", "b"}), Errc::busy);
  ASSERT_TRUE(run(manager.remove("other", false)));
  EXPECT_EQ(refused({"a", "b"}), Errc::already_exists) << "another volume's leg";
  EXPECT_EQ(refused({"a", "text"}), Errc::already_exists) << "somebody else's data";
  EXPECT_EQ(refused({"a", "nobody"}), Errc::no_device);
  EXPECT_EQ(refused({"a", "a"}), Errc::invalid_argument);
  EXPECT_EQ(refused({}), Errc::invalid_argument);
  EXPECT_EQ(refused({"a"}, 0), Errc::invalid_argument);
  EXPECT_EQ(refused({"a"}, 1, 5), Errc::invalid_argument);
  EXPECT_EQ(refused({"a"}, 1, 0), Errc::invalid_argument) << "one leg alone is no mirror";

  ASSERT_TRUE(assemble({"a"}));
  raid.reset();
  ASSERT_TRUE(run(manager.remove("r", false)));
  EXPECT_EQ(refused({"a", "small"}), Errc::invalid_argument) << "too small, and the superblock does not name it";
  EXPECT_EQ(refused({"a"}, 1, 3), Errc::invalid_argument) << "another number of legs";
  const std::vector<uint8_t> a = superblock_of(0);
  disk(0).bytes[200] ^= 1;
  EXPECT_EQ(refused({"a"}), Errc::corrupt);
  std::copy(a.begin(), a.end(), disk(0).bytes.begin());
  EXPECT_TRUE(assemble({"a"}));
}

TEST_F(AssemblyTest, ALegThatKnowsALaterEpochIsNotAdmitted) {
  ASSERT_TRUE(assemble({"a", "b"}));
  ASSERT_TRUE(run(manager.remove_base("b")));
  Restarted later({{"b", &disk(1)}});
  ASSERT_TRUE(later.assemble({"b"}, 9));
  disk(1).bytes = later.disk(0).bytes;  // the same disk, which a later writer has used meanwhile
  EXPECT_EQ(run(manager.add_base("r", "b")).error().code(), Errc::conflict);
  EXPECT_EQ(role(1), SlotRole::empty);
}

TEST_F(AssemblyTest, AnEpochThatIsSetLaterIsOnRecordAtOnce) {
  create(true);
  ASSERT_TRUE(run(volume().set_epoch(3, true)));
  Restarted after({{"a", &disk(0)}, {"b", &disk(1)}});
  EXPECT_FALSE(after.registry.find("r"));
  EXPECT_TRUE(after.assemble({"a", "b"}, 3));
}

TEST_F(AssemblyTest, ALogThatCannotBeReadMayHaveHeldAnEpoch) {
  create(true);
  for (unsigned i = 0; i < 2; ++i) disk(i).bytes[spec::kRaidDirtyLogOffsetBytes + 48] ^= 1;
  Restarted both({{"a", &disk(0)}, {"b", &disk(1)}});
  EXPECT_FALSE(both.registry.find("r"));
  disk(0).bytes[spec::kRaidDirtyLogOffsetBytes + 48] ^= 1;
  Restarted one({{"a", &disk(0)}, {"b", &disk(1)}});
  EXPECT_TRUE(one.registry.find("r")) << "the other leg says that there was none";
}

}  // namespace
}  // namespace diskengine::raid
