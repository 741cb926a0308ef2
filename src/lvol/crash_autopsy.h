// Loads a store from a disk that a power cut left, with no help, and holds it to what the story says (crash_story.h).
//
// Threads: the test's. Owner: the test.
#pragma once

#include <algorithm>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "block/decorators/crash_replay.h"
#include "lvol/crash_audit.h"
#include "lvol/crash_story.h"

namespace diskengine::lvol {

class Autopsy {
 public:
  explicit Autopsy(const Story& story) : story_(story) {
    for (const Tracked& tracked : story.lvols()) runs_.push_back(runs_of(tracked));
  }

  // Adds failures to the test for what is wrong with the disk in `image`. Some states, by chance of their own, go on to
  // live: they are written to, emptied, unloaded and looked at from outside.
  void examine(const std::shared_ptr<CrashImage>& image, const CrashReplay::State& state) {
    World world(image, options_for(*image));
    if (!world.examined()) return;
    cut_ = static_cast<int64_t>(state.cut);
    compare_with_story(world);
    if (testing::Test::HasFailure()) return;
    Random random(state.choice ^ state.cut * 0x9e3779b97f4a7c15);
    switch (random.below(kGoesOnOneIn)) {
      case 0:
        live_on(world, random);
        break;
      case 1:
        empty(world);
        break;
      default:
        return;
    }
    if (testing::Test::HasFailure()) return;
    world.close_channels();
    const Result<void> unloaded = world.run(world.manager().unload_store("s"));
    EXPECT_TRUE(unloaded) << unloaded.error().message();
    EXPECT_EQ(Audit(image->bytes()).problems(), "");
  }

  // Loads the store and cuts the power again while, or after, it is being recovered: so many times.
  void examine_recovery(const CrashImage& image, const CrashReplay::State& state, uint64_t states) {
    const std::vector<uint8_t> before(image.bytes().begin(), image.bytes().end());
    World::Options options = options_for(image);
    options.recorded = true;
    options.seed = state.choice | 1;
    CrashRecording recording;
    {
      World world(std::make_shared<CrashImage>(before), options);
      if (!world.examined()) return;
      recording = world.crash().stop().value();
    }
    auto again = std::make_shared<CrashImage>(before);
    CrashReplay::Options replay{.seed = state.choice, .states = states};
    replay.write_cache = options.write_cache;
    CrashReplay(recording, *again, replay).run([&](const CrashReplay::State& second) {
      SCOPED_TRACE("cut again while recovering, at " + second.to_string());
      examine(again, {.cut = state.cut, .choice = second.choice});
      return !testing::Test::HasFailure();
    });
  }

 private:
  World::Options options_for(const CrashImage& image) const {
    World::Options options = story_.shape().world;
    options.seed = 0;
    options.size_blocks = image.size() / options.block_size;
    return options;
  }

  static constexpr uint64_t kGoesOnOneIn = 12;
  struct Run {
    uint64_t first;
    uint64_t count;
  };

  // What to read of a lvol: all that was ever written, one block more on each side, which nobody wrote, and a little
  // from anywhere.
  std::vector<Run> runs_of(const Tracked& tracked) const {
    std::map<uint64_t, bool> sectors;
    tracked.collect_sectors(sectors);
    const uint64_t block = story_.shape().world.block_size / kSectorBytes;
    const uint64_t cluster = story_.cluster_sectors();
    for (uint64_t at = 0; at < tracked.size.latest(); at += 16 * cluster + block) sectors[at] = true;
    std::vector<Run> runs;
    for (const auto& entry : sectors) {
      const uint64_t begin = entry.first / block * block - (entry.first < block ? 0 : block);
      const uint64_t end = entry.first / block * block + 2 * block;
      if (!runs.empty() && begin <= runs.back().first + runs.back().count &&
          end - runs.back().first <= kRunSectorsMax) {
        runs.back().count = end - runs.back().first;
      } else {
        const uint64_t after = runs.empty() ? 0 : runs.back().first + runs.back().count;
        runs.push_back({.first = std::max(begin, after), .count = end - std::max(begin, after)});
      }
    }
    return runs;
  }
  static constexpr uint64_t kRunSectorsMax = 256;

