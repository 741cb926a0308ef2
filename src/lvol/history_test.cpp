// Random histories of a store against a model, cut off by power failures: I/O from two reactors and operations at the
// same time, a disk that answers in any order, and at the cut any part of what was not flushed is lost, torn at 512
// bytes. What must hold: while it runs, a read returns what was written last; after a cut the store loads with no help
// and no damage, every acknowledged and flushed write is there, what was under way has happened or not, and no cluster
// is lost or shared.
#include <cstdlib>
#include <map>
#include <set>

#include "base/log.h"
#include "lvol/store.h"
#include "lvol/test_world.h"

namespace diskengine::lvol {
namespace {

constexpr uint32_t kClusterBytes = 16384;
constexpr uint64_t kPerCluster = kClusterBytes / 512;
constexpr uint64_t kDiskBytes = 4 << 20;
constexpr uint64_t kClustersMax = 24;  // of a lvol
constexpr size_t kLvols = 7;
constexpr unsigned kIosMax = 8;
constexpr uint64_t kNever = UINT64_MAX;

// What a block may hold: the value that is certain, and those written since, each with the time it was acknowledged.
struct Block {
  struct Value {
    uint64_t stamp;
    uint64_t acknowledged = kNever;
  };
  std::vector<Value> values{{0, 0}};
  unsigned busy = 0;
  bool unknown = false;  // a clone grew: it shows what its parent has there

  void begin(uint64_t stamp) { values.push_back({stamp}); }
  // After a flush that began at `then`.
  void flushed(uint64_t then) {
    for (size_t i = values.size(); i-- > 1;)
      if (values[i].acknowledged < then) {
        values.erase(values.begin(), values.begin() + static_cast<std::ptrdiff_t>(i));
        values.front().acknowledged = 0;
        return;
      }
  }
  bool may_survive(uint64_t stamp) const {
    return unknown ||
           std::any_of(values.begin(), values.end(), [&](const Value& value) { return value.stamp == stamp; });
  }
  bool may_be_read(uint64_t stamp) const {
    if (unknown) return true;
    for (size_t i = values.size(); i-- > 0;) {
      if (values[i].stamp == stamp) return true;
      if (values[i].acknowledged != kNever) return false;
    }
    return false;
  }
  void settle(uint64_t stamp) {
    values = {{stamp, 0}};
    busy = 0;
    unknown = false;
  }
};

struct Volume {
  std::vector<Block> blocks;
  bool read_only = false;
  unsigned ios = 0;
  bool locked = false;                               // no I/O: it is being resized or deleted
  std::array<std::unique_ptr<Channel>, 2> channels;  // on the main reactor and the other one

  void close() { channels = {}; }
};

class History;

struct Io final : Request {
  History* history = nullptr;
  std::string volume;
  std::vector<uint8_t> data;
  std::array<iovec, 2> pieces{};
  uint64_t stamp = 0;
  uint64_t begun = 0;
};

class History {
 public:
  explicit History(uint64_t seed) : random_(seed) {}

  void run(unsigned lives, unsigned steps) {
    disk_ = make_disk();
    world_ = std::make_unique<TestWorld>();
    CreateStore options;
    options.name = "lvs";
    options.cluster_bytes = kClusterBytes;
    options.uuid = Uuid::from_random(1, 1);
    store_ = world_->run(Store::create(world_->main(), disk_, options)).value();
    for (unsigned life = 0; life < lives && !testing::Test::HasFailure(); ++life) {
      live(steps);
      if (random_.chance(1, 5)) {
        end_cleanly();
      } else {
        cut_power();
      }
      if (!testing::Test::HasFailure()) begin_again();
    }
    if (!testing::Test::HasFailure()) end_cleanly();
  }

  void completed(Io& io);
  uint64_t acknowledged = 0;
  uint64_t operations = 0;

 private:
  static std::shared_ptr<TestDisk> make_disk() { return TestDisk::make({.bytes = kDiskBytes}); }
  uint64_t now() { return ++time_; }
  Volume* pick() {
    if (volumes_.empty()) return nullptr;
    auto at = volumes_.begin();
    std::advance(at, static_cast<std::ptrdiff_t>(random_.below(volumes_.size())));
    picked_ = at->first;
    return &at->second;
  }

