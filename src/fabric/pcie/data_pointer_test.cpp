// Where a command's data is, in pointers that name each byte once and in order, or a refusal.
#include "fabric/pcie/data_pointer.h"

#include <gtest/gtest.h>

#include <vector>

#include "fabric/pcie/pci_device.h"

namespace diskengine::fabric::pcie {
namespace {

constexpr uint64_t kBase = 0x7f00'0000'0000;
constexpr uint64_t kListIova = 0x1000;
constexpr uint64_t kPage = spec::kPrpPageBytes;

class PrpTest : public testing::Test {
 protected:
  std::vector<uint64_t> list_ = std::vector<uint64_t>(spec::kPrpListEntries);
  PrpBuilder builder_{list_.data(), kListIova};
};

TEST_F(PrpTest, OnePageNeedsOnePointer) {
  ASSERT_TRUE(builder_.add(kBase + 512, 3584));
  EXPECT_EQ(builder_.pair().first, kBase + 512);
  EXPECT_EQ(builder_.pair().second, 0u);
}

TEST_F(PrpTest, DataThatReachesIntoASecondPageNamesItDirectly) {
  ASSERT_TRUE(builder_.add(kBase + 4092, 8));
  EXPECT_EQ(builder_.pair().first, kBase + 4092);
  EXPECT_EQ(builder_.pair().second, kBase + kPage);
}

TEST_F(PrpTest, MorePagesAreNamedByAList) {
  ASSERT_TRUE(builder_.add(kBase + 512, 1 << 20));
  EXPECT_EQ(builder_.pair().second, kListIova);
  for (uint64_t i = 0; i < 256; ++i) EXPECT_EQ(list_[i], kBase + (i + 1) * kPage);
}

TEST_F(PrpTest, ScatteredWholePagesAreTaken) {
  ASSERT_TRUE(builder_.add(kBase + 2048, 2048));
  ASSERT_TRUE(builder_.add(kBase + 16 * kPage, kPage));
  ASSERT_TRUE(builder_.add(kBase + 8 * kPage, 100));
  EXPECT_EQ(builder_.pair().second, kListIova);
  EXPECT_EQ(list_[0], kBase + 16 * kPage);
  EXPECT_EQ(list_[1], kBase + 8 * kPage);
}

TEST_F(PrpTest, PiecesThatContinueWithinAPageAreOne) {
  ASSERT_TRUE(builder_.add(kBase, 512));
  ASSERT_TRUE(builder_.add(kBase + 512, kPage));
  EXPECT_EQ(builder_.pair().first, kBase);
  EXPECT_EQ(builder_.pair().second, kBase + kPage);
}

TEST_F(PrpTest, AHoleInAPageIsRefused) {
  ASSERT_TRUE(builder_.add(kBase, 512));
  EXPECT_FALSE(builder_.add(kBase + 1024, 512));
}

TEST_F(PrpTest, APieceThatEndsBeforeItsPageDoesIsRefusedIfMoreFollows) {
  ASSERT_TRUE(builder_.add(kBase, 512));
  EXPECT_FALSE(builder_.add(kBase + kPage, 512));
}

TEST_F(PrpTest, UnalignedDataIsRefused) { EXPECT_FALSE(builder_.add(kBase + 2, 512)); }

TEST_F(PrpTest, TheListIsNeverOverrun) {
  ASSERT_TRUE(builder_.add(kBase, (spec::kPrpListEntries + 1) * kPage));
  EXPECT_FALSE(builder_.add(kBase + (spec::kPrpListEntries + 1) * kPage, 4));
}

TEST(Sgl, OnePieceIsInTheCommandAndMoreInAList) {
  std::vector<spec::SglDescriptor> list(SglBuilder::kDescriptorsMax);
  SglBuilder builder(list.data(), kListIova, spec::kSglsSupported);
  ASSERT_TRUE(builder.add(kBase + 1, 511));
  ASSERT_TRUE(builder.add(kBase + 512, 512));  // continues
  EXPECT_EQ(builder.descriptor().address, kBase + 1);
  EXPECT_EQ(builder.descriptor().length, 1023u);
  EXPECT_EQ(builder.descriptor().type, spec::SglType::data_block_address);
  ASSERT_TRUE(builder.add(kBase + 4096, 1));
  EXPECT_EQ(builder.descriptor().address, kListIova);
  EXPECT_EQ(builder.descriptor().length, 32u);
  EXPECT_EQ(builder.descriptor().type, spec::SglType::last_segment);
  EXPECT_EQ(list[0].length, 1023u);
  EXPECT_EQ(list[1].address, kBase + 4096);
}

TEST(Sgl, LimitsAreKept) {
  std::vector<spec::SglDescriptor> list(SglBuilder::kDescriptorsMax);
  SglBuilder aligned(list.data(), kListIova, spec::kSglsAligned);
  EXPECT_FALSE(aligned.add(kBase + 2, 512));
  EXPECT_FALSE(aligned.add(kBase, 510));
  SglBuilder full(list.data(), kListIova, spec::kSglsSupported);
  for (size_t i = 0; i < SglBuilder::kDescriptorsMax; ++i) ASSERT_TRUE(full.add(kBase + 2 * i, 1));
  EXPECT_FALSE(full.add(kBase, 1));
  EXPECT_FALSE(SglBuilder::offered(0));
}

TEST(PciAddress, EveryWayToWriteOneComesOutTheSame) {
  for (const char* text : {"0000:00:04.0", "00:04.0", "0000.00.04.0", "0:0:4.0"})
    EXPECT_EQ(*normal_pci_address(text), "0000:00:04.0") << text;
  EXPECT_EQ(*normal_pci_address("10000:e1:00.0"), "10000:e1:00.0");
}

TEST(PciAddress, AnythingElseIsRefused) {
  for (const char* text : {"", "4", "00:04", "00:04.0.1.2", "../../etc:0:0.0", "00:20.0", "00:04.8", "00:04.0x", "::.",
                           "-1:0:0.0", "00:04.0\n"})
    EXPECT_FALSE(normal_pci_address(text)) << text;
}

}  // namespace
}  // namespace diskengine::fabric::pcie
