#include "format/vhost_user.h"

#include <gtest/gtest.h>

namespace diskengine::spec {
namespace {

VhostUserHeader header(VhostUserRequest request, uint32_t size, uint32_t flags = kVhostUserVersion) {
  return {static_cast<uint32_t>(request), flags, size};
}

TEST(VhostUserMessages, EveryKnownTypeHasAShapeAndAName) {
  unsigned known = 0;
  for (uint32_t type = 0; type < 64; ++type) {
    const VhostUserShape* shape = shape_of(type);
    if (shape == nullptr) continue;
    ++known;
    EXPECT_EQ(static_cast<uint32_t>(shape->request), type);
    EXPECT_LE(shape->size_min, shape->size_max);
    EXPECT_LE(shape->size_max, kVhostUserPayloadBytesMax);
    EXPECT_LE(shape->fds_max, kVhostUserFdsMax);
    EXPECT_NE(name_of(shape->request), "of unknown type");
  }
  EXPECT_EQ(known, 26u);
}

TEST(VhostUserMessages, HeadersWithAnotherVersionOrSizeOrDirectionAreRefused) {
  EXPECT_TRUE(check_header(header(VhostUserRequest::set_features, 8)));
  EXPECT_TRUE(check_header(header(VhostUserRequest::set_features, 8, kVhostUserVersion | kVhostUserNeedReply)));
  EXPECT_FALSE(check_header(header(VhostUserRequest::set_features, 8, 0)));
  EXPECT_FALSE(check_header(header(VhostUserRequest::set_features, 8, 2)));
  EXPECT_FALSE(check_header(header(VhostUserRequest::set_features, 8, kVhostUserVersion | kVhostUserReply)));
  EXPECT_FALSE(check_header(header(VhostUserRequest::set_features, 7)));
  EXPECT_FALSE(check_header(header(VhostUserRequest::set_features, 9)));
  EXPECT_FALSE(check_header(header(VhostUserRequest::set_mem_table, UINT32_MAX)));
  EXPECT_TRUE(check_header({9999, kVhostUserVersion, 0}));
  EXPECT_FALSE(check_header({9999, kVhostUserVersion, kVhostUserPayloadBytesMax + 1}));
}

TEST(VhostUserMessages, AMemoryTableBringsOneDescriptorForEachRegion) {
  VhostUserPayload payload{};
  payload.memory.regions = 2;
  const VhostUserHeader two = header(VhostUserRequest::set_mem_table, 8 + 2 * sizeof(VhostUserRegion));
  EXPECT_TRUE(check_message(two, payload, 2));
  EXPECT_FALSE(check_message(two, payload, 1));
  EXPECT_FALSE(check_message(two, payload, 3));
  EXPECT_FALSE(check_message(header(VhostUserRequest::set_mem_table, 8 + sizeof(VhostUserRegion)), payload, 2));
  payload.memory.regions = 9;
  EXPECT_FALSE(check_message(header(VhostUserRequest::set_mem_table, sizeof(VhostUserMemory)), payload, 8));
  payload.memory.regions = UINT32_MAX;
  EXPECT_FALSE(check_message(header(VhostUserRequest::set_mem_table, sizeof(VhostUserMemory)), payload, 8));
}

TEST(VhostUserMessages, AnEventComesWithItsDescriptorOrSaysThatItHasNone) {
  VhostUserPayload payload{};
  const VhostUserHeader kick = header(VhostUserRequest::set_vring_kick, 8);
  EXPECT_TRUE(check_message(kick, payload, 1));
  EXPECT_FALSE(check_message(kick, payload, 0));
  EXPECT_FALSE(check_message(kick, payload, 2));
  payload.u64 = kVhostUserVringNoFd;
  EXPECT_TRUE(check_message(kick, payload, 0));
  EXPECT_FALSE(check_message(kick, payload, 1));
}

TEST(VhostUserMessages, ConfigurationRangesStayInsideTheSpace) {
  VhostUserPayload payload{};
  payload.config.size = 60;
  EXPECT_TRUE(check_message(header(VhostUserRequest::get_config, 12 + 60), payload, 0));
  EXPECT_FALSE(check_message(header(VhostUserRequest::get_config, 12 + 59), payload, 0));
  payload.config.offset = 200;
  EXPECT_FALSE(check_message(header(VhostUserRequest::get_config, 12 + 60), payload, 0));
  payload.config = {UINT32_MAX, 2, 0, {}};
  EXPECT_FALSE(check_message(header(VhostUserRequest::get_config, 14), payload, 0));
  payload.config = {1, UINT32_MAX, 0, {}};
  EXPECT_FALSE(check_message(header(VhostUserRequest::get_config, 12), payload, 0));
}

TEST(VhostUserMessages, UnexpectedDescriptorsAreRefused) {
  const VhostUserPayload payload{};
  EXPECT_FALSE(check_message(header(VhostUserRequest::set_owner, 0), payload, 1));
  EXPECT_FALSE(check_message(header(VhostUserRequest::add_mem_reg, 40), payload, 0));
  EXPECT_TRUE(check_message(header(VhostUserRequest::rem_mem_reg, 40), payload, 1));
  EXPECT_TRUE(check_message(header(VhostUserRequest::rem_mem_reg, 40), payload, 0));
}

}  // namespace
}  // namespace diskengine::spec
