#include "format/blobstore.h"

#include <gtest/gtest.h>

#include "base/endian.h"

namespace diskengine::spec::blobstore {
namespace {

constexpr uint64_t kMiB = 1024 * 1024;

Super example_super() {
  Super super = lay_out({.device_bytes = 256 * kMiB, .block_bytes = 512, .cluster_bytes = kMiB, .md_len = 256}).value();
  super.super_blob = blob_id_of_page(0);
  super.clean = true;
  return super;
}

Page example_page() {
  Page page{};
  encode_super(example_super(), page);
  return page;
}

void reseal(Page& page) { seal(page); }  // the super block is sealed like every page

BlobRecord example_blob() {
  BlobRecord blob;
  blob.id = blob_id_of_page(7);
  blob.flags.invalid = Flags::kThin | Flags::kExtentTable;
  blob.flags.md_ro = 2;
  blob.xattrs = {{"name", {'a', 0}}, {"uuid", std::vector<uint8_t>(37, 'u')}};
  blob.internal_xattrs = {{"SNAP", {1, 2, 3, 4, 5, 6, 7, 8}}};
  blob.num_clusters = 5 * 512 + 1;
  blob.extent_pages = {0, 9, 0, 0, 12, 0};
  return blob;
}

std::vector<Page> linked(const BlobRecord& blob) {
  std::vector<Page> chain = encode_blob(blob).value();
  std::vector<uint32_t> places;
  for (uint32_t i = 0; i < chain.size(); ++i) places.push_back(page_of_blob_id(blob.id) + i);
  link_chain(chain, places);
  return chain;
}

TEST(BlobstoreSuper, WhatIsWrittenIsReadBack) {
  const FoundSuper found = decode_super(example_page(), 256 * kMiB).value();
  EXPECT_EQ(found.super, example_super());
  EXPECT_EQ(found.seal, Seal::good);
}

TEST(BlobstoreSuper, FieldsLieWhereSpdkPutsThem) {
  const Page page = example_page();
  EXPECT_EQ(std::string(page.begin(), page.begin() + 8), "SPDKBLOB");
  EXPECT_EQ(load_le<uint32_t>(&page[8]), 3u);
  EXPECT_EQ(load_le<uint32_t>(&page[12]), 4096u);
  EXPECT_EQ(load_le<uint32_t>(&page[16]), 1u);
  EXPECT_EQ(load_le<uint64_t>(&page[20]), uint64_t{1} << 32);
  EXPECT_EQ(load_le<uint32_t>(&page[28]), kMiB);
  EXPECT_EQ(load_le<uint32_t>(&page[32]), 1u);  // page mask, one page
  EXPECT_EQ(load_le<uint32_t>(&page[40]), 2u);  // cluster mask
  EXPECT_EQ(load_le<uint32_t>(&page[72]), 3u);  // blob id mask
  EXPECT_EQ(load_le<uint32_t>(&page[48]), 4u);  // metadata
  EXPECT_EQ(load_le<uint32_t>(&page[52]), 256u);
  EXPECT_EQ(std::string(page.begin() + 56, page.begin() + 65), "LVOLSTORE");
  EXPECT_EQ(load_le<uint64_t>(&page[80]), 256 * kMiB);
  EXPECT_EQ(load_le<uint32_t>(&page[88]), 512u);
}

TEST(BlobstoreSuper, EveryFlippedBitIsNoticed) {
  const Page good = example_page();
  for (size_t bit = 64; bit < good.size() * 8; ++bit) {
    Page page = good;
    page[bit / 8] ^= static_cast<uint8_t>(1u << (bit % 8));
    const auto found = decode_super(page, 256 * kMiB);
    EXPECT_FALSE(found && found->seal == Seal::good) << "bit " << bit;
  }
}

TEST(BlobstoreSuper, ATornChangeOfTheCleanFlagIsMadeOut) {
  const Page clean = example_page();
  Super dirty_super = example_super();
  dirty_super.clean = false;
  Page dirty{};
  encode_super(dirty_super, dirty);
  for (size_t cut = 512; cut < kPageBytes; cut += 512)
    for (const bool first_is_clean : {true, false}) {
      Page torn = first_is_clean ? clean : dirty;
      const Page& rest = first_is_clean ? dirty : clean;
      std::copy(rest.begin() + static_cast<std::ptrdiff_t>(cut), rest.end(),
                torn.begin() + static_cast<std::ptrdiff_t>(cut));
      const FoundSuper found = decode_super(torn, 256 * kMiB).value();
      EXPECT_EQ(found.seal, Seal::torn_flag) << cut;
      EXPECT_EQ(found.super, dirty_super);
    }
}

TEST(BlobstoreSuper, SealedNonsenseIsRefused) {
  const auto code_after = [](size_t at, uint32_t value, uint64_t device = 256 * kMiB) {
    Page page = example_page();
    store_le(page.data() + at, value);
    reseal(page);
    const auto found = decode_super(page, device);
    return found ? Errc::internal : found.error().code();
  };
  EXPECT_EQ(code_after(0, 0), Errc::not_found);
  EXPECT_EQ(code_after(8, 4), Errc::not_supported);  // a later version
  EXPECT_EQ(code_after(8, 0), Errc::not_supported);
  EXPECT_EQ(code_after(20, 999), Errc::corrupt);  // super blob out of range
  EXPECT_EQ(code_after(28, 0), Errc::corrupt);    // no cluster size
  EXPECT_EQ(code_after(28, 4095), Errc::corrupt);
  EXPECT_EQ(code_after(36, 2), Errc::corrupt);  // masks overlap
  EXPECT_EQ(code_after(40, 0), Errc::corrupt);
  EXPECT_EQ(code_after(48, 3), Errc::corrupt);         // metadata over a mask
  EXPECT_EQ(code_after(52, 1u << 30), Errc::corrupt);  // metadata over the end
  EXPECT_EQ(code_after(92, 8192), Errc::not_supported);
  EXPECT_EQ(code_after(12, 4096, 255 * kMiB), Errc::corrupt) << "a device that was cut short";
  EXPECT_EQ(code_after(92, 4096), Errc::internal);
}

TEST(BlobstoreSuper, LayoutsThatCannotBeAreRefused) {
  EXPECT_EQ(lay_out({.device_bytes = kMiB, .cluster_bytes = 2 * kMiB, .md_len = 1}).error().code(), Errc::no_space);
  EXPECT_EQ(lay_out({.device_bytes = kMiB, .cluster_bytes = 1000, .md_len = 1}).error().code(), Errc::invalid_argument);
  EXPECT_EQ(lay_out({.device_bytes = kMiB, .cluster_bytes = 65536, .md_len = 1 << 20}).error().code(), Errc::no_memory);
  EXPECT_EQ(lay_out({.device_bytes = kMiB, .cluster_bytes = 65536, .md_len = 0}).error().code(),
            Errc::invalid_argument);
}

TEST(BlobstoreMask, BitsAreReadBackAndOtherMasksAreRefused) {
  std::vector<uint8_t> bytes(kPageBytes, 0xff);
  const std::vector<uint8_t> mask = {0x81, 0x7f};
  encode_mask(MaskType::used_pages, 15, mask, bytes);
  const auto read = decode_mask(bytes, MaskType::used_pages, 15).value();
  EXPECT_EQ(std::vector<uint8_t>(read.begin(), read.end()), mask);
  EXPECT_FALSE(decode_mask(bytes, MaskType::used_clusters, 15));
  EXPECT_FALSE(decode_mask(bytes, MaskType::used_pages, 14));
  EXPECT_FALSE(decode_mask(std::span(bytes).first(6), MaskType::used_pages, 15));
  encode_mask(MaskType::used_clusters, 15, mask, bytes);
  EXPECT_TRUE(decode_mask(bytes, MaskType::used_clusters, 8)) << "a growth that did not finish";
}

TEST(BlobstorePage, ABlobIsReadBack) {
  const std::vector<Page> chain = linked(example_blob());
  EXPECT_EQ(chain.size(), 1u);
  EXPECT_TRUE(is_root(chain[0], 7));
  EXPECT_FALSE(is_root(chain[0], 8));
  BlobRecord blob;
  ASSERT_TRUE(decode_blob(chain, blob));
  EXPECT_EQ(blob, example_blob());
  EXPECT_EQ(blob.find("name")->value.size(), 2u);
  EXPECT_EQ(blob.find("SNAP"), nullptr);
  EXPECT_NE(blob.find_internal("SNAP"), nullptr);
}

TEST(BlobstorePage, ALongChainIsReadBack) {
  BlobRecord blob = example_blob();
  blob.num_clusters = 512 * 3000;
  blob.extent_pages.assign(3000, 0);
  for (uint32_t i = 0; i < 3000; ++i) blob.extent_pages[i] = i % 7 == 0 ? 0 : i + 100;
  for (int i = 0; i < 20; ++i)
    blob.xattrs.push_back({"x" + std::to_string(i), std::vector<uint8_t>(997, static_cast<uint8_t>(i))});
  const std::vector<Page> chain = linked(blob);
  EXPECT_GT(chain.size(), 8u);
  BlobRecord read;
  ASSERT_TRUE(decode_blob(chain, read));
  EXPECT_EQ(read, blob);
  EXPECT_EQ(next_of(chain[0]), 8u);
  EXPECT_EQ(next_of(chain.back()), kNoPage);
  std::vector<Page> swapped = chain;
  std::swap(swapped[1], swapped[2]);
  EXPECT_FALSE(decode_blob(swapped, read));
}

TEST(BlobstorePage, ABlobWithoutClustersHasATable) {
  BlobRecord blob;
  blob.id = blob_id_of_page(0);
  const std::vector<Page> chain = linked(blob);
  BlobRecord read;
  ASSERT_TRUE(decode_blob(chain, read));
  EXPECT_EQ(read, blob);
  EXPECT_TRUE(read.extent_table);
}

// A page of one descriptor of `type` after flags that say thin or not.
Page page_with(bool thin, DescriptorType type, const std::vector<uint32_t>& words) {
  Page page{};
  store_le(page.data(), PageHeader{blob_id_of_page(7), 0, 0});
  uint8_t* at = page.data() + kDescriptorsAt;
  at[0] = 3;
  store_le<uint32_t>(at + 1, 24);
  store_le<uint64_t>(at + 5, thin ? Flags::kThin : 0);
  at += 29;
  at[0] = static_cast<uint8_t>(type);
  store_le(at + 1, static_cast<uint32_t>(words.size() * 4));
  for (size_t i = 0; i < words.size(); ++i) store_le(at + 5 + i * 4, words[i]);
  store_le(page.data() + kNextAt, kNoPage);
  seal(page);
  return page;
}

TEST(BlobstorePage, RunLengthExtentsOfOlderStoresAreRead) {
  const Page page = page_with(true, DescriptorType::extent_rle, {10, 3, 0, 1000, 20, 1});
  BlobRecord blob;
  ASSERT_TRUE(decode_blob({&page, 1}, blob));
  EXPECT_FALSE(blob.extent_table);
  EXPECT_EQ(blob.num_clusters, 1004u);
  EXPECT_EQ(blob.runs, (std::vector<ClusterRun>{{10, 3}, {0, 1000}, {20, 1}}));
}

TEST(BlobstorePage, NonsenseIsRefused) {
  const auto accepted = [](bool thin, DescriptorType type, const std::vector<uint32_t>& words) {
    const Page page = page_with(thin, type, words);
    BlobRecord blob;
    return decode_blob({&page, 1}, blob).has_value();
  };
  EXPECT_FALSE(accepted(false, DescriptorType::extent_rle, {0, 5})) << "thick, but unallocated";
  EXPECT_FALSE(accepted(true, DescriptorType::extent_rle, {0, UINT32_MAX})) << "too many clusters";
  EXPECT_FALSE(accepted(true, DescriptorType::extent_rle, {UINT32_MAX - 1, 5})) << "beyond any disk";
  EXPECT_FALSE(accepted(true, DescriptorType::extent_rle, {1}));
  EXPECT_FALSE(accepted(true, DescriptorType::extent_rle, {}));
  EXPECT_TRUE(accepted(true, DescriptorType::extent_table, {513, 0, 0, 2}));
  EXPECT_FALSE(accepted(true, DescriptorType::extent_table, {513, 0, 0, 1})) << "too few extent pages";
  EXPECT_FALSE(accepted(true, DescriptorType::extent_table, {513, 0, 0, UINT32_MAX}));
  EXPECT_FALSE(accepted(true, DescriptorType::extent_table, {513, 0, 9, 2})) << "an extent page used twice";
  EXPECT_FALSE(accepted(false, DescriptorType::extent_table, {513, 0, 0, 2})) << "thick, but unallocated";
  EXPECT_FALSE(accepted(true, DescriptorType::extent_table, {0, 1, 0, 1})) << "2^32 clusters";
  EXPECT_FALSE(accepted(true, DescriptorType::flags, {1, 2}));
  EXPECT_FALSE(accepted(true, DescriptorType::xattr, {0xffffffff}));
  EXPECT_FALSE(accepted(true, DescriptorType::extent_page, {0, 1}));
  EXPECT_TRUE(accepted(true, static_cast<DescriptorType>(99), {1, 2})) << "a later version's, without a flag";
  Page flags = page_with(true, DescriptorType::padding, {});
  store_le<uint64_t>(flags.data() + kDescriptorsAt + 5, 1u << 9);
  BlobRecord blob;
  EXPECT_EQ(decode_blob({&flags, 1}, blob).error().code(), Errc::not_supported);
}

TEST(BlobstorePage, AnExtentPageIsReadBack) {
  std::vector<uint32_t> clusters(512);
  for (uint32_t i = 0; i < 512; ++i) clusters[i] = i * 3;
  Page page;
  encode_extent_page(blob_id_of_page(3), 1024, clusters, page);
  const ExtentPage read = decode_extent_page(page).value();
  EXPECT_EQ(read, (ExtentPage{blob_id_of_page(3), 1024, clusters}));
  for (const size_t at : {size_t{8}, size_t{16}, size_t{17}, size_t{21}, kNextAt}) {
    Page bad = page;
    bad[at] ^= 1;
    EXPECT_FALSE(decode_extent_page(bad)) << at;
    seal(bad);
    EXPECT_FALSE(decode_extent_page(bad)) << at;
  }
}

}  // namespace
}  // namespace diskengine::spec::blobstore
