// Random histories of a mirror (raid/test_history.h) that end in order.
#include "raid/test_history.h"

namespace diskengine::raid {
namespace {

void run_histories(const History::Shape& shape, uint64_t count) {
  run_seeds(count, [&](uint64_t seed) {
    History history(seed, shape);
    history.run(3000);
    EXPECT_GT(history.succeeded, 20u);
  });
}

TEST(MirrorHistory, TwoLegsWithoutFailures) { run_histories({.legs = 2, .failures = false}, 10); }
TEST(MirrorHistory, TwoLegsThatFail) { run_histories({.legs = 2}, 20); }
TEST(MirrorHistory, ThreeLegsThatFail) { run_histories({.legs = 3}, 10); }
TEST(MirrorHistory, SuperblocksAndLegsThatFail) { run_histories({.legs = 2, .superblock = true}, 6); }
TEST(MirrorHistory, ExclusionsThatAreConfirmed) { run_histories({.legs = 3, .superblock = true, .confirm = true}, 6); }
TEST(MirrorHistory, LegsThatLoseTheirCaches) { run_histories({.legs = 2, .superblock = true, .caches = true}, 6); }
TEST(MirrorHistory, ThreeLegsThatLoseTheirCaches) { run_histories({.legs = 3, .confirm = true, .caches = true}, 6); }
TEST(MirrorHistory, WindowsOfOneBlock) { run_histories({.legs = 2, .window_kb = 1}, 6); }

}  // namespace
}  // namespace diskengine::raid
