// Random histories of a store against a model that keeps each lvol as a plain list of sectors: I/O from two reactors,
// in batches that meet in clusters but not in sectors, while lvols are made, snapshotted, cloned, resized, inflated,
// decoupled, renamed and deleted, and the store is reloaded, unloaded or as a crash leaves it. What must hold: every
// read finds what the model says; every cluster is free or owned once; at the end an unloaded store is right in all its
// masks, and a store whose lvols are all deleted is all free.
//
// DISKENGINE_LVOL_SEED replays one history, DISKENGINE_LVOL_HISTORIES sets how many there are.
#include <gtest/gtest.h>

#include <algorithm>
#include <cstdlib>
#include <map>
#include <memory>
#include <set>

#include "lvol/crash_audit.h"
#include "lvol/crash_world.h"

namespace diskengine::lvol {
namespace {

struct Volume {
  std::string name;
  Uuid uuid;
  std::vector<uint64_t> sectors;  // the stamp of each
  std::string parent;             // name of the snapshot below; empty: none
  bool snapshot = false;

  std::string device() const { return uuid.to_string(); }
};

struct Shape {
  uint32_t cluster_bytes = 16384;
  uint64_t disk_bytes = uint64_t{24} << 20;
  uint64_t clusters_max = 40;  // of one lvol
  uint32_t md_percent = 30;
  size_t volumes_max = 10;
};

class History {
 public:
  History(uint64_t seed, const Shape& shape) : random_(seed), shape_(shape) {
    options_.block_size = random_.chance(1, 3) ? 4096 : 512;
    options_.write_cache = random_.chance(1, 2);
    options_.can_unmap = random_.chance(3, 4);
    image_ = std::make_shared<CrashImage>(std::vector<uint8_t>(shape.disk_bytes, 0xee));  // somebody's old data
    open();
    const Result<Uuid> made =
        world_->run(world_->manager().create_store({.base_bdev = "disk0",
                                                    .name = "s",
                                                    .cluster_bytes = shape.cluster_bytes,
                                                    .clear_method = ClearMethod::none,
                                                    .md_pages_per_cluster_percent = shape.md_percent}));
    EXPECT_TRUE(made) << made.error().message();
  }

  void run(unsigned steps) {
    for (unsigned i = 0; i < steps && !testing::Test::HasFailure(); ++i) {
      step();
      if (!testing::Test::HasFailure()) check_space();
      if (!testing::Test::HasFailure() && !volumes_.empty()) check_content(pick());
    }
    if (!testing::Test::HasFailure()) finish();
  }

  uint64_t written = 0;

 private:
  struct Planned {
    std::unique_ptr<StampedIo> io;
    Volume* volume = nullptr;
    uint64_t first = 0;  // sector
    uint64_t count = 0;
  };

  void open() {
    World::Options options = options_;
    options.seed = random_.next() | 1;
    world_ = std::make_unique<World>(image_, options);
    EXPECT_TRUE(world_->examined());
  }
  uint64_t cluster_sectors() const { return shape_.cluster_bytes / kSectorBytes; }
  uint64_t block_sectors() const { return options_.block_size / kSectorBytes; }
  Volume& pick() {
    auto at = volumes_.begin();
    std::advance(at, random_.below(volumes_.size()));
    return at->second;
  }
  bool has_clones(const Volume& volume) const {
    return std::any_of(volumes_.begin(), volumes_.end(),
                       [&](const auto& entry) { return entry.second.parent == volume.name; });
  }
  std::string new_name() { return "v" + std::to_string(++names_); }

  void step() {
    const uint64_t what = random_.below(100);
    if (volumes_.empty() || (what < 10 && volumes_.size() < shape_.volumes_max)) return create();
    if (what < 50) return static_cast<void>(batch(nullptr, nullptr));
    if (what < 58 && volumes_.size() < shape_.volumes_max) return snapshot();
    if (what < 65 && volumes_.size() < shape_.volumes_max) return clone();
    if (what < 73) return remove();
    if (what < 80) return resize();
    if (what < 86) return stand_alone(true);
    if (what < 92) return stand_alone(false);
    if (what < 94) return rename();
    reload(what < 97);
  }

