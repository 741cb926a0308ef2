// Random histories of a mirror (raid/test_history.h) that are cut off by crashes: of what is under way at that moment
// some is on the medium and some is not. The next process begins with that. By their superblocks alone volumes come
// back when the newest leg appears first; those whose record somebody keeps come back from the legs on record, whatever
// appears.
#include "raid/test_history.h"

namespace diskengine::raid {
namespace {

void run_crashes(const History::Shape& shape, uint64_t count) {
  run_seeds(count, [&](uint64_t seed) {
    Random lengths(seed);
    auto history = std::make_unique<History>(seed, shape);
    History::Remains remains = history->run_and_crash(200 + static_cast<unsigned>(lengths.below(1500)));
    for (unsigned crash = 0; crash < 3 && !testing::Test::HasFailure(); ++crash) {
      history = std::make_unique<History>(seed * 4 + crash, shape, remains);
      if (testing::Test::HasFailure()) break;
      remains = history->run_and_crash(100 + static_cast<unsigned>(lengths.below(1000)));
    }
  });
}

TEST(MirrorCrashes, TwoLegs) { run_crashes({.legs = 2, .superblock = true}, 5); }
TEST(MirrorCrashes, ThreeLegs) { run_crashes({.legs = 3, .superblock = true, .region_kb = 8}, 4); }
TEST(MirrorCrashes, TwoLegsOnRecord) { run_crashes({.legs = 2, .superblock = true, .record = true}, 5); }
TEST(MirrorCrashes, ThreeLegsOnRecord) {
  run_crashes({.legs = 3, .superblock = true, .region_kb = 8, .record = true}, 4);
}

// Some legs lose their caches meanwhile.
TEST(MirrorCrashes, TwoLegsThatCache) { run_crashes({.legs = 2, .superblock = true, .caches = true}, 5); }
TEST(MirrorCrashes, TwoLegsThatCacheOnRecord) {
  run_crashes({.legs = 2, .superblock = true, .caches = true, .record = true}, 5);
}
TEST(MirrorCrashes, ThreeLegsThatCacheOnRecord) {
  run_crashes({.legs = 3, .superblock = true, .region_kb = 8, .caches = true, .record = true}, 4);
}

}  // namespace
}  // namespace diskengine::raid