  void live(unsigned steps) {
    disk_->holds = true;
    for (unsigned i = 0; i < steps && !testing::Test::HasFailure(); ++i) {
      step();
      for (Reactor* reactor : {&world_->main(), &world_->other()})
        disk_->complete_some(*reactor, random_, static_cast<unsigned>(random_.below(5)));
      for (uint64_t turns = random_.below(5); turns-- > 0;)
        (random_.chance(2, 3) ? world_->main() : world_->other()).turn();
    }
  }

  void step() {
    const uint64_t what = random_.below(100);
    if (what < 60) {
      submit_io(what < 40 ? Op::write : what < 48 ? Op::unmap : what < 52 ? Op::write_zeroes : Op::read);
    } else if (what < 68) {
      submit_flush();
    } else if (what < 76 && !operating_) {
      begin_operation();
    }
  }

  // --- I/O

  void submit_io(Op op) {
    Volume* volume = pick();
    if (volume == nullptr || volume->locked || ios_.size() >= kIosMax || volume->blocks.empty()) return;
    if (volume->read_only && op != Op::read) return;
    uint64_t lba = random_.below(volume->blocks.size());
    uint64_t blocks = 1 + random_.below(random_.chance(1, 4) ? 3 * kPerCluster : 8);
    if (random_.chance(1, 3)) {
      lba = lba / kPerCluster * kPerCluster;
      blocks = kPerCluster * (1 + random_.below(2));
    }
    blocks = std::min(blocks, volume->blocks.size() - lba);
    for (uint64_t i = lba; i < lba + blocks; ++i)
      if (volume->blocks[i].busy != 0) return;
    Io& io = make_io(op, *volume);
    io.lba = lba;
    io.blocks = blocks;
    io.stamp = op == Op::write ? ++stamps_ : 0;
    io.fua = op == Op::write && random_.chance(1, 8);
    io.may_unmap = random_.chance(1, 2);
    fill(io);
    for (uint64_t i = lba; i < lba + blocks; ++i) {
      ++volume->blocks[i].busy;
      if (op == Op::read) continue;
      volume->blocks[i].begin(io.stamp);
      // A snapshot that is being taken may or may not have it.
      if (operating_ && snapshot_of_ == io.volume) snapshot_.blocks[i].begin(io.stamp);
    }
    channel_of(*volume).submit(io);
  }
  Channel& channel_of(Volume& volume) {
    const size_t which = random_.below(2);
    std::unique_ptr<Channel>& channel = volume.channels[which];
    if (channel == nullptr)
      channel = world_->open_on(which == 0 ? world_->main() : world_->other(), store_, store_->find(picked_));
    return *channel;
  }

  Io& make_io(Op op, Volume& volume) {
    auto io = std::make_unique<Io>();
    io->history = this;
    io->volume = picked_;
    io->op = op;
    io->begun = now();
    io->done = [](Request& done) noexcept {
      auto& ended = static_cast<Io&>(done);
      ended.history->completed(ended);
    };
    ++volume.ios;
    Io& made = *io;
    ios_.emplace(&made, std::move(io));
    return made;
  }

  void fill(Io& io) {
    if (io.op != Op::read && io.op != Op::write) return;
    io.data.resize(io.blocks * 512);
    for (size_t at = 0; at < io.data.size(); at += 8) store_le(io.data.data() + at, io.stamp);
    const size_t half = random_.below(io.data.size() - 1) + 1;
    io.pieces = {iovec{io.data.data(), half}, iovec{io.data.data() + half, io.data.size() - half}};
    io.iov = io.pieces;
  }

  void submit_flush() {
    Volume* volume = pick();
    if (volume == nullptr || volume->locked) return;
    Io& io = make_io(Op::flush, *volume);
    channel_of(*volume).submit(io);
  }

  static uint64_t stamp_of(const uint8_t* block) {
    const auto stamp = load_le<uint64_t>(block);
    for (size_t at = 8; at < 512; at += 8)
      if (load_le<uint64_t>(block + at) != stamp) return kNever;
    return stamp;
  }

  // --- Operations, one at a time