  void create() {
    Volume volume{.name = new_name(), .uuid = random_.uuid(), .sectors = {}, .parent = "", .snapshot = false};
    const uint64_t clusters = 1 + random_.below(shape_.clusters_max);
    const Result<LvolInfo> made =
        world_->run(world_->manager().create_lvol({.store = "s",
                                                   .name = volume.name,
                                                   .size_bytes = clusters * shape_.cluster_bytes,
                                                   .thin = true,
                                                   .uuid = volume.uuid}));
    ASSERT_TRUE(made) << made.error().message();
    volume.sectors.resize(clusters * cluster_sectors());
    volumes_[volume.name] = volume;
  }

  // Runs I/O on several lvols and, in the midst of it, an operation of the manager, which may find too little space and
  // then has changed nothing: false. `quiet`: a lvol that is left alone.
  bool batch(const std::function<Task<Result<void>>()>& operation, const Volume* quiet) {
    std::vector<Planned> planned;
    std::map<const Volume*, std::set<uint64_t>> taken;  // blocks
    const uint64_t count = 1 + random_.below(12);
    for (uint64_t i = 0; i < count; ++i) {
      Volume& volume = pick();
      if (&volume != quiet) plan(volume, taken[&volume], planned);
    }
    std::optional<Result<void>> ended;
    const uint64_t before = random_.below(planned.size() + 1);
    for (size_t i = 0; i <= planned.size(); ++i) {
      if (i == before && operation != nullptr)
        world_->begin<Result<void>>(operation(), [&](Result<void> result) { ended.emplace(std::move(result)); });
      if (i == planned.size()) break;
      Planned& now = planned[i];
      world_->submit(world_->channel(now.volume->device(), random_.chance(1, 2)), *now.io);
      for (uint64_t turns = random_.below(4); turns > 0; --turns) world_->turn();
    }
    EXPECT_TRUE(world_->turn_until([&] {
      return (operation == nullptr || ended.has_value()) &&
             std::all_of(planned.begin(), planned.end(), [](const Planned& now) { return now.io->finished; });
    })) << "something does not complete";
    if (testing::Test::HasFailure()) return false;
    for (const Planned& now : planned) settle(now);
    if (!ended.has_value() || *ended) return !testing::Test::HasFailure();
    EXPECT_EQ(ended->error().code(), Errc::no_space) << ended->error().message();
    return false;
  }

  void plan(Volume& volume, std::set<uint64_t>& taken, std::vector<Planned>& planned) {
    static constexpr Op kOps[] = {Op::write, Op::write, Op::write, Op::write,       Op::read,
                                  Op::read,  Op::unmap, Op::flush, Op::write_zeroes};
    Op op = kOps[random_.below(std::size(kOps))];
    for (const bool on_other : {false, true}) {
      const Channel& channel = world_->channel(volume.device(), on_other);
      if (op == Op::unmap && !channel.device().info().can_unmap) op = Op::write_zeroes;
      if (op == Op::write_zeroes && !channel.device().info().can_write_zeroes) op = Op::write;
    }
    if (volume.snapshot && op != Op::flush) op = Op::read;
    const uint64_t cluster = cluster_sectors();
    uint64_t first = random_.below(volume.sectors.size()) / block_sectors() * block_sectors();
    uint64_t count = block_sectors() * (1 + random_.below(random_.chance(1, 4) ? 3 * cluster / block_sectors() : 6));
    if (random_.chance(1, 5)) {
      first = first / cluster * cluster;
      count = cluster * (1 + random_.below(2));
    }
    count = std::min(count, volume.sectors.size() - first);
    if (op != Op::flush) {
      for (uint64_t at = first; at < first + count; at += block_sectors())
        if (taken.contains(at)) return;
      for (uint64_t at = first; at < first + count; at += block_sectors()) taken.insert(at);
    }
    const uint64_t blocks = op == Op::flush ? 0 : count / block_sectors();
    auto io = std::make_unique<StampedIo>(op, first / block_sectors(), blocks, options_.block_size,
                                          op == Op::write ? ++stamps_ : 0);
    io->may_unmap = op == Op::write_zeroes && random_.chance(1, 2);
    planned.push_back({.io = std::move(io), .volume = &volume, .first = first, .count = count});
  }

