#include "vhost/inflight.h"

#include <gtest/gtest.h>

#include <vector>

#include "runtime/random.h"

namespace diskengine::vhost {
namespace {

constexpr uint16_t kSize = 8;

struct InflightTest : testing::Test {
  alignas(64) uint8_t part[spec::inflight_queue_bytes(kSize)] = {};
  spec::InflightQueue* queue = reinterpret_cast<spec::InflightQueue*>(part);
  spec::InflightDesc* desc = reinterpret_cast<spec::InflightDesc*>(part + sizeof(spec::InflightQueue));
};

TEST_F(InflightTest, AFreshBufferIsInitialisedAndHoldsNothing) {
  EXPECT_TRUE(Inflight(part, kSize).recover(77).empty());
  EXPECT_EQ(queue->version, spec::kInflightVersion);
  EXPECT_EQ(queue->desc_num, kSize);
  EXPECT_EQ(queue->used_idx, 77);
}

TEST_F(InflightTest, WhatWasTakenAndNotReturnedIsReplayedInTheOrderOfTaking) {
  Inflight first(part, kSize);
  first.recover(0);
  for (const uint16_t head : {5, 2, 7, 1}) first.take(head);
  first.link(7);
  first.release(7);
  first.settle(1);
  EXPECT_EQ(Inflight(part, kSize).recover(1), (std::vector<uint16_t>{5, 2, 1}));
}

// Kills the back end after every step of returning a batch, and looks what the next one does.
TEST_F(InflightTest, AKillAtAnyStepOfABatchReplaysExactlyWhatTheDriverHasNotSeen) {
  const std::vector<uint16_t> batch{3, 0, 6};
  for (size_t steps = 0; steps <= 2 * batch.size() + 2; ++steps) {
    std::fill(std::begin(part), std::end(part), uint8_t{0});
    Inflight dying(part, kSize);
    dying.recover(100);
    for (const uint16_t head : {3, 4, 0, 6}) dying.take(head);
    uint16_t used_index = 100;
    size_t left = steps;
    for (size_t i = 0; i < batch.size() && left > 0; ++i, --left) dying.link(batch[i]);
    if (left > 0) {
      used_index = 103;
      --left;
    }
    for (size_t i = 0; i < batch.size() && left > 0; ++i, --left) dying.release(batch[i]);
    if (left > 0) dying.settle(used_index);
    const auto expected = used_index == 100 ? std::vector<uint16_t>{3, 4, 0, 6} : std::vector<uint16_t>{4};
    EXPECT_EQ(Inflight(part, kSize).recover(used_index), expected) << "killed after " << steps << " steps";
  }
}

TEST_F(InflightTest, TheCounterGoesOnAfterARecovery) {
  Inflight first(part, kSize);
  first.recover(0);
  first.take(4);
  Inflight second(part, kSize);
  second.recover(0);
  second.take(1);
  EXPECT_EQ(Inflight(part, kSize).recover(0), (std::vector<uint16_t>{4, 1}));
}

TEST_F(InflightTest, ABufferFullOfNonsenseIsSurvived) {
  const uint64_t seed = Random::from_system().next();
  SCOPED_TRACE(testing::Message() << "seed " << seed);
  Random random(seed);
  for (int round = 0; round < 2000; ++round) {
    for (uint8_t& byte : part) byte = static_cast<uint8_t>(random.next());
    if (random.chance(3, 4)) queue->version = spec::kInflightVersion;
    for (uint16_t i = 0; i < kSize; ++i) desc[i].inflight &= 1;
    const std::vector<uint16_t> heads = Inflight(part, kSize).recover(static_cast<uint16_t>(random.next()));
    EXPECT_LE(heads.size(), kSize);
    for (const uint16_t head : heads) EXPECT_LT(head, kSize);
  }
}

}  // namespace
}  // namespace diskengine::vhost
