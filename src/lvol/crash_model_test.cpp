// The crash tests' notion of what a cut may leave is neither too strict nor too lax.
#include "lvol/crash_model.h"

#include <gtest/gtest.h>

namespace diskengine::lvol {
namespace {

constexpr Uuid kUuid{};

// Events are given as small numbers; each moment is later than those before it.
class CrashModel : public testing::Test {
 protected:
  Moment at(uint64_t events) { return moment(events, ++serial); }
  size_t write(Tracked& to, uint64_t stamp, uint64_t begin, bool fua = false) {
    return to.begin_change({.first = 10, .count = 2, .stamp = stamp, .when = {.begin = at(begin)}, .fua = fua});
  }
  // The stamps below 10 that sector 10 may hold.
  static std::vector<uint64_t> allowed(const Tracked& of, int64_t cut, bool write_cache = true) {
    std::vector<uint64_t> all;
    for (uint64_t stamp = 0; stamp < 10; ++stamp)
      if (of.allows(10, stamp, cut, write_cache)) all.push_back(stamp);
    return all;
  }
  using Stamps = std::vector<uint64_t>;
  uint64_t serial = 0;
};

TEST_F(CrashModel, AWriteMayShowFromItsSubmissionAndMustOnceItWasFlushed) {
  Tracked lvol("a", kUuid, 100, {kBeforeAll, kBeforeAll});
  const size_t first = write(lvol, 1, 5);
  lvol.end_change(first, at(8), true);
  const Moment flush = at(10);
  lvol.flushed({.begin = flush, .end = at(12)});
  EXPECT_EQ(allowed(lvol, 5), (Stamps{0}));
  EXPECT_EQ(allowed(lvol, 6), (Stamps{0, 1}));
  EXPECT_EQ(allowed(lvol, 11), (Stamps{0, 1}));
  EXPECT_EQ(allowed(lvol, 12), (Stamps{1}));
  EXPECT_EQ(allowed(lvol, 7, false), (Stamps{0, 1}));
  EXPECT_EQ(allowed(lvol, 8, false), (Stamps{1})) << "without a cache the acknowledgement is enough";
  EXPECT_FALSE(lvol.allows(12, 1, 12, true)) << "beyond the write";
}

TEST_F(CrashModel, AnOlderWriteIsRuledOutOnlyByALaterDurableOne) {
  Tracked lvol("a", kUuid, 100, {kBeforeAll, kBeforeAll});
  lvol.initial[10] = 9;
  const size_t first = write(lvol, 1, 1);
  lvol.end_change(first, at(2), true);
  const size_t second = write(lvol, 2, 3, true);
  const size_t third = write(lvol, 3, 3);  // under way at the same time as the second
  lvol.end_change(second, at(4), true);
  lvol.end_change(third, at(5), true);
  EXPECT_EQ(allowed(lvol, 3), (Stamps{1, 9}));
  EXPECT_EQ(allowed(lvol, 4), (Stamps{2, 3})) << "the second is durable by itself";
  const size_t unmap = lvol.begin_change({.first = 10, .count = 1, .when = {.begin = at(6)}, .may_keep = true});
  lvol.end_change(unmap, at(7), true);
  EXPECT_EQ(allowed(lvol, 8), (Stamps{0, 2, 3})) << "an unmap promises nothing";
}

TEST_F(CrashModel, AFailedWriteRulesNothingOut) {
  Tracked lvol("a", kUuid, 100, {kBeforeAll, kBeforeAll});
  const size_t failed = write(lvol, 1, 1, true);
  lvol.end_change(failed, at(2), false);
  EXPECT_EQ(allowed(lvol, 3), (Stamps{0, 1}));
}

TEST_F(CrashModel, WhatTheDiskDidNotNoticeShowsOnceItIsAcknowledged) {
  Tracked lvol("a", kUuid, 100, {kBeforeAll, kBeforeAll});
  lvol.initial[10] = 9;
  const size_t zeroed = write(lvol, 0, 5);
  lvol.end_change(zeroed, at(5), true);
  EXPECT_EQ(allowed(lvol, 4, false), (Stamps{9}));
  EXPECT_EQ(allowed(lvol, 5, false), (Stamps{0}));
  EXPECT_EQ(allowed(lvol, 5, true), (Stamps{0, 9}));
}

TEST_F(CrashModel, ASnapshotHasWhatWasThereAndNothingLater) {
  Tracked origin("a", kUuid, 100, {kBeforeAll, kBeforeAll});
  const size_t before = write(origin, 1, 1, true);
  origin.end_change(before, at(2), true);
  Tracked snapshot("s", kUuid, 100, {.begin = at(3)}, &origin);
  const size_t during = write(origin, 2, 4, true);
  origin.end_change(during, at(5), true);
  snapshot.created.end = at(6);
  const size_t after = write(origin, 3, 7, true);
  origin.end_change(after, at(8), true);
  EXPECT_EQ(allowed(snapshot, 20), (Stamps{1, 2}));
  EXPECT_EQ(allowed(origin, 20), (Stamps{3}));
  Tracked clone("c", kUuid, 100, {.begin = at(9)}, &snapshot);
  clone.created.end = at(10);
  EXPECT_EQ(allowed(clone, 20), (Stamps{1, 2}));
  const size_t own = write(clone, 4, 11, true);
  EXPECT_EQ(allowed(clone, 20), (Stamps{1, 2, 4}));
  clone.end_change(own, at(12), true);
  EXPECT_EQ(allowed(clone, 20), (Stamps{4}));
  EXPECT_FALSE(clone.may_exist(9));
  EXPECT_TRUE(clone.may_exist(10) && clone.must_exist(10));
}

TEST_F(CrashModel, AReadWhileRunningFindsTheLatest) {
  Tracked lvol("a", kUuid, 100, {kBeforeAll, kBeforeAll});
  const size_t first = write(lvol, 1, 1);
  const Moment early = at(1);
  lvol.end_change(first, at(2), true);
  const Moment late = at(2);
  const size_t second = write(lvol, 2, 2);
  EXPECT_TRUE(lvol.reads_as(10, 0, {early, late})) << "it began before the write was acknowledged";
  EXPECT_FALSE(lvol.reads_as(10, 0, {late, at(3)}));
  EXPECT_TRUE(lvol.reads_as(10, 1, {late, at(3)}));
  EXPECT_TRUE(lvol.reads_as(10, 2, {late, at(3)}));
  EXPECT_FALSE(lvol.reads_as(10, 2, {early, late})) << "it ended before the write began";
  lvol.end_change(second, at(4), true);
  EXPECT_FALSE(lvol.reads_as(10, 1, {at(4), at(4)}));
}

TEST_F(CrashModel, PropertiesAreThoseBeforeOrAfterAnOperation) {
  Versions<std::string> name("a");
  const size_t renamed = name.begin("b", at(3));
  EXPECT_TRUE(name.allows("a", 3) && !name.allows("b", 3));
  EXPECT_TRUE(name.allows("a", 4) && name.allows("b", 4));
  name.end(renamed, at(6));
  EXPECT_TRUE(name.allows("a", 5) && !name.allows("a", 6));
  EXPECT_TRUE(name.allows("b", 5) && name.allows("b", 6));
}

}  // namespace
}  // namespace diskengine::lvol