  void compare_with_story(World& world) {
    const std::vector<StoreInfo> stores = world.manager().stores();
    ASSERT_EQ(stores.size(), 1u) << "the store does not load";
    for (const DamagedLvol& damaged : world.manager().damaged())
      ADD_FAILURE() << "damaged: '" << damaged.name << "': " << damaged.reason;
    const std::vector<LvolInfo> lvols = world.lvols();
    std::map<std::string, const LvolInfo*> by_device;
    std::map<std::string, const LvolInfo*> by_name;
    uint64_t owned = 0;
    for (const LvolInfo& lvol : lvols) {
      by_device[lvol.device_name] = &lvol;
      EXPECT_TRUE(by_name.emplace(lvol.name, &lvol).second) << "two lvols are named " << lvol.name;
      owned += lvol.allocated_clusters;
    }
    EXPECT_EQ(owned + stores[0].free_clusters, stores[0].total_data_clusters) << "clusters are lost, or owned twice";
    for (const LvolInfo& lvol : lvols)
      EXPECT_TRUE(lvol.parent_name.empty() || by_name.contains(lvol.parent_name))
          << lvol.name << " has lost its parent";
    size_t known = 0;
    for (size_t i = 0; i < story_.lvols().size(); ++i) {
      const Tracked& tracked = story_.lvols()[i];
      const auto found = by_device.find(tracked.uuid.to_string());
      if (found == by_device.end()) {
        EXPECT_FALSE(tracked.must_exist(cut_)) << "lvol " << tracked.name.latest() << " is gone";
        continue;
      }
      ++known;
      compare_lvol(tracked, *found->second, by_device);
      compare_content(world, tracked, *found->second, runs_[i]);
    }
    EXPECT_EQ(known, lvols.size()) << "there are lvols that nobody made";
    const Result<CheckReport> report = world.run(world.manager().check("s", false));
    ASSERT_TRUE(report) << report.error().message();
    for (const Finding& finding : report->findings) ADD_FAILURE() << "check finds: " << finding.text;
  }

  void compare_lvol(const Tracked& tracked, const LvolInfo& lvol,
                    const std::map<std::string, const LvolInfo*>& others) {
    EXPECT_TRUE(tracked.may_exist(cut_)) << "lvol " << lvol.name << " should not be there";
    EXPECT_TRUE(tracked.name.allows(lvol.name, cut_)) << "it is called " << lvol.name;
    EXPECT_TRUE(tracked.size.allows(lvol.size_bytes / kSectorBytes, cut_)) << lvol.name << " has " << lvol.size_bytes;
    EXPECT_TRUE(tracked.parent.allows(lvol.parent_name, cut_)) << lvol.name << " is over '" << lvol.parent_name << "'";
    // While it is being taken, it and its origin as its clone come together.
    if (tracked.snapshot_of == nullptr || tracked.created.acknowledged(cut_)) return;
    const auto origin = others.find(tracked.snapshot_of->uuid.to_string());
    ASSERT_NE(origin, others.end()) << "the snapshot's origin is gone";
    EXPECT_EQ(origin->second->parent_name, lvol.name) << "the snapshot is there, but its origin is not its clone";
  }