  void settle(const Planned& now) {
    const StampedIo& io = *now.io;
    ASSERT_TRUE(io.status.ok() || io.status.code == IoCode::no_space)
        << now.volume->name << ": " << name_of(io.op) << " fails: " << name_of(io.status.code);
    if (io.op == Op::flush || testing::Test::HasFailure()) return;
    if (io.op == Op::read) {
      for (uint64_t i = 0; i < now.count; ++i) expect(*now.volume, now.first + i, io.stamp_at(i));
    } else if (!io.status.ok() || io.op == Op::unmap) {
      adopt(*now.volume, now.first, now.count, io.stamp);
    } else {
      written += now.count;
      std::fill_n(now.volume->sectors.begin() + static_cast<std::ptrdiff_t>(now.first), now.count, io.stamp);
    }
  }
  // What a sector holds is one of two things; from now on it is what it holds now.
  void adopt(Volume& volume, uint64_t first, uint64_t count, uint64_t or_stamp) {
    const std::vector<std::optional<uint64_t>> found = read(volume, first, count);
    for (uint64_t i = 0; i < found.size(); ++i) {
      uint64_t& sector = volume.sectors[first + i];
      if (found[i] == std::optional<uint64_t>(or_stamp)) sector = or_stamp;
      expect(volume, first + i, found[i]);
    }
  }
  void expect(const Volume& volume, uint64_t sector, std::optional<uint64_t> found) const {
    ASSERT_TRUE(found.has_value()) << volume.name << " sector " << sector << " holds no one stamp";
    ASSERT_EQ(*found, volume.sectors[sector]) << volume.name << " sector " << sector;
  }
  std::vector<std::optional<uint64_t>> read(const Volume& volume, uint64_t first, uint64_t count) {
    std::vector<std::optional<uint64_t>> found;
    constexpr uint64_t kSectorsAtOnce = 512;
    Channel& channel = world_->channel(volume.device(), random_.chance(1, 2));
    for (uint64_t at = first; at < first + count; at += kSectorsAtOnce) {
      const uint64_t sectors = std::min(kSectorsAtOnce, first + count - at);
      StampedIo io(Op::read, at / block_sectors(), sectors / block_sectors(), options_.block_size, 0);
      EXPECT_TRUE(world_->run(channel, io).ok());
      for (uint64_t i = 0; i < sectors; ++i) found.push_back(io.stamp_at(i));
    }
    return found;
  }
  void check_content(const Volume& volume) {
    const auto found = read(volume, 0, volume.sectors.size());
    for (uint64_t i = 0; i < found.size() && !testing::Test::HasFailure(); ++i) expect(volume, i, found[i]);
  }

  static Task<Result<void>> without_value(Task<Result<LvolInfo>> task) {
    Result<LvolInfo> made = co_await task;
    CO_TRY(made);
    co_return Result<void>{};
  }

