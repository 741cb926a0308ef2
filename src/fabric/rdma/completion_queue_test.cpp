// No completion is lost between polling and waiting, whenever it comes.
#include "fabric/rdma/completion_queue.h"

#include <gtest/gtest.h>

#include "fabric/rdma/sim_verbs.h"

namespace diskengine::fabric::rdma {
namespace {

class CompletionQueueTest : public testing::Test, protected CompletionQueue::Handler {
 protected:
  void on_completion(const ibv_wc& completion) noexcept override {
    seen_.push_back(completion.wr_id);
    if (seen_.size() == stop_at_) reactor_.stop();
  }
  void on_broken() noexcept override { ++broken_; }

  std::unique_ptr<CompletionQueue> make() {
    return std::move(
        CompletionQueue::make(verbs_, reactor_, &fabric_.context, 4096, "test", static_cast<Handler&>(*this)).value());
  }
  void push(ibv_cq* cq) {
    ibv_wc wc{};
    wc.wr_id = next_++;
    verbs_.complete(cq, wc);
  }

  Reactor reactor_{{.spin_ns = 1000}};
  SimFabric fabric_;
  SimVerbs verbs_{fabric_};
  std::vector<uint64_t> seen_;
  uint64_t next_ = 0;
  size_t stop_at_ = SIZE_MAX;
  int broken_ = 0;
};

TEST_F(CompletionQueueTest, WhatCompletesWhileNotificationsAreSwitchedOnIsFound) {
  constexpr uint64_t kTimes = 200;
  const auto queue = make();
  fabric_.on_arm = [this](ibv_cq* cq) {
    if (next_ < kTimes) push(cq);
  };
  stop_at_ = kTimes;
  // The loop that blocks: it arms what the polling before has armed in vain.
  Timer limit([this] { reactor_.stop(); });
  limit.arm(reactor_, 5'000'000'000);
  reactor_.run();
  ASSERT_EQ(seen_.size(), kTimes);
  for (uint64_t i = 0; i < seen_.size(); ++i) EXPECT_EQ(seen_[i], i);
}

TEST_F(CompletionQueueTest, AnIdleQueueIsWokenByItsChannel) {
  const auto queue = make();
  int armed = 0;
  fabric_.on_arm = [&](ibv_cq*) { ++armed; };
  for (int round = 1; round <= 20; ++round) {
    const int before = armed;
    ASSERT_TRUE(reactor_.run_until([&] { return armed > before; }));
    const uint64_t polls = queue->stats().polls;
    push(queue->get());
    ASSERT_TRUE(reactor_.run_until([&] { return seen_.size() == static_cast<size_t>(round); }));
    EXPECT_GT(queue->stats().polls, polls);
  }
}

TEST_F(CompletionQueueTest, MoreThanABatchIsTakenInOrderAndADeadDeviceIsToldOnce) {
  const auto queue = make();
  for (size_t i = 0; i < 5 * CompletionQueue::kBatch + 3; ++i) push(queue->get());
  EXPECT_TRUE(reactor_.run_until([&] { return seen_.size() == next_; }));
  for (uint64_t i = 0; i < seen_.size(); ++i) ASSERT_EQ(seen_[i], i);
  fabric_.answers = false;
  EXPECT_TRUE(reactor_.run_until([&] { return broken_ > 0; }));
  for (int i = 0; i < 100; ++i) reactor_.turn();
  EXPECT_EQ(broken_, 1);
}

}  // namespace
}  // namespace diskengine::fabric::rdma
