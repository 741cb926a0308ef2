// What is on a disk is told by its marks, and a disk that holds nothing known says so.
#include "format/disk_signatures.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstring>
#include <string>

namespace diskengine::spec {
namespace {

using namespace std::string_literals;
using testing::ElementsAre;
using testing::IsEmpty;

class Signatures : public testing::Test {
 protected:
  void put(size_t offset, const std::string& text) { std::memcpy(&head_[offset], text.data(), text.size()); }
  void put_at_end(size_t back, const std::string& text) {
    std::memcpy(&tail_[tail_.size() - back], text.data(), text.size());
  }
  std::vector<std::string_view> found() const { return find_signatures({head_, tail_}); }

  std::vector<uint8_t> head_ = std::vector<uint8_t>(kSignatureHeadBytes);
  std::vector<uint8_t> tail_ = std::vector<uint8_t>(kSignatureTailBytes);
};

TEST_F(Signatures, ABlankDiskHoldsNothing) {
  EXPECT_THAT(found(), IsEmpty());
  EXPECT_TRUE(is_blank({head_, tail_}));
  head_[700'000] = 1;
  EXPECT_FALSE(is_blank({head_, tail_}));
  EXPECT_THAT(found(), IsEmpty()) << "data without a mark is nothing known";
}

TEST_F(Signatures, FileSystemsAndVolumesAreKnownByTheirMarks) {
  const std::vector<std::tuple<size_t, std::string, std::string>> marks = {
      {0, "SPDKBLOB"s, "blobstore (lvol store)"},
      {1080, "\x53\xef"s, "ext file system"},
      {0, "XFSB"s, "XFS file system"},
      {0x10040, "_BHRfS_M"s, "Btrfs file system"},
      {0, "LUKS\xba\xbe"s, "encrypted volume (LUKS)"},
      {4086, "SWAPSPACE2"s, "swap space"},
      {4096, "\xfc\x4e\x2b\xa9"s, "software RAID member (md)"},
      {128 * 1024 + 3 * 1024, "\x0c\xb1\xba\x00\x00\x00\x00\x00"s, "ZFS pool member"},
  };
  for (const auto& [offset, mark, name] : marks) {
    std::ranges::fill(head_, 0);
    put(offset, mark);
    EXPECT_THAT(found(), ElementsAre(name));
  }
}

TEST_F(Signatures, AnLvmLabelIsFoundInAnyOfTheFirstFourSectors) {
  put(512, "LABELONE");
  EXPECT_THAT(found(), IsEmpty());
  put(536, "LVM2 001");
  EXPECT_THAT(found(), ElementsAre("LVM physical volume"));
}

TEST_F(Signatures, PartitionTablesAreFoundAtBothEnds) {
  put(510, "\x55\xaa"s);
  EXPECT_THAT(found(), IsEmpty()) << "a boot sector without partitions";
  put(446, "\x80\x00\x01\x00\x83\x00\x00\x00\x00\x08\x00\x00\x00\x10\x00\x00"s);
  EXPECT_THAT(found(), ElementsAre("MBR partition table"));
  put_at_end(512, "EFI PART");
  EXPECT_THAT(found(), ElementsAre("GPT partition table", "MBR partition table"));
  std::ranges::fill(head_, 0);
  std::ranges::fill(tail_, 0);
  put(4096, "EFI PART");  // a disk of 4096-byte blocks
  EXPECT_THAT(found(), ElementsAre("GPT partition table"));
}

TEST_F(Signatures, AMemberOfASoftwareRaidIsFoundAtTheEnd) {
  put_at_end(8192, "\xfc\x4e\x2b\xa9"s);
  EXPECT_THAT(found(), ElementsAre("software RAID member (md)"));
}

TEST_F(Signatures, DisksOfAnySizeAreLookedAtWithinTheirBounds) {
  std::ranges::fill(head_, 0xff);
  for (size_t bytes : {0, 1, 511, 512, 513, 1081, 4095, 4097, 70'000})
    EXPECT_THAT(find_signatures({{head_.data(), bytes}, {head_.data(), bytes}}), IsEmpty()) << bytes;
}

}  // namespace
}  // namespace diskengine::spec
