#include "format/raid_dirty_log.h"

#include <gtest/gtest.h>

#include <vector>

namespace diskengine::spec {
namespace {

RaidDirtyLogHeader example() {
  RaidDirtyLogHeader header;
  header.volume_uuid = Uuid::from_random(1, 2);
  header.log_id = 77;
  header.sequence = 42;
  header.epoch = 9;
  header.region_blocks = 2048;
  header.region_count = 100'000;
  header.block_size = 512;
  header.left[1] = {Uuid::from_random(3, 4), 41};
  header.unsynced = 0x5;
  header.machine = Uuid::from_random(5, 6);
  header.caches[7] = Uuid::from_random(7, 8);
  return header;
}

struct Page {
  std::vector<uint8_t> bytes = std::vector<uint8_t>(kRaidDirtyLogPageBytes);
  RaidDirtyLogPageSpan span() { return RaidDirtyLogPageSpan(bytes.data(), bytes.size()); }
};

TEST(RaidDirtyLog, WhatIsWrittenIsReadBack) {
  Page page;
  encode(example(), page.span());
  EXPECT_EQ(decode_raid_dirty_log_header(page.span()).value(), example());
  std::vector<uint8_t> bits(100, 0xa5);
  encode_raid_dirty_log_page(77, 3, 5, bits, page.span());
  const auto read = decode_raid_dirty_log_page(page.span(), 77, 3);
  ASSERT_TRUE(read);
  EXPECT_EQ(read->size(), kRaidDirtyLogBitmapBytes);
  EXPECT_EQ((*read)[99], 0xa5);
  EXPECT_EQ((*read)[100], 0);
}

TEST(RaidDirtyLog, FieldsLieWhereThePageOfTheFormatSays) {
  Page page;
  encode(example(), page.span());
  EXPECT_EQ(std::string(page.bytes.begin(), page.bytes.begin() + 8), "DEDIRTY1");
  EXPECT_EQ(page.bytes[32], 77);  // log_id
  EXPECT_EQ(page.bytes[40], 42);  // sequence
  EXPECT_EQ(page.bytes[48], 9);   // epoch
  EXPECT_EQ(page.bytes[80 + 24 + 16], 41);
  EXPECT_EQ(page.bytes[280], 5);           // machine
  EXPECT_EQ(page.bytes[296 + 7 * 16], 7);  // caches
  EXPECT_EQ(page.bytes[296 + 8 * 16], 0);
  const std::vector<uint8_t> one = {1};
  encode_raid_dirty_log_page(77, 0, 5, one, page.span());
  EXPECT_EQ(std::string(page.bytes.begin(), page.bytes.begin() + 4), "DRPG");
  EXPECT_EQ(page.bytes[64], 1);
}

TEST(RaidDirtyLog, AnyChangedByteIsNoticed) {
  Page header, page;
  encode(example(), header.span());
  const std::vector<uint8_t> bits(kRaidDirtyLogBitmapBytes, 0xff);
  encode_raid_dirty_log_page(77, 3, 5, bits, page.span());
  for (size_t at = 0; at < kRaidDirtyLogPageBytes; at += 7) {
    header.bytes[at] ^= 0x10;
    EXPECT_FALSE(decode_raid_dirty_log_header(header.span())) << at;
    header.bytes[at] ^= 0x10;
    page.bytes[at] ^= 0x10;
    EXPECT_FALSE(decode_raid_dirty_log_page(page.span(), 77, 3)) << at;
    page.bytes[at] ^= 0x10;
  }
}

TEST(RaidDirtyLog, ATornPageIsNoticed) {
  Page before, after;
  encode_raid_dirty_log_page(77, 3, 5, std::vector<uint8_t>(kRaidDirtyLogBitmapBytes, 0x00), before.span());
  encode_raid_dirty_log_page(77, 3, 6, std::vector<uint8_t>(kRaidDirtyLogBitmapBytes, 0xff), after.span());
  for (size_t cut = 512; cut < kRaidDirtyLogPageBytes; cut += 512) {
    Page torn = before;
    std::copy(after.bytes.begin(), after.bytes.begin() + static_cast<std::ptrdiff_t>(cut), torn.bytes.begin());
    EXPECT_FALSE(decode_raid_dirty_log_page(torn.span(), 77, 3));
  }
}

TEST(RaidDirtyLog, APageOfAnotherLogOrPlaceIsRefused) {
  Page page;
  encode_raid_dirty_log_page(77, 3, 5, {}, page.span());
  EXPECT_EQ(decode_raid_dirty_log_page(page.span(), 78, 3).error().code(), Errc::corrupt);
  EXPECT_EQ(decode_raid_dirty_log_page(page.span(), 77, 4).error().code(), Errc::corrupt);
  EXPECT_EQ(decode_raid_dirty_log_header(page.span()).error().code(), Errc::not_found);
}

}  // namespace
}  // namespace diskengine::spec
