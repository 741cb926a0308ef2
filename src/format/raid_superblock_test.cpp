#include "format/raid_superblock.h"

#include <gtest/gtest.h>

#include "base/crc32c.h"
#include "base/endian.h"

namespace diskengine::spec {
namespace {

RaidSuperblock example() {
  RaidSuperblock superblock;
  superblock.uuid = Uuid::from_random(1, 2);
  superblock.name = "raid_7";
  superblock.raid_size = 1000;
  superblock.block_size = 4096;
  superblock.seq_number = 42;
  superblock.num_base_bdevs = 2;
  superblock.base_bdevs = {{Uuid::from_random(3, 4), 256, 1000, RaidBaseState::configured, 0, 0},
                           {Uuid::from_random(5, 6), 256, 1000, RaidBaseState::failed, 0, 1}};
  return superblock;
}

void seal(std::vector<uint8_t>& bytes) {
  store_le<uint32_t>(bytes.data() + 16, 0);
  store_le(bytes.data() + 16, crc32c_update(0, bytes.data(), bytes.size()));
}

TEST(RaidSuperblock, WhatIsWrittenIsReadBack) {
  const RaidSuperblock superblock = example();
  std::vector<uint8_t> bytes = encode(superblock);
  EXPECT_EQ(bytes.size(), 256u + 2 * 64);
  bytes.resize(4096);  // as it lies on a disk, padded to a block
  EXPECT_EQ(decode_raid_superblock(bytes).value(), superblock);
}

TEST(RaidSuperblock, FieldsLieWhereSpdkPutsThem) {
  const std::vector<uint8_t> bytes = encode(example());
  EXPECT_EQ(std::string(bytes.begin(), bytes.begin() + 8), "SPDKRAID");
  EXPECT_EQ(load_le<uint16_t>(&bytes[8]), 1);
  EXPECT_EQ(load_le<uint32_t>(&bytes[12]), 384u);
  EXPECT_EQ(std::string(bytes.begin() + 40, bytes.begin() + 46), "raid_7");
  EXPECT_EQ(load_le<uint64_t>(&bytes[104]), 1000u);
  EXPECT_EQ(load_le<uint32_t>(&bytes[112]), 4096u);
  EXPECT_EQ(load_le<uint32_t>(&bytes[116]), 1u);
  EXPECT_EQ(load_le<uint64_t>(&bytes[128]), 42u);
  EXPECT_EQ(bytes[136], 2);
  EXPECT_EQ(bytes[255], 2);
  EXPECT_EQ(load_le<uint64_t>(&bytes[256 + 16]), 256u);
  EXPECT_EQ(load_le<uint32_t>(&bytes[320 + 32]), 2u);
  EXPECT_EQ(bytes[320 + 40], 1);
}

TEST(RaidSuperblock, TheChecksumStartsAtZeroAndIsNotInverted) {
  std::vector<uint8_t> bytes = encode(example());
  const auto stored = load_le<uint32_t>(&bytes[16]);
  seal(bytes);
  EXPECT_EQ(load_le<uint32_t>(&bytes[16]), stored);
}

TEST(RaidSuperblock, EveryFlippedBitIsNoticed) {
  const std::vector<uint8_t> good = encode(example());
  for (size_t bit = 0; bit < good.size() * 8; ++bit) {
    std::vector<uint8_t> bytes = good;
    bytes[bit / 8] ^= static_cast<uint8_t>(1u << (bit % 8));
    EXPECT_FALSE(decode_raid_superblock(bytes)) << "bit " << bit;
  }
}

TEST(RaidSuperblock, AnotherDiskIsNotMistakenForOne) {
  const std::vector<uint8_t> zeroes(4096);
  EXPECT_EQ(decode_raid_superblock(zeroes).error().code(), Errc::not_found);
}

TEST(RaidSuperblock, EveryTruncationIsRefused) {
  const std::vector<uint8_t> good = encode(example());
  for (size_t length = 0; length < good.size(); ++length)
    EXPECT_EQ(decode_raid_superblock(std::span(good).first(length)).error().code(), Errc::corrupt) << length;
}

TEST(RaidSuperblock, SealedNonsenseIsRefused) {
  const auto code_after = [](size_t at, uint8_t value) {
    std::vector<uint8_t> bytes = encode(example());
    bytes[at] = value;
    seal(bytes);
    const auto decoded = decode_raid_superblock(bytes);
    return decoded ? Errc::internal : decoded.error().code();
  };
  EXPECT_EQ(code_after(8, 2), Errc::not_supported);   // major version
  EXPECT_EQ(code_after(136, 0), Errc::corrupt);       // no base devices
  EXPECT_EQ(code_after(40, 0), Errc::corrupt);        // empty name
  EXPECT_EQ(code_after(256 + 40, 2), Errc::corrupt);  // slot out of range
  EXPECT_EQ(code_after(256 + 32, 9), Errc::corrupt);  // unknown state
  EXPECT_EQ(code_after(255, 3), Errc::corrupt);       // more records than its length holds
  EXPECT_EQ(code_after(10, 1), Errc::internal) << "a later minor version is compatible";
}

}  // namespace
}  // namespace diskengine::spec
