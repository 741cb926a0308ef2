#include <gtest/gtest.h>

#include <cstring>
#include <set>
#include <string>

#include "base/base64.h"
#include "base/checked.h"
#include "base/crc32c.h"
#include "base/histogram.h"
#include "base/list.h"
#include "base/log.h"
#include "base/result.h"
#include "base/uuid.h"

namespace diskengine {
namespace {

Result<int> half(int value) {
  if (value % 2 != 0) return Error(Errc::invalid_argument, "odd");
  return value / 2;
}

Result<int> quarter(int value) {
  TRY(half(value));
  TRY_ASSIGN(int once, half(value));
  TRY_ASSIGN(int twice, half(once));
  return twice;
}

TEST(Result, TryReturnsTheFirstErrorAndOtherwiseTheValue) {
  EXPECT_EQ(*quarter(8), 2);
  EXPECT_EQ(quarter(6).error().message(), "odd");
  EXPECT_EQ(quarter(6).error().with_context("quarter of 6").message(), "quarter of 6: odd");
  EXPECT_EQ(Error::from_errno(ENOENT, "open 'x'").code(), Errc::not_found);
}

TEST(Crc32c, MatchesTheValueOfRfc3720) {
  const char* digits = "123456789";
  EXPECT_EQ(crc32c(digits, 9), 0xe3069283u);
  uint32_t state = crc32c_update(kCrc32cSeed, digits, 4);
  EXPECT_EQ(crc32c_finish(crc32c_update(state, digits + 4, 5)), 0xe3069283u);
}

TEST(Base64, MatchesTheVectorsOfRfc4648) {
  EXPECT_EQ(base64_encode(""), "");
  EXPECT_EQ(base64_encode("f"), "Zg==");
  EXPECT_EQ(base64_encode("fo"), "Zm8=");
  EXPECT_EQ(base64_encode("foo"), "Zm9v");
  EXPECT_EQ(base64_encode("foobar"), "Zm9vYmFy");
  EXPECT_EQ(base64_encode("\xff\xfe"), "//4=");
}

TEST(Uuid, TextRoundTripsAndNonsenseIsRefused) {
  const char* text = "00112233-4455-6677-8899-aabbccddeeff";
  EXPECT_EQ(Uuid::parse(text)->to_string(), text);
  EXPECT_EQ(Uuid::parse("00112233445566778899AABBCCDDEEFF")->to_string(), text);
  for (const char* bad : {"", "0", "00112233-4455-6677-8899-aabbccddeefg", "00112233_4455-6677-8899-aabbccddeeff",
                          "00112233-4455-6677-8899-aabbccddeeff0"})
    EXPECT_FALSE(Uuid::parse(bad)) << bad;
}

TEST(Uuid, OfANameIsTheSameForTheSameNameAndAnotherForAnother) {
  EXPECT_EQ(Uuid::from_name("boot 7:0 1"), Uuid::from_name("boot 7:0 1"));
  EXPECT_FALSE(Uuid::from_name("").is_nil());
  std::set<std::string> seen;
  for (int disk = 0; disk < 100; ++disk)
    for (int number = 0; number < 100; ++number)
      seen.insert(Uuid::from_name("7:" + std::to_string(disk) + " " + std::to_string(number)).to_string());
  EXPECT_EQ(seen.size(), 10'000u);
  EXPECT_EQ(Uuid::from_name("x").to_string()[14], '8') << "its version";
}

TEST(Checked, RangesNeverWrap) {
  EXPECT_TRUE(in_range(0, 10, 10));
  EXPECT_FALSE(in_range(1, 10, 10));
  EXPECT_FALSE(in_range(UINT64_MAX, 2, 10));
  EXPECT_FALSE(in_range(2, UINT64_MAX, 10));
}

TEST(Histogram, EveryValueLandsInTheBucketThatHoldsItWithinThePrecision) {
  Histogram histogram;
  for (uint64_t value : {uint64_t{0}, uint64_t{1}, uint64_t{15}, uint64_t{16}, uint64_t{17}, uint64_t{1000},
                         uint64_t{123456789}, uint64_t{1} << 40, UINT64_MAX / 3, UINT64_MAX}) {
    histogram.reset();
    histogram.record(value);
    const uint64_t end = histogram.quantile(1.0);
    EXPECT_TRUE(end > value || end == UINT64_MAX) << value;
    EXPECT_LE(end - value, value / 16 + 1) << value;
  }
}

TEST(Histogram, QuantilesOfAUniformSpread) {
  Histogram histogram;
  for (uint64_t i = 1; i <= 10000; ++i) histogram.record(i);
  EXPECT_NEAR(static_cast<double>(histogram.quantile(0.5)), 5000, 5000 / 8.0);
  EXPECT_NEAR(static_cast<double>(histogram.quantile(0.99)), 9900, 9900 / 8.0);
  EXPECT_EQ(histogram.total(), 10000u);
}

struct Item : ListHook {
  explicit Item(int v) : value(v) {}
  int value;
};

TEST(List, KeepsOrderThroughRemovalAndSplice) {
  Item a(1), b(2), c(3);
  List<Item> first, second;
  first.push_back(a);
  first.push_back(b);
  second.push_back(c);
  List<Item>::remove(a);
  first.splice_back(second);
  EXPECT_TRUE(second.empty());
  EXPECT_EQ(first.pop_front().value, 2);
  EXPECT_EQ(first.pop_front().value, 3);
  EXPECT_TRUE(first.empty());
}

}  // namespace
}  // namespace diskengine