  void begin_operation() {
    Volume* volume = pick();
    const std::string name = picked_;
    const std::string fresh = "v" + std::to_string(++names_);
    const uint64_t kind = random_.below(10);
    if (volume == nullptr || (kind < 2 && volumes_.size() < kLvols)) {
      begin_create(fresh);
    } else if (kind < 5 && volumes_.size() < kLvols) {
      if (volume->read_only) {
        begin_clone(name, fresh);
      } else {
        begin_snapshot(name, fresh);
      }
    } else if (volume->ios == 0 && kind < 8) {
      if (kind == 5 || volume->read_only) {
        begin_delete(name);
      } else {
        begin_resize(name);
      }
    } else if (!volume->read_only) {
      operating_ = true;
      spawn<Result<void>>(store_->inflate(store_->find(name), random_.chance(1, 2)), [this](Result<void>) { ended(); });
    }
  }
  void ended() {
    operating_ = false;
    ++operations;
  }

  void begin_create(const std::string& name) {
    operating_ = true;
    Store::NewBlob options;
    options.name = name;
    options.uuid = random_.uuid();
    options.clusters = 1 + random_.below(kClustersMax);
    options.thin = random_.chance(3, 4);
    maybe_new_ = name;
    maybe_.blocks.assign(options.clusters * kPerCluster, Block());
    maybe_.read_only = false;
    spawn<Result<Store::BlobPtr>>(store_->create_blob(options), [this](Result<Store::BlobPtr> made) { keep(made); });
  }
  void begin_clone(const std::string& of, const std::string& name) {
    operating_ = true;
    Store::NewBlob options;
    options.name = name;
    options.uuid = random_.uuid();
    const Store::BlobPtr parent = store_->find(of);
    options.clusters = parent->map.size();
    options.thin = true;
    options.parent = parent.get();
    maybe_new_ = name;
    maybe_.blocks = idle_copy(volumes_[of].blocks);
    maybe_.read_only = false;
    locked_ = of;
    volumes_[of].locked = true;  // not deleted meanwhile; reads do not matter
    spawn<Result<Store::BlobPtr>>(store_->create_blob(options), [this](Result<Store::BlobPtr> made) {
      unlock();
      keep(made);
    });
  }
  static std::vector<Block> idle_copy(std::vector<Block> blocks) {
    for (Block& block : blocks) block.busy = 0;
    return blocks;
  }
  void keep(const Result<Store::BlobPtr>& made) {
    if (made) {
      Volume& volume = volumes_[maybe_new_];
      volume.blocks = maybe_.blocks;
      volume.read_only = maybe_.read_only;
    }
    maybe_new_.clear();
    ended();
  }
  void begin_snapshot(const std::string& of, const std::string& name) {
    operating_ = true;
    snapshot_of_ = of;
    snapshot_name_ = name;
    snapshot_.blocks = idle_copy(volumes_[of].blocks);
    spawn<Result<Store::BlobPtr>>(store_->snapshot(store_->find(of), name, random_.uuid()),
                                  [this](const Result<Store::BlobPtr>& made) {
                                    if (made) {
                                      Volume& volume = volumes_[snapshot_name_];
                                      volume.blocks = snapshot_.blocks;
                                      volume.read_only = true;
                                      forget_order(volume);
                                    }
                                    snapshot_of_.clear();
                                    ended();
                                  });
  }
  // Which of the values that were under way a snapshot has is found out by reading, not known from the order.
  static void forget_order(Volume& volume) {
    for (Block& block : volume.blocks) {
      bool open = false;
      for (const Block::Value& value : block.values) open = open || value.acknowledged == kNever;
      if (!open) continue;
      for (Block::Value& value : block.values) value.acknowledged = kNever;
    }
  }
  void begin_delete(const std::string& name) {
    if (store_->find(name)->clones.size() > 1) return;
    operating_ = true;
    volumes_[name].close();
    volumes_[name].locked = true;
    locked_ = name;
    deleting_ = true;
    spawn<Result<void>>(store_->delete_blob(store_->find(name)), [this](const Result<void>& gone) {
      if (gone) {
        volumes_.erase(locked_);
        locked_.clear();
      }
      deleting_ = false;
      unlock();
      ended();
    });
  }
  void begin_resize(const std::string& name) {
    operating_ = true;
    volumes_[name].locked = true;
    locked_ = name;
    resized_to_ = 1 + random_.below(kClustersMax);
    grown_.unknown = store_->find(name)->parent.load() != nullptr;
    spawn<Result<void>>(store_->resize_blob(store_->find(name), resized_to_), [this](const Result<void>& resized) {
      if (resized) volumes_[locked_].blocks.resize(resized_to_ * kPerCluster, grown_);
      resized_to_ = 0;
      unlock();
      ended();
    });
  }
  void unlock() {
    if (!locked_.empty()) volumes_[locked_].locked = false;
    locked_.clear();
  }