  void snapshot() {
    Volume& of = pick();
    if (of.snapshot) return;
    Volume made{
        .name = new_name(), .uuid = random_.uuid(), .sectors = of.sectors, .parent = of.parent, .snapshot = true};
    if (!batch([&] { return without_value(world_->manager().snapshot(of.device(), made.name, made.uuid)); }, nullptr))
      return;
    of.parent = made.name;
    volumes_[made.name] = made;
    Volume& snapshot = volumes_[made.name];
    // What was written meanwhile is in it or not.
    for (uint64_t i = 0; i < of.sectors.size(); i += block_sectors())
      if (of.sectors[i] != snapshot.sectors[i]) adopt(snapshot, i, block_sectors(), of.sectors[i]);
  }
  void clone() {
    Volume& of = pick();
    if (!of.snapshot) return;
    Volume made{
        .name = new_name(), .uuid = random_.uuid(), .sectors = of.sectors, .parent = of.name, .snapshot = false};
    if (!batch([&] { return without_value(world_->manager().clone(of.device(), made.name, made.uuid)); }, nullptr))
      return;
    volumes_[made.name] = made;
  }
  void remove() {
    Volume& gone = pick();
    const auto clones = std::count_if(volumes_.begin(), volumes_.end(),
                                      [&](const auto& entry) { return entry.second.parent == gone.name; });
    world_->close_channels(gone.device());
    if (clones > 1) {
      const Result<void> refused = world_->run(world_->manager().delete_lvol(gone.device()));
      ASSERT_FALSE(refused) << "a snapshot with two clones was deleted";
      return;
    }
    if (!batch([&] { return world_->manager().delete_lvol(gone.device()); }, &gone)) return;
    for (auto& [name, volume] : volumes_)
      if (volume.parent == gone.name) volume.parent = gone.parent;
    volumes_.erase(std::string(gone.name));
  }
  void resize() {
    Volume& of = pick();
    if (of.snapshot) return;
    const uint64_t clusters = 1 + random_.below(shape_.clusters_max);
    if (!batch([&] { return world_->manager().resize_lvol(of.device(), clusters * shape_.cluster_bytes); }, &of))
      return;
    const uint64_t before = of.sectors.size();
    of.sectors.resize(clusters * cluster_sectors());
    if (of.parent.empty()) return;
    // As in SPDK, what is below shows again where a clone grows.
    const std::vector<uint64_t>& below = volumes_[of.parent].sectors;
    for (uint64_t i = before; i < std::min(of.sectors.size(), below.size()); ++i) of.sectors[i] = below[i];
  }
  void stand_alone(bool all) {
    Volume& of = pick();
    if (of.parent.empty() || of.snapshot || (all && !fits(of))) return;
    const std::string below = volumes_[of.parent].parent;
    const auto operation = [&] {
      return all ? world_->manager().inflate(of.device()) : world_->manager().decouple_parent(of.device());
    };
    if (!batch(operation, nullptr)) return;
    of.parent = world_->manager().lvol(of.device()).value().parent_name;
    EXPECT_TRUE(of.parent.empty() || (!all && of.parent == below)) << of.name << " is over " << of.parent;
  }
  bool fits(const Volume& volume) {
    constexpr uint64_t kForTheBatch = 40;  // clusters
    return world_->manager().store("s").value().free_clusters >
           volume.sectors.size() / cluster_sectors() + kForTheBatch;
  }
  void rename() {
    Volume& of = pick();
    const std::string old = of.name;
    const std::string name = new_name();
    if (!batch([&] { return world_->manager().rename_lvol("s/" + old, name); }, nullptr)) return;
    Volume moved = of;
    moved.name = name;
    volumes_.erase(old);
    volumes_[name] = moved;
    for (auto& entry : volumes_)
      if (entry.second.parent == old) entry.second.parent = name;
  }

