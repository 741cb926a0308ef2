#include "format/blobstore_journal.h"

#include <gtest/gtest.h>

#include "base/endian.h"

namespace diskengine::spec::blobstore {
namespace {

JournalHeader example() {
  return {.number = 77, .page = 200, .entries = {{5, 0, 0x1234, 0x5678}, {kSuperTarget, kStateUnsealed, 9, 10}}};
}

Page example_page() {
  Page page;
  encode_journal(example(), page);
  return page;
}

TEST(BlobstoreJournal, WhatIsWrittenIsReadBack) {
  const Page page = example_page();
  EXPECT_TRUE(is_journal(page));
  EXPECT_EQ(decode_journal(page, 200, 256).value(), example());
}

TEST(BlobstoreJournal, SpdkSeesAFreePage) {
  const Page page = example_page();
  EXPECT_FALSE(is_sealed(page));
  EXPECT_NE(header_of(page).sequence_num, 0u);
  EXPECT_FALSE(is_root(page, 200));
}

TEST(BlobstoreJournal, DamageAndCopiesAreRefused) {
  const Page good = example_page();
  EXPECT_EQ(decode_journal(good, 201, 256).error().code(), Errc::corrupt) << "found elsewhere";
  EXPECT_EQ(decode_journal(good, 200, 202).error().code(), Errc::corrupt) << "its images would be beyond the end";
  EXPECT_EQ(decode_journal(Page{}, 200, 256).error().code(), Errc::not_found);
  for (size_t bit = 64; bit < 4088 * 8; ++bit) {
    Page page = good;
    page[bit / 8] ^= static_cast<uint8_t>(1u << (bit % 8));
    EXPECT_FALSE(decode_journal(page, 200, 256)) << bit;
  }
}

TEST(BlobstoreJournal, APageSaysWhichVersionOfItIsThere) {
  Page page{};
  EXPECT_EQ(state_of(page), kStateZeroed);
  page[3] = 1;
  EXPECT_EQ(state_of(page), kStateUnsealed);
  seal(page);
  EXPECT_EQ(state_of(page), load_le<uint32_t>(page.data() + kCrcAt));
}

}  // namespace
}  // namespace diskengine::spec::blobstore