  // --- Ends of lives

  void drain() {
    disk_->holds = false;
    world_->run_until([this] {
      for (Reactor* reactor : {&world_->main(), &world_->other()}) disk_->complete_some(*reactor, random_, 1000);
      return ios_.empty() && !operating_;
    });
    EXPECT_TRUE(ios_.empty() && !operating_) << ios_.size() << " requests never ended";
    for (auto& [name, volume] : volumes_) volume.close();
    world_->settle();
  }
  void close_store() {
    store_ = nullptr;
    world_->settle();
    world_ = nullptr;
  }
  void end_cleanly() {
    drain();
    const auto report = world_->run(store_->check(false)).value();
    EXPECT_TRUE(report.sound()) << report.findings.front().text;
    EXPECT_TRUE(world_->run(store_->unload()));
    for (auto& [name, volume] : volumes_)
      for (Block& block : volume.blocks) block.flushed(kNever - 1);
    const std::vector<uint8_t> bytes = disk_->bytes;
    close_store();
    replace_disk(bytes);
    clean_ = true;
  }
  void cut_power() {
    const std::vector<uint8_t> bytes = disk_->after_power_cut(random_);
    // What the model knows at this moment is what counts.
    std::map<std::string, Volume> known;
    for (auto& [name, volume] : volumes_) {
      known[name].blocks = volume.blocks;
      known[name].read_only = volume.read_only;
    }
    const std::string new_name = maybe_new_, snapshot_of = snapshot_of_, locked = locked_;
    const uint64_t resized_to = resized_to_;
    const bool deleting = deleting_;
    Volume maybe, snapshot;
    maybe.blocks = maybe_.blocks;
    snapshot.blocks = snapshot_.blocks;
    disk_->dead = true;
    drain();
    store_->abandon();
    close_store();
    replace_disk(bytes);
    volumes_ = std::move(known);
    maybe_new_ = new_name;
    maybe_.blocks = maybe.blocks;
    snapshot_of_ = snapshot_of;
    snapshot_.blocks = snapshot.blocks;
    locked_ = locked;
    resized_to_ = resized_to;
    deleting_ = deleting;
    clean_ = false;
  }
  void replace_disk(const std::vector<uint8_t>& bytes) {
    disk_ = make_disk();
    disk_->load(bytes);
  }

  // Loads the store and takes what it finds for the truth, if the model allows it.
  void begin_again() {
    world_ = std::make_unique<TestWorld>();
    auto loaded = world_->run(Store::load(world_->main(), disk_));
    ASSERT_TRUE(loaded) << loaded.error().message();
    store_ = std::move(loaded).value();
    for (const auto& [id, blob] : store_->blobs()) ASSERT_FALSE(blob->damaged()) << blob->name << ": " << blob->damage;
    const auto report = world_->run(store_->check(false)).value();
    ASSERT_TRUE(report.sound()) << report.findings.front().text;
    reconcile();
    maybe_new_.clear();
    snapshot_of_.clear();
    locked_.clear();
    resized_to_ = 0;
    deleting_ = false;
    for (auto& [name, volume] : volumes_) verify(name, volume);
    world_->settle();
  }

  void reconcile() {
    std::set<std::string> there;
    for (const auto& [id, blob] : store_->blobs()) there.insert(blob->name);
    if (!maybe_new_.empty() && there.contains(maybe_new_)) volumes_[maybe_new_].blocks = maybe_.blocks;
    if (!snapshot_of_.empty() && there.contains(snapshot_name_)) {
      volumes_[snapshot_name_].blocks = snapshot_.blocks;
      volumes_[snapshot_name_].read_only = true;
    }
    if (deleting_ && !there.contains(locked_)) volumes_.erase(locked_);
    if (resized_to_ != 0 && store_->find(locked_)->map.size() == resized_to_)
      volumes_[locked_].blocks.resize(resized_to_ * kPerCluster, grown_);
    for (auto& [name, volume] : volumes_) ASSERT_TRUE(there.contains(name)) << name << " is lost";
    ASSERT_EQ(there.size(), volumes_.size()) << "a lvol came back";
  }

