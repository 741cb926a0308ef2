// One recording of a crash test: a store with some lvols, written and unloaded; loaded again and recorded while things
// happen to it. Everything follows from the seed.
//
// Threads: the test's. Owner: the test, which replays the recording when the story has ended.
#pragma once

#include <deque>
#include <string>
#include <vector>

#include "lvol/crash_load.h"
#include "lvol/crash_model.h"
#include "lvol/crash_world.h"

namespace diskengine::lvol {

class Story {
 public:
  struct Shape {
    uint32_t cluster_bytes = 65536;
    uint64_t disk_bytes = uint64_t{16} << 20;
    uint64_t grown_bytes = 0;  // what the disk grows to: the image's size
    uint64_t lvol_clusters = 40;
    uint32_t md_percent = 100;
    World::Options world;
    Load::Options load;
  };

  // Sizes, block sizes and what the disk can do, by the seed.
  static Shape shape_of(uint64_t seed) {
    Random random(seed);
    Shape shape;
    switch (random.below(3)) {
      case 0:  // several extent pages for each lvol
        shape.cluster_bytes = 4096;
        shape.disk_bytes = uint64_t{8} << 20;
        shape.lvol_clusters = 1100;
        shape.md_percent = 8;
        break;
      case 1:
        shape.cluster_bytes = 16384;
        shape.disk_bytes = uint64_t{10} << 20;
        shape.lvol_clusters = 100;
        shape.md_percent = 25;
        break;
      default:
        shape.md_percent = 60;
        break;
    }
    shape.world.block_size = random.chance(1, 3) ? 4096 : 512;
    shape.world.write_cache = random.chance(3, 4);
    shape.world.can_unmap = random.chance(3, 4);
    shape.world.seed = random.next() | 1;
    shape.load.cluster_sectors = shape.cluster_bytes / kSectorBytes;
    shape.load.depth = 4 + static_cast<unsigned>(random.below(16));
    return shape;
  }

  Story(uint64_t seed, const Shape& shape) : shape_(shape), random_(seed) {
    image_ =
        std::make_shared<CrashImage>(std::vector<uint8_t>(std::max(shape.disk_bytes, shape.grown_bytes), kOldByte));
    shape_.world.size_blocks = shape.disk_bytes / shape.world.block_size;
    World::Options plain = shape_.world;
    plain.seed = 0;
    make_world(plain);
    const Result<Uuid> made =
        world_->run(world_->manager().create_store({.base_bdev = world_->base_name(),
                                                    .name = "s",
                                                    .cluster_bytes = shape.cluster_bytes,
                                                    .md_pages_per_cluster_percent = shape.md_percent}));
    EXPECT_TRUE(made) << made.error().message();
  }

  // Also where the test has failed half-way.
  ~Story() {
    if (world_ == nullptr || load_ == nullptr) return;
    load_->stop();
    EXPECT_TRUE(world_->turn_until([this] { return load_->idle(); })) << "I/O does not complete";
    world_.reset();
  }
  Story(const Story&) = delete;
  Story& operator=(const Story&) = delete;

  // --- Before the recording, or in it

  Tracked& create(const std::string& name, uint64_t clusters, bool thin = true) {
    Tracked& tracked = track(name, clusters * cluster_sectors(), nullptr);
    const Result<LvolInfo> made =
        world_->run(world_->manager().create_lvol({.store = "s",
                                                   .name = name,
                                                   .size_bytes = clusters * shape_.cluster_bytes,
                                                   .thin = thin,
                                                   .uuid = tracked.uuid}));
    EXPECT_TRUE(made) << made.error().message();
    tracked.created.end = moment_now();
    return tracked;
  }
  // --- Before the recording

  // Writes `count` pieces here and there.
  void fill(Tracked& tracked, unsigned count) {
    for (unsigned i = 0; i < count; ++i) {
      const uint64_t block_sectors = shape_.world.block_size / kSectorBytes;
      const uint64_t first =
          Load::pick_sector(random_, tracked.size.latest(), cluster_sectors()) / block_sectors * block_sectors;
      const uint64_t sectors = std::min((1 + random_.below(16)) * block_sectors, tracked.size.latest() - first);
      Channel& channel = world_->channel(tracked.uuid.to_string(), false);
      StampedIo io(Op::write, first / block_sectors, sectors / block_sectors, shape_.world.block_size, ++stamps_);
      EXPECT_TRUE(world_->run(channel, io).ok());
      for (uint64_t at = first; at < first + sectors; ++at) tracked.initial[at] = stamps_;
    }
  }
  // The store as it is becomes the beginning of the recording: everything so far is durable.
  void begin() {
    world_->close_channels();
    const Result<void> unloaded = world_->run(world_->manager().unload_store("s"));
    ASSERT_TRUE(unloaded) << unloaded.error().message();
    world_.reset();
    before_ = {image_->bytes().begin(), image_->bytes().end()};
    for (Tracked& tracked : lvols_) settle(tracked);
    World::Options recorded = shape_.world;
    recorded.recorded = true;
    make_world(recorded);
    load_ = std::make_unique<Load>(*world_, random_.next(), shape_.load);
    ASSERT_EQ(world_->manager().stores().size(), 1u);
  }

