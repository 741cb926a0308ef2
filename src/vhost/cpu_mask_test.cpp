#include "vhost/cpu_mask.h"

#include <gtest/gtest.h>

namespace diskengine::vhost {
namespace {

TEST(CpuMask, MasksAndListsNameCores) {
  EXPECT_EQ(*parse_cpu_mask("0x5"), (std::vector<unsigned>{0, 2}));
  EXPECT_EQ(*parse_cpu_mask("A0"), (std::vector<unsigned>{5, 7}));
  EXPECT_EQ(*parse_cpu_mask("[3,0-1]"), (std::vector<unsigned>{0, 1, 3}));
}

TEST(CpuMask, EverythingElseIsRefused) {
  for (const char* text : {"", "0x", "0", "0x0", "[]", "[1-]", "[2-1]", "[1024]", "0xg", "[1,,2]", "[-1]", "1,2"})
    EXPECT_FALSE(parse_cpu_mask(text)) << text;
}

TEST(CpuMask, ASetPrintsAsAMaskThatNamesItAgain) {
  EXPECT_EQ(format_cpu_mask({0, 2, 9}), "0x205");
  EXPECT_EQ(*parse_cpu_mask(format_cpu_mask({1, 63, 64})), (std::vector<unsigned>{1, 63, 64}));
}

}  // namespace
}  // namespace diskengine::vhost