  void reload(bool clean) {
    auto copy = std::make_shared<CrashImage>(std::vector<uint8_t>(image_->bytes().begin(), image_->bytes().end()));
    world_->close_channels();
    if (clean) unload();
    world_.reset();
    if (!clean) image_ = copy;  // as it was before the store was unloaded
    open();
    ASSERT_EQ(world_->manager().stores().size(), 1u);
    EXPECT_TRUE(world_->manager().damaged().empty());
    std::map<std::string, LvolInfo> found;
    for (const LvolInfo& lvol : world_->lvols()) found[lvol.name] = lvol;
    ASSERT_EQ(found.size(), volumes_.size());
    for (const auto& [name, volume] : volumes_) {
      ASSERT_TRUE(found.contains(name)) << name;
      EXPECT_EQ(found[name].uuid, volume.uuid);
      EXPECT_EQ(found[name].size_bytes, volume.sectors.size() * kSectorBytes);
      EXPECT_EQ(found[name].parent_name, volume.parent);
      EXPECT_EQ(found[name].read_only, volume.snapshot);
      check_content(volume);
    }
  }
  void unload() {
    const Result<void> unloaded = world_->run(world_->manager().unload_store("s"));
    ASSERT_TRUE(unloaded) << unloaded.error().message();
    const Audit audit(image_->bytes());
    EXPECT_EQ(audit.problems(), "");
    EXPECT_EQ(audit.blobs(), volumes_.size() + 1) << "the lvols and the store's own";
  }

  void check_space() {
    const StoreInfo store = world_->manager().store("s").value();
    uint64_t owned = 0;
    for (const LvolInfo& lvol : world_->lvols()) owned += lvol.allocated_clusters;
    ASSERT_EQ(owned + store.free_clusters, store.total_data_clusters);
    if (!random_.chance(1, 8)) return;
    const Result<CheckReport> report = world_->run(world_->manager().check("s", false));
    ASSERT_TRUE(report) << report.error().message();
    for (const Finding& finding : report->findings) ADD_FAILURE() << "check finds: " << finding.text;
  }

  void finish() {
    for (const auto& entry : volumes_) check_content(entry.second);
    reload(true);
    world_->close_channels();
    while (!volumes_.empty() && !testing::Test::HasFailure()) {
      const auto leaf =
          std::find_if(volumes_.begin(), volumes_.end(), [&](const auto& entry) { return !has_clones(entry.second); });
      const Result<void> deleted = world_->run(world_->manager().delete_lvol(leaf->second.device()));
      ASSERT_TRUE(deleted) << deleted.error().message();
      volumes_.erase(leaf);
    }
    const StoreInfo store = world_->manager().store("s").value();
    EXPECT_EQ(store.free_clusters, store.total_data_clusters);
    unload();
  }

  Random random_;
  Shape shape_;
  World::Options options_;
  std::shared_ptr<CrashImage> image_;
  std::unique_ptr<World> world_;
  std::map<std::string, Volume> volumes_;
  uint64_t names_ = 0;
  uint64_t stamps_ = 0;
};

void run_histories(const Shape& shape, uint64_t count) {
  log_set_level(static_cast<LogLevel>(99));
  uint64_t first = Random::from_system().below(1'000'000'000);
  if (const char* many = std::getenv("DISKENGINE_LVOL_HISTORIES")) count = std::strtoull(many, nullptr, 10);
  if (const char* seed = std::getenv("DISKENGINE_LVOL_SEED")) {
    first = std::strtoull(seed, nullptr, 10);
    count = 1;
  }
  for (uint64_t seed = first; seed < first + count && !testing::Test::HasFailure(); ++seed) {
    SCOPED_TRACE("replay with DISKENGINE_LVOL_SEED=" + std::to_string(seed));
    History history(seed, shape);
    history.run(150);
    EXPECT_GT(history.written, 0u);
  }
}

TEST(LvolHistory, SmallClusters) { run_histories({}, 4); }
TEST(LvolHistory, SeveralExtentPages) {
  run_histories({.cluster_bytes = 4096, .clusters_max = 1300, .md_percent = 10, .volumes_max = 6}, 2);
}
TEST(LvolHistory, LargeClusters) {
  run_histories({.cluster_bytes = 65536, .disk_bytes = uint64_t{48} << 20, .clusters_max = 20, .md_percent = 60}, 2);
}
TEST(LvolHistory, AStoreThatFillsUp) {
  run_histories({.disk_bytes = uint64_t{3} << 20, .clusters_max = 60, .md_percent = 50}, 4);
}

}  // namespace
}  // namespace diskengine::lvol