  // --- While it is recorded. Each notes when the operation began and ended.

  Tracked& snapshot(Tracked& of, const std::string& name) {
    Tracked& made = track(name, of.size.latest(), &of);
    made.parent = Versions<std::string>(of.parent.latest());
    made.snapshot_of = &of;
    const size_t version = of.parent.begin(name, made.created.begin);
    const Result<LvolInfo> done = world_->run(world_->manager().snapshot(device(of), name, made.uuid));
    EXPECT_TRUE(done) << done.error().message();
    made.created.end = moment_now();
    of.parent.end(version, made.created.end);
    made.read_only = true;
    return made;
  }
  Tracked& clone(Tracked& of, const std::string& name) {
    Tracked& made = track(name, of.size.latest(), &of);
    made.parent = Versions<std::string>(of.name.latest());
    const Result<LvolInfo> done = world_->run(world_->manager().clone(device(of), name, made.uuid));
    EXPECT_TRUE(done) << done.error().message();
    made.created.end = moment_now();
    return made;
  }
  // Its clones, one at most, stand on its parent then.
  void remove(Tracked& gone) {
    gone.removed.begin = moment_now();
    const auto moved = begin_rebase(gone, gone.parent.latest(), gone.removed.begin);
    const Result<void> done = world_->run(world_->manager().delete_lvol(device(gone)));
    EXPECT_TRUE(done) << done.error().message();
    gone.removed.end = moment_now();
    for (const auto& [other, version] : moved) other->parent.end(version, gone.removed.end);
  }
  void resize(Tracked& of, uint64_t clusters) {
    const uint64_t before = of.size.latest();
    const uint64_t after = clusters * cluster_sectors();
    const Moment begun = moment_now();
    of.size_limit = std::min(before, after);
    // The load goes on below the new end; what was beyond it is not read again.
    const size_t version = of.size.begin(after, begun);
    size_t cut = SIZE_MAX;
    if (after < before)
      cut =
          of.begin_change({.first = after, .count = before - after, .stamp = 0, .when = {.begin = begun}, .fua = true});
    const Result<void> done = world_->run(world_->manager().resize_lvol(device(of), clusters * shape_.cluster_bytes));
    EXPECT_TRUE(done) << done.error().message();
    const Moment ended = moment_now();
    of.size.end(version, ended);
    if (cut != SIZE_MAX) of.end_change(cut, ended, true);
    of.size_limit = 0;
  }
  void rename(Tracked& of, const std::string& name) {
    const Moment begun = moment_now();
    const auto clones = begin_rebase(of, name, begun);
    const size_t version = of.name.begin(name, begun);
    const Result<void> done = world_->run(world_->manager().rename_lvol(device(of), name));
    EXPECT_TRUE(done) << done.error().message();
    const Moment ended = moment_now();
    of.name.end(version, ended);
    for (const auto& [other, number] : clones) other->parent.end(number, ended);
  }
  // Of a clone: nobody is its parent then, or its parent's parent.
  void inflate(Tracked& of) { stand_alone(of, true); }
  void decouple(Tracked& of) { stand_alone(of, false); }
  void grow() {
    world_->on_main([this] { world_->disk().resize(shape_.grown_bytes / shape_.world.block_size); });
    const Result<void> done = world_->run(world_->manager().grow_store("s"));
    EXPECT_TRUE(done) << done.error().message();
  }

  // With no load: the recording goes on to its end, with the store unloaded.
  void unload() {
    world_->close_channels();
    const Result<void> done = world_->run(world_->manager().unload_store("s"));
    EXPECT_TRUE(done) << done.error().message();
  }
  // One operation after the other, with nothing in between, on any lvols but `busy`, which is under load and is
  // snapshotted only.
  void anything(Tracked& busy, unsigned operations) {
    for (unsigned i = 0; i < operations && !testing::Test::HasFailure(); ++i) one_of_all(busy);
  }

