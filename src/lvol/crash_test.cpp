// A power cut at any moment of any operation leaves a store that loads with no help: every write that was acknowledged
// and flushed is there, no sector holds anything but what was written to it, each operation has happened or has not, no
// cluster belongs to two lvols and none is lost.
//
// A sample of the states runs by default. DISKENGINE_CRASH_STATES: how many for each operation;
// DISKENGINE_CRASH_SEED: the story to replay; DISKENGINE_CRASH_STATE: the one state of it.
#include <gtest/gtest.h>

#include <cstdlib>
#include <cstring>

#include "lvol/crash_autopsy.h"
#include "lvol/crash_story.h"

namespace diskengine::lvol {
namespace {

constexpr uint64_t kStatesByDefault = 150;
constexpr uint64_t kStoriesMin = 2;
constexpr uint64_t kStatesPerStory = 500;

std::optional<uint64_t> number_from(const char* variable) {
  const char* text = std::getenv(variable);
  return text == nullptr ? std::nullopt : std::optional<uint64_t>(std::strtoull(text, nullptr, 10));
}

using Script = void (*)(Story&);

struct Trial {
  uint64_t grown_bytes = 0;       // what the disk grows by
  uint64_t recovery_cut_for = 0;  // states of the recovery of each state, of which half as many; 0: it is left to end
};

void replay(const Story& story, uint64_t seed, uint64_t states, std::optional<CrashReplay::State> only,
            const Trial& trial) {
  auto image = std::make_shared<CrashImage>(story.before());
  Autopsy autopsy(story);
  CrashReplay::Options options{.seed = seed, .states = states, .only = only};
  options.write_cache = story.shape().world.write_cache;
  CrashReplay(story.recording(), *image, options).run([&](const CrashReplay::State& state) {
    SCOPED_TRACE("replay with DISKENGINE_CRASH_SEED=" + std::to_string(seed) +
                 " DISKENGINE_CRASH_STATE=" + state.to_string());
    if (trial.recovery_cut_for > 0) {
      autopsy.examine_recovery(*image, state, trial.recovery_cut_for);
    } else {
      autopsy.examine(image, state);
    }
    return !testing::Test::HasFailure();
  });
}

// Tells stories of the script by one seed after another, and replays their cuts.
void survive(Script script, const Trial& trial = {}) {
  log_set_level(static_cast<LogLevel>(99));
  const uint64_t states = number_from("DISKENGINE_CRASH_STATES").value_or(kStatesByDefault);
  uint64_t stories = std::max(kStoriesMin, (states + kStatesPerStory - 1) / kStatesPerStory);
  uint64_t first = Random::from_system().below(1'000'000'000);
  std::optional<CrashReplay::State> only;
  if (const auto seed = number_from("DISKENGINE_CRASH_SEED")) {
    first = *seed;
    stories = 1;
    if (const char* state = std::getenv("DISKENGINE_CRASH_STATE")) only = CrashReplay::State::parse(state).value();
  }
  for (uint64_t seed = first; seed < first + stories && !testing::Test::HasFailure(); ++seed) {
    SCOPED_TRACE("replay with DISKENGINE_CRASH_SEED=" + std::to_string(seed));
    Story::Shape shape = Story::shape_of(seed);
    shape.grown_bytes = trial.grown_bytes == 0 ? 0 : shape.disk_bytes + trial.grown_bytes;
    Story story(seed, shape);
    if (testing::Test::HasFailure()) return;
    script(story);
    if (testing::Test::HasFailure()) return;
    story.end();
    EXPECT_GT(story.recording().events.size(), 20u);
    const uint64_t each = (states + stories - 1) / stories;
    replay(story, seed, trial.recovery_cut_for == 0 ? each : each / (2 * trial.recovery_cut_for) + 1, only, trial);
  }
}

TEST(LvolCrash, FirstWritesThatAllocate) {
  survive([](Story& story) {
    Tracked& a = story.create("a", story.shape().lvol_clusters);
    Tracked& b = story.create("b", story.shape().lvol_clusters);
    story.fill(a, 3);
    story.begin();
    story.load().add(a);
    story.load().add(b);
    story.load().run(120);
  });
}

TEST(LvolCrash, CopiesOnWrite) {
  survive([](Story& story) {
    Tracked& a = story.create("a", story.shape().lvol_clusters);
    story.fill(a, 25);
    Tracked& s = story.snapshot(a, "s");
    Tracked& c = story.clone(s, "c");
    story.fill(c, 3);
    story.begin();
    story.load().add(a);
    story.load().add(c);
    story.load().run(120);
  });
}

TEST(LvolCrash, Unmap) {
  survive([](Story& story) {
    Tracked& a = story.create("a", story.shape().lvol_clusters);
    Tracked& b = story.create("b", story.shape().lvol_clusters);
    story.fill(a, 25);
    story.fill(b, 25);
    Tracked& s = story.snapshot(b, "s");
    static_cast<void>(s);
    story.begin();
    story.load().set_unmaps(7);
    story.load().add(a);
    story.load().add(b);
    story.load().run(150);
  });
}

TEST(LvolCrash, Create) {
  survive([](Story& story) {
    Tracked& a = story.create("a", story.shape().lvol_clusters);
    story.begin();
    story.load().add(a);
    story.load().run(20);
    Tracked& b = story.create("b", story.shape().lvol_clusters / 2);
    story.load().add(b);
    story.load().run(20);
    story.create("c", 7);
    story.load().run(20);
  });
}

TEST(LvolCrash, CreateThickAndResizeIt) {
  survive([](Story& story) {
    Tracked& a = story.create("a", story.shape().lvol_clusters);
    story.begin();
    story.load().add(a);
    story.load().run(10);
    Tracked& b = story.create("b", 30, false);
    story.load().add(b);
    story.load().run(20);
    story.resize(b, 45);
    story.load().run(20);
    story.resize(b, 12);
    story.load().run(20);
  });
}

TEST(LvolCrash, Snapshot) {
  survive([](Story& story) {
    Tracked& a = story.create("a", story.shape().lvol_clusters);
    story.fill(a, 15);
    story.begin();
    story.load().add(a);
    story.load().run(20);
    story.snapshot(a, "s1");
    story.load().run(40);
    story.snapshot(a, "s2");
    story.load().run(20);
  });
}

TEST(LvolCrash, Clone) {
  survive([](Story& story) {
    Tracked& a = story.create("a", story.shape().lvol_clusters);
    story.fill(a, 15);
    Tracked& s = story.snapshot(a, "s");
    story.begin();
    story.load().add(a);
    story.load().run(20);
    Tracked& c = story.clone(s, "c");
    story.load().add(c);
    story.load().run(40);
    Tracked& d = story.clone(s, "d");
    story.load().add(d);
    story.load().run(20);
  });
}

TEST(LvolCrash, Delete) {
  survive([](Story& story) {
    Tracked& a = story.create("a", story.shape().lvol_clusters);
    Tracked& b = story.create("b", story.shape().lvol_clusters);
    Tracked& c = story.create("c", 5);
    story.fill(a, 20);
    story.fill(b, 20);
    story.fill(c, 5);
    story.begin();
    story.load().add(a);
    story.load().run(20);
    story.remove(b);
    story.load().run(30);  // takes over what was freed
    story.remove(c);
    story.load().run(30);
  });
}

TEST(LvolCrash, DeleteASnapshotThatACloneStandsOn) {
  survive([](Story& story) {
    Tracked& a = story.create("a", story.shape().lvol_clusters);
    story.fill(a, 15);
    Tracked& s1 = story.snapshot(a, "s1");
    story.fill(a, 15);
    Tracked& s2 = story.snapshot(a, "s2");
    story.fill(a, 8);
    story.begin();
    story.load().add(a);
    story.load().run(20);
    story.remove(s2);
    story.load().run(30);
    story.remove(s1);
    story.load().run(30);
  });
}

// The first page that a deletion gives up is the first that is free; the transaction that erases it may still have to
// be repeated.
TEST(LvolCrash, DeleteAndWriteAtOnce) {
  survive([](Story& story) {
    Tracked& a = story.create("a", story.shape().lvol_clusters);
    Tracked& s = story.snapshot(a, "s");
    Tracked& b = story.create("b", story.shape().lvol_clusters);
    story.begin();
    story.remove(s);
    story.load().add(b);
    story.load().run(3);
  });
}

TEST(LvolCrash, DeleteAClone) {
  survive([](Story& story) {
    Tracked& a = story.create("a", story.shape().lvol_clusters);
    story.fill(a, 15);
    Tracked& s = story.snapshot(a, "s");
    Tracked& c = story.clone(s, "c");
    story.fill(c, 15);
    story.begin();
    story.load().add(a);
    story.load().run(20);
    story.remove(c);
    story.load().run(40);
  });
}

TEST(LvolCrash, Resize) {
  survive([](Story& story) {
    const uint64_t clusters = story.shape().lvol_clusters;
    Tracked& a = story.create("a", clusters);
    Tracked& b = story.create("b", clusters);
    story.fill(a, 25);
    story.fill(b, 5);
    story.begin();
    story.load().add(a);
    story.load().add(b);
    story.load().run(20);
    story.resize(a, clusters / 3);
    story.load().run(20);
    story.resize(b, clusters * 2);
    story.load().run(20);
    story.resize(a, clusters + 5);
    story.load().run(30);
  });
}

TEST(LvolCrash, Inflate) {
  survive([](Story& story) {
    Tracked& a = story.create("a", 18);
    story.fill(a, 12);
    Tracked& s = story.snapshot(a, "s");
    Tracked& c = story.clone(s, "c");
    story.fill(c, 4);
    story.begin();
    story.load().add(a);
    story.load().add(c);
    story.load().run(20);
    story.inflate(c);
    story.load().run(30);
  });
}

TEST(LvolCrash, Decouple) {
  survive([](Story& story) {
    Tracked& a = story.create("a", story.shape().lvol_clusters);
    story.fill(a, 12);
    Tracked& s = story.snapshot(a, "s");
    Tracked& c = story.clone(s, "c");
    story.fill(c, 4);
    story.begin();
    story.load().add(a);
    story.load().add(c);
    story.load().run(20);
    story.decouple(c);
    story.load().run(30);
  });
}

TEST(LvolCrash, Rename) {
  survive([](Story& story) {
    Tracked& a = story.create("a", story.shape().lvol_clusters);
    story.fill(a, 5);
    Tracked& s = story.snapshot(a, "s");
    story.begin();
    story.load().add(a);
    story.load().run(10);
    story.rename(a, "b");
    story.load().run(10);
    story.rename(s, "a");
    story.load().run(10);
  });
}

TEST(LvolCrash, Grow) {
  survive(
      [](Story& story) {
        Tracked& a = story.create("a", story.shape().lvol_clusters);
        story.fill(a, 5);
        story.begin();
        story.load().add(a);
        story.load().run(20);
        story.grow();
        story.load().run(40);
      },
      {.grown_bytes = uint64_t{2} << 20});
}

TEST(LvolCrash, OneOperationAfterTheOther) {
  survive([](Story& story) {
    Tracked& a = story.create("a", story.shape().lvol_clusters);
    story.fill(a, 8);
    story.snapshot(a, "s");
    story.fill(a, 8);
    Tracked& t = story.snapshot(a, "t");
    story.clone(t, "c");
    story.begin();
    story.load().add(a);
    story.anything(a, 12);
  });
}

TEST(LvolCrash, Unload) {
  survive([](Story& story) {
    Tracked& a = story.create("a", story.shape().lvol_clusters);
    story.fill(a, 5);
    story.begin();
    story.load().add(a);
    story.load().run(20);
    story.snapshot(a, "s");
    story.load().run(20);
    story.load().remove(a);
    story.unload();
  });
}

TEST(LvolCrash, TheRecoveryItself) {
  survive(
      [](Story& story) {
        Tracked& a = story.create("a", story.shape().lvol_clusters);
        story.fill(a, 15);
        Tracked& s = story.snapshot(a, "s");
        Tracked& c = story.clone(s, "c");
        story.fill(c, 3);
        story.begin();
        story.load().add(a);
        story.load().run(30);
        story.remove(c);
        story.snapshot(a, "t");
        story.load().run(10);
        story.remove(s);
        story.load().run(10);
      },
      {.recovery_cut_for = 10});
}

}  // namespace
}  // namespace diskengine::lvol