  void compare_content(World& world, const Tracked& tracked, const LvolInfo& lvol, const std::vector<Run>& runs) {
    Channel& channel = world.channel(lvol.device_name, false);
    const uint64_t block = story_.shape().world.block_size / kSectorBytes;
    const uint64_t sectors = lvol.size_bytes / kSectorBytes;
    std::vector<std::unique_ptr<StampedIo>> reads;
    for (const Run& run : runs) {
      if (run.first >= sectors) continue;
      const uint64_t count = std::min(run.count, sectors - run.first);
      reads.push_back(
          std::make_unique<StampedIo>(Op::read, run.first / block, count / block, story_.shape().world.block_size, 0));
      world.submit(channel, *reads.back());
    }
    const auto finished = [&] {
      return std::all_of(reads.begin(), reads.end(), [](auto& io) { return io->finished; });
    };
    ASSERT_TRUE(world.turn_until(finished)) << "a read does not complete";
    for (const auto& read : reads) {
      ASSERT_TRUE(read->status.ok()) << lvol.name << ": a read fails: " << name_of(read->status.code);
      for (uint64_t i = 0; i < read->blocks * block; ++i) {
        const std::optional<uint64_t> stamp = read->stamp_at(i);
        ASSERT_TRUE(stamp.has_value() &&
                    tracked.allows(read->lba * block + i, *stamp, cut_, story_.shape().world.write_cache))
            << lvol.name << " holds " << (stamp.has_value() ? std::to_string(*stamp) : "no one stamp") << " in "
            << tracked.describe(read->lba * block + i);
      }
    }
  }

  // Writes everywhere at once, then reads it back: what belongs to two shows.
  void live_on(World& world, Random& random) {
    constexpr uint64_t kFirstStamp = uint64_t{1} << 40;
    constexpr unsigned kWritesPerLvol = 10;
    const uint64_t block = story_.shape().world.block_size / kSectorBytes;
    struct Written {
      std::string device;
      std::unique_ptr<StampedIo> io;
    };
    std::vector<Written> writes;
    for (const LvolInfo& lvol : world.lvols()) {
      if (lvol.read_only) continue;
      for (const bool on_other : {false, true}) world.channel(lvol.device_name, on_other);
      std::map<uint64_t, bool> taken;
      for (unsigned i = 0; i < kWritesPerLvol; ++i) {
        const uint64_t at = random.below(lvol.size_bytes / kSectorBytes / block);
        if (!taken.emplace(at, true).second) continue;
        writes.push_back({.device = lvol.device_name,
                          .io = std::make_unique<StampedIo>(Op::write, at, 1, story_.shape().world.block_size,
                                                            kFirstStamp + writes.size())});
      }
    }
    for (const Written& written : writes) world.submit(world.channel(written.device, random.chance(1, 2)), *written.io);
    ASSERT_TRUE(world.turn_until([&] {
      return std::all_of(writes.begin(), writes.end(), [](const Written& written) { return written.io->finished; });
    })) << "a write after the cut does not complete";
    for (const Written& written : writes) {
      ASSERT_TRUE(written.io->status.ok()) << "a write after the cut fails: " << name_of(written.io->status.code);
      StampedIo read(Op::read, written.io->lba, 1, story_.shape().world.block_size, 0);
      ASSERT_TRUE(world.run(world.channel(written.device, false), read).ok());
      ASSERT_EQ(read.stamp_at(0), written.io->stamp) << "a write after the cut was overwritten by another";
    }
  }

  // Deletes everything: all space has to come back.
  void empty(World& world) {
    world.close_channels();
    for (bool any = true; any;) {
      any = false;
      for (const LvolInfo& lvol : world.lvols()) {
        if (!lvol.clone_names.empty()) continue;
        const Result<void> done = world.run(world.manager().delete_lvol(lvol.device_name));
        ASSERT_TRUE(done) << done.error().message();
        any = true;
      }
    }
    EXPECT_TRUE(world.lvols().empty());
    const StoreInfo store = world.manager().store("s").value();
    EXPECT_EQ(store.free_clusters, store.total_data_clusters) << "space is lost for good";
  }

  const Story& story_;
  std::vector<std::vector<Run>> runs_;
  int64_t cut_ = 0;
};

}  // namespace diskengine::lvol