  // Ends the recording with I/O still in flight, then lets everything end.
  void end() {
    world_->turn_until([] { return false; }, 3);
    Result<CrashRecording> ended = world_->crash().stop();
    ASSERT_TRUE(ended);
    recording_ = std::move(*ended);
    EXPECT_EQ(recording_.refused, 0u) << "the recording was too small";
    load_->stop();
    EXPECT_TRUE(world_->turn_until([this] { return load_->idle(); })) << "I/O does not complete";
    world_.reset();
  }

  Load& load() { return *load_; }
  World& world() { return *world_; }
  const Shape& shape() const { return shape_; }
  const std::deque<Tracked>& lvols() const { return lvols_; }
  const CrashRecording& recording() const { return recording_; }
  const std::vector<uint8_t>& before() const { return before_; }
  uint64_t cluster_sectors() const { return shape_.cluster_bytes / kSectorBytes; }

 private:
  static constexpr uint8_t kOldByte = 0xee;  // somebody's data, which must never be seen

  static std::string device(const Tracked& tracked) { return tracked.uuid.to_string(); }
  Moment moment_now() { return world_->now(); }

  void make_world(const World::Options& options) {
    world_ = std::make_unique<World>(image_, options);
    EXPECT_TRUE(world_->examined());
  }
  // Before the recording a lvol stands on its own in the model.
  Tracked& track(const std::string& name, uint64_t sectors, const Tracked* over) {
    const bool early = load_ == nullptr;
    Tracked& made =
        lvols_.emplace_back(name, random_.uuid(), sectors, Span{.begin = moment_now()}, early ? nullptr : over);
    if (early && over != nullptr) made.initial = over->initial;
    return made;
  }
  static void settle(Tracked& tracked) {
    tracked.created = {.begin = kBeforeAll, .end = kBeforeAll};
    tracked.snapshot_of = nullptr;
    tracked.name = Versions<std::string>(tracked.name.latest());
    tracked.size = Versions<uint64_t>(tracked.size.latest());
    tracked.parent = Versions<std::string>(tracked.parent.latest());
  }
  // The clones of `parent` get another name for it, or another parent.
  std::vector<std::pair<Tracked*, size_t>> begin_rebase(const Tracked& parent, const std::string& onto, Moment now) {
    std::vector<std::pair<Tracked*, size_t>> moved;
    for (Tracked& other : lvols_)
      if (&other != &parent && other.parent.latest() == parent.name.latest())
        moved.emplace_back(&other, other.parent.begin(onto, now));
    return moved;
  }
  size_t clones_of(const Tracked& tracked) const {
    return static_cast<size_t>(std::count_if(lvols_.begin(), lvols_.end(), [&](const Tracked& other) {
      return other.removed.begin == kNotYet && other.parent.latest() == tracked.name.latest();
    }));
  }
  void one_of_all(Tracked& busy) {
    constexpr size_t kEnough = 8;
    const std::string name = "n" + std::to_string(++names_);
    std::vector<Tracked*> there;
    for (Tracked& tracked : lvols_)
      if (tracked.removed.begin == kNotYet && &tracked != &busy) there.push_back(&tracked);
    const uint64_t what = random_.below(8);
    if (there.size() < kEnough && (there.empty() || what < 2)) return static_cast<void>(snapshot(busy, name));
    if (there.size() < kEnough && what < 3) return static_cast<void>(create(name, 1 + random_.below(20)));
    Tracked& one = *there[random_.below(there.size())];
    if (there.size() < kEnough && what < 5 && one.read_only) return static_cast<void>(clone(one, name));
    if (what < 7 && clones_of(one) <= 1) return remove(one);
    if (!one.read_only && !one.parent.latest().empty()) return decouple(one);
    if (!one.read_only) return resize(one, 1 + random_.below(40));
    rename(one, name);
  }
  void stand_alone(Tracked& of, bool all) {
    const auto parent = std::find_if(lvols_.begin(), lvols_.end(), [&](const Tracked& other) {
      return other.removed.begin == kNotYet && other.name.latest() == of.parent.latest();
    });
    const size_t version = of.parent.begin(all ? "" : parent->parent.latest(), moment_now());
    LvolManager& manager = world_->manager();
    const Result<void> done =
        all ? world_->run(manager.inflate(device(of))) : world_->run(manager.decouple_parent(device(of)));
    EXPECT_TRUE(done) << done.error().message();
    of.parent.end(version, moment_now());
  }

  Shape shape_;
  Random random_;
  std::shared_ptr<CrashImage> image_;
  std::unique_ptr<World> world_;
  std::unique_ptr<Load> load_;
  std::deque<Tracked> lvols_;
  uint64_t stamps_ = 0;
  uint64_t names_ = 0;
  std::vector<uint8_t> before_;
  CrashRecording recording_;
};

}  // namespace diskengine::lvol