  void verify(const std::string& name, Volume& volume) {
    const Store::BlobPtr blob = store_->find(name);
    ASSERT_EQ(blob->map.size() * kPerCluster, volume.blocks.size()) << name;
    EXPECT_EQ(blob->read_only, volume.read_only) << name;
    const auto channel = world_->open(store_, blob);
    const std::vector<uint8_t> data = world_->read(*channel, 0, volume.blocks.size());
    for (uint64_t i = 0; i < volume.blocks.size(); ++i) {
      const uint64_t stamp = stamp_of(data.data() + i * 512);
      Block& block = volume.blocks[i];
      ASSERT_TRUE(clean_ ? block.may_be_read(stamp) : block.may_survive(stamp))
          << name << " block " << i << " holds " << stamp << ", not " << block.values.front().stamp;
      block.settle(stamp);
    }
  }

  Random random_;
  std::unique_ptr<TestWorld> world_;
  std::shared_ptr<TestDisk> disk_;
  Store::Ptr store_;
  std::map<std::string, Volume> volumes_;
  std::map<Io*, std::unique_ptr<Io>> ios_;
  std::vector<std::unique_ptr<Io>> done_;
  std::string picked_;
  uint64_t time_ = 0, stamps_ = 0, names_ = 0;
  bool clean_ = false;
  // The operation under way.
  bool operating_ = false;
  std::string maybe_new_, snapshot_of_, snapshot_name_, locked_;
  Volume maybe_, snapshot_;
  uint64_t resized_to_ = 0;
  Block grown_;
  bool deleting_ = false;
};

void History::completed(Io& io) {
  Volume& volume = volumes_[io.volume];
  --volume.ios;
  const uint64_t at = now();
  if (io.status.ok()) ++acknowledged;
  if (io.op == Op::flush) {
    if (io.status.ok()) {
      for (auto& [name, other] : volumes_)
        for (Block& block : other.blocks) block.flushed(io.begun);
    }
  } else {
    for (uint64_t i = io.lba; i < io.lba + io.blocks; ++i) {
      Block& block = volume.blocks[i];
      --block.busy;
      if (!io.status.ok()) continue;
      if (io.op == Op::read) {
        const uint64_t stamp = stamp_of(io.data.data() + (i - io.lba) * 512);
        EXPECT_TRUE(block.may_be_read(stamp)) << io.volume << " block " << i << " reads as " << stamp;
        continue;
      }
      block.values.back().acknowledged = at;
      if (io.fua) block.flushed(at + 1);
    }
  }
  done_.push_back(std::move(ios_.at(&io)));
  ios_.erase(&io);
}

// Seeds to run: DISKENGINE_LVOL_SEED replays one, DISKENGINE_LVOL_HISTORIES sets how many.
TEST(StoreHistory, SurvivesPowerCuts) {
  log_set_level(static_cast<LogLevel>(99));
  uint64_t count = 60;
  uint64_t first = Random::from_system().below(1'000'000'000);
  if (const char* many = std::getenv("DISKENGINE_LVOL_HISTORIES")) count = std::strtoull(many, nullptr, 10);
  if (const char* seed = std::getenv("DISKENGINE_LVOL_SEED")) {
    first = std::strtoull(seed, nullptr, 10);
    count = 1;
  }
  uint64_t operations = 0;
  for (uint64_t seed = first; seed < first + count && !testing::Test::HasFailure(); ++seed) {
    SCOPED_TRACE("replay with DISKENGINE_LVOL_SEED=" + std::to_string(seed));
    History history(seed);
    history.run(6, 250);
    operations += history.operations;
    EXPECT_GT(history.acknowledged, 20u);
  }
  EXPECT_GT(operations, count);
}

}  // namespace
}  // namespace diskengine::lvol
