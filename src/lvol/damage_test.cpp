// Damaged and hostile stores: whatever bytes its metadata holds, also with right checksums, loading ends with an error
// or with a store that can be used; a damaged page costs the lvol it belongs to and no other.
#include <cstdlib>

#include "base/log.h"
#include "lvol/store.h"
#include "lvol/test_world.h"

namespace diskengine::lvol {
namespace {

namespace bs = spec::blobstore;
constexpr uint64_t kDiskBytes = 4 << 20;
constexpr uint32_t kClusterBytes = 16384;

class Damage {
 public:
  explicit Damage(uint64_t seed) : random_(seed) {}

  void run() {
    make();
    const bool clean = random_.chance(1, 2);
    std::vector<uint8_t> bytes = take(clean);
    const unsigned wounds = 1 + static_cast<unsigned>(random_.below(6));
    for (unsigned i = 0; i < wounds; ++i) wound(bytes);
    use(bytes);
  }

 private:
  void make() {
    disk_ = TestDisk::make({.bytes = kDiskBytes});
    CreateStore options;
    options.name = "lvs";
    options.cluster_bytes = kClusterBytes;
    options.uuid = Uuid::from_random(1, 1);
    store_ = world_.run(Store::create(world_.main(), disk_, options)).value();
    for (const bool thin : {true, false}) {
      Store::NewBlob wanted;
      wanted.name = thin ? "thin" : "thick";
      wanted.uuid = random_.uuid();
      wanted.clusters = thin ? 1500 : 12;
      wanted.thin = thin;
      const auto blob = world_.run(store_->create_blob(wanted)).value();
      const auto channel = world_.open(store_, blob);
      for (uint64_t lba : {0u, 100u, 300u}) EXPECT_TRUE(world_.write(*channel, lba, 40, 7).ok());
      const uint64_t last = thin ? 1400 * 32 : 0;
      EXPECT_TRUE(world_.write(*channel, last, 4, 7).ok());
    }
    world_.settle();
    const auto thin = store_->find("thin");
    EXPECT_TRUE(world_.run(store_->snapshot(thin, "snapshot", random_.uuid())));
    Store::NewBlob clone;
    clone.name = "clone";
    clone.uuid = random_.uuid();
    clone.clusters = 1500;
    clone.thin = true;
    clone.parent = store_->find("snapshot").get();
    const auto blob = world_.run(store_->create_blob(clone)).value();
    const auto channel = world_.open(store_, blob);
    EXPECT_TRUE(world_.write(*channel, 64, 8, 9).ok());
  }
  std::vector<uint8_t> take(bool clean) {
    world_.settle();
    if (clean) {
      EXPECT_TRUE(world_.run(store_->unload()));
    } else {
      store_->abandon();
    }
    world_.settle();
    store_ = nullptr;
    return disk_->bytes;
  }
  // Changes a page that is in use: a byte, a word, or a copy of another page; sealed again or not.
  void wound(std::vector<uint8_t>& bytes) {
    std::vector<size_t> used;
    for (size_t page = 0; page < 300; ++page)
      if (std::any_of(bytes.begin() + static_cast<std::ptrdiff_t>(page * 4096),
                      bytes.begin() + static_cast<std::ptrdiff_t>((page + 1) * 4096),
                      [](uint8_t byte) { return byte != 0; }))
        used.push_back(page);
    const size_t page = used[random_.below(used.size())];
    bs::Page image;
    std::copy_n(bytes.begin() + static_cast<std::ptrdiff_t>(page * 4096), 4096, image.begin());
    switch (random_.below(4)) {
      case 0:
        image[random_.below(4096)] ^= static_cast<uint8_t>(1 + random_.below(255));
        break;
      case 1:
        store_le(image.data() + random_.below(200), static_cast<uint32_t>(random_.next()));
        break;
      case 2:
        store_le(image.data() + random_.below(200), static_cast<uint32_t>(random_.below(300)));
        break;
      default:
        std::copy_n(bytes.begin() + static_cast<std::ptrdiff_t>(used[random_.below(used.size())] * 4096), 4096,
                    image.begin());
    }
    if (random_.chance(3, 4)) bs::seal(image);
    std::copy(image.begin(), image.end(), bytes.begin() + static_cast<std::ptrdiff_t>(page * 4096));
  }

  void use(const std::vector<uint8_t>& bytes) {
    disk_ = TestDisk::make({.bytes = kDiskBytes});
    disk_->load(bytes);
    const auto checked = world_.run(Store::check_disk(world_.main(), disk_, random_.chance(1, 2)));
    static_cast<void>(checked);
    world_.settle();
    for (unsigned round = 0; round < 2; ++round) {
      auto loaded = world_.run(Store::load(world_.main(), disk_));
      world_.settle();
      if (!loaded) return;
      store_ = std::move(loaded).value();
      static_cast<void>(world_.run(store_->check(round == 0)));
      const std::map<uint64_t, Store::BlobPtr> blobs = store_->blobs();
      for (const auto& [id, blob] : blobs) work_with(blob);
      world_.settle();
      const auto report = world_.run(store_->check(false)).value();
      for (const Finding& finding : report.findings)
        EXPECT_NE(finding.kind, Finding::Kind::double_cluster) << finding.text;
      static_cast<void>(world_.run(store_->unload()));
      world_.settle();
      store_ = nullptr;
    }
  }
  void work_with(const Store::BlobPtr& blob) {
    if (!blob->damaged() && blob->map.size() > 0) {
      const auto channel = world_.open(store_, blob);
      const uint64_t blocks = channel->device().size_blocks();
      std::vector<uint8_t> data(512);
      for (unsigned i = 0; i < 5; ++i) {
        static_cast<void>(world_.io(*channel, Op::read, random_.below(blocks), 1, data));
        static_cast<void>(world_.io(*channel, Op::write, random_.below(blocks), 1, data));
      }
      static_cast<void>(world_.io(*channel, Op::unmap, 0, std::min<uint64_t>(blocks, 64)));
    }
    world_.settle();
    if (random_.chance(1, 4)) {
      static_cast<void>(world_.run(store_->delete_blob(blob)));
      return;
    }
    if (random_.chance(1, 8) && !blob->damaged())
      static_cast<void>(world_.run(store_->resize_blob(blob, 1 + random_.below(600))));
  }

  Random random_;
  TestWorld world_;
  std::shared_ptr<TestDisk> disk_;
  Store::Ptr store_;
};

// Seeds to run: DISKENGINE_LVOL_DAMAGE_SEED replays one, DISKENGINE_LVOL_DAMAGES sets how many.
TEST(StoreDamage, NothingOnDiskCrashesOrSpreads) {
  log_set_level(static_cast<LogLevel>(99));
  uint64_t count = 150;
  uint64_t first = Random::from_system().below(1'000'000'000);
  if (const char* many = std::getenv("DISKENGINE_LVOL_DAMAGES")) count = std::strtoull(many, nullptr, 10);
  if (const char* seed = std::getenv("DISKENGINE_LVOL_DAMAGE_SEED")) {
    first = std::strtoull(seed, nullptr, 10);
    count = 1;
  }
  for (uint64_t seed = first; seed < first + count && !testing::Test::HasFailure(); ++seed) {
    SCOPED_TRACE("replay with DISKENGINE_LVOL_DAMAGE_SEED=" + std::to_string(seed));
    Damage(seed).run();
  }
}

}  // namespace
}  // namespace diskengine::lvol
