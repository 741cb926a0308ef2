#include "runtime/reactor.h"

#include <gtest/gtest.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <thread>

#include "runtime/gate.h"
#include "runtime/random.h"
#include "runtime/task.h"

namespace diskengine {
namespace {

class EventSource final : public Source {
 public:
  EventSource() : Source("test_event", eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC)) {}
  ~EventSource() { close(fd()); }
  int poll() noexcept override {
    uint64_t count = 0;
    if (read(fd(), &count, sizeof count) != sizeof count) return 0;
    seen += count;
    return 1;
  }
  void signal() {
    const uint64_t one = 1;
    ASSERT_EQ(write(fd(), &one, sizeof one), static_cast<ssize_t>(sizeof one));
  }
  std::atomic<uint64_t> seen{0};
};

TEST(Reactor, TimersFireInOrderOfDeadlineOnASteppedClock) {
  ManualClock clock;
  Reactor reactor({.clock = &clock, .use_ring = false});
  std::vector<int> fired;
  Timer late([&] { fired.push_back(3); });
  Timer early([&] { fired.push_back(1); });
  Timer moved([&] { fired.push_back(2); });
  Timer cancelled([&] { fired.push_back(9); });
  late.arm(reactor, 300);
  moved.arm(reactor, 500);
  early.arm(reactor, 100);
  cancelled.arm(reactor, 50);
  moved.arm(reactor, 200);
  cancelled.cancel();
  EXPECT_FALSE(reactor.turn());
  clock.advance_ns(1000);
  EXPECT_TRUE(reactor.turn());
  EXPECT_EQ(fired, (std::vector<int>{1, 2, 3}));
  EXPECT_FALSE(late.armed());
}

TEST(Reactor, RandomTimersNeverFireEarlyOrOutOfOrder) {
  const uint64_t seed = Random::from_system().next();
  SCOPED_TRACE("seed " + std::to_string(seed));
  Random random(seed);
  ManualClock clock;
  Reactor reactor({.clock = &clock, .use_ring = false});
  std::vector<std::unique_ptr<Timer>> timers;
  uint64_t last = 0;
  size_t fired = 0, cancelled = 0;
  for (int i = 0; i < 500; ++i) {
    timers.push_back(nullptr);
    Timer*& self = *new Timer*;
    timers.back() = std::make_unique<Timer>([&] {
      EXPECT_GE(clock.now_ns(), self->deadline_ns());
      EXPECT_GE(self->deadline_ns(), last);
      last = self->deadline_ns();
      ++fired;
      delete &self;
    });
    self = timers.back().get();
    self->arm(reactor, random.below(10000));
    if (random.chance(1, 5)) {
      self->cancel();
      delete &self;
      ++cancelled;
    }
  }
  for (int i = 0; i < 200; ++i) {
    clock.advance_ns(100);
    reactor.turn();
  }
  EXPECT_EQ(fired + cancelled, 500u);
}

TEST(Reactor, MessagesOfOneThreadArriveInOrderAndWakeASleepingReactor) {
  Reactor reactor({.spin_ns = 0});
  std::thread thread([&] { reactor.run(); });
  std::vector<int> got;
  std::atomic<int> count{0};
  for (int i = 0; i < 1000; ++i) {
    reactor.post([&got, &count, i] {
      got.push_back(i);
      ++count;
    });
    if (i % 100 == 0) std::this_thread::sleep_for(std::chrono::milliseconds(1));
  }
  while (count < 1000) std::this_thread::yield();
  reactor.stop();
  thread.join();
  for (int i = 0; i < 1000; ++i) EXPECT_EQ(got[static_cast<size_t>(i)], i);
  EXPECT_GT(reactor.stats().sleeps, 0u);
}

TEST(Reactor, AColdSourceIsWokenByItsDescriptorAndAnIdleReactorSleeps) {
  Reactor reactor({.spin_ns = 20'000});
  EventSource source;
  reactor.post([&] { reactor.add(source); });
  std::thread thread([&] { reactor.run(); });
  for (uint64_t i = 1; i <= 20; ++i) {
    std::this_thread::sleep_for(std::chrono::milliseconds(2));
    source.signal();
    while (source.seen < i) std::this_thread::yield();
  }
  std::this_thread::sleep_for(std::chrono::milliseconds(50));
  std::atomic<bool> removed{false};
  reactor.post([&] {
    reactor.remove(source);
    removed = true;
  });
  while (!removed) std::this_thread::yield();
  reactor.stop();
  thread.join();
  EXPECT_GE(reactor.stats().sleeps, 20u);
  EXPECT_LT(reactor.stats().turns, 2'000'000u);
}

TEST(Reactor, ASourceRemovedWhileColdIsNeverTouchedAgain) {
  Reactor reactor({.spin_ns = 0});
  auto source = std::make_unique<EventSource>();
  reactor.add(*source);
  for (int i = 0; i < 10; ++i) reactor.turn();
  source->signal();
  reactor.remove(*source);
  source.reset();
  for (int i = 0; i < 10; ++i) reactor.turn();
}

Task<int> add_after_sleep(Reactor& reactor, int a, int b) {
  co_await sleep_for(reactor, 1000);
  co_return a + b;
}

Task<Result<int>> sum_of_sums(Reactor& reactor) {
  int first = co_await add_after_sleep(reactor, 1, 2);
  int second = co_await add_after_sleep(reactor, 3, 4);
  Result<int> checked = first + second;
  CO_TRY_ASSIGN(int total, checked);
  co_return total;
}

TEST(Task, AwaitsNestAndFinishOnTheReactor) {
  ManualClock clock;
  Reactor reactor({.clock = &clock, .use_ring = false});
  int total = 0;
  spawn<Result<int>>(sum_of_sums(reactor), [&](Result<int> r) { total = *r; });
  for (int i = 0; i < 5; ++i) {
    clock.advance_ns(1000);
    reactor.turn();
  }
  EXPECT_EQ(total, 10);
}

Task<void> await_shot(OneShot<int>& shot, int& out) { out = co_await shot; }

TEST(Task, AOneShotResumesThroughTheReactorNotInsideSet) {
  Reactor reactor({.use_ring = false});
  OneShot<int> shot(reactor);
  int out = 0;
  spawn(await_shot(shot, out));
  shot.set(7);
  EXPECT_EQ(out, 0);
  reactor.turn();
  EXPECT_EQ(out, 7);
}

Task<void> fetch_from(Reactor& other, int& out, Reactor*& ran_on) {
  out = co_await call_on<int>(other, [&ran_on] {
    ran_on = Reactor::current();
    return 5;
  });
}

TEST(Task, CallOnRunsThereAndComesBack) {
  Reactor home({.use_ring = false});
  Reactor other({.use_ring = false});
  int out = 0;
  Reactor* ran_on = nullptr;
  home.post([&] { spawn(fetch_from(other, out, ran_on)); });
  home.turn();
  other.turn();
  EXPECT_EQ(out, 0);
  home.turn();
  EXPECT_EQ(out, 5);
  EXPECT_EQ(ran_on, &other);
}

TEST(Gate, ClosesRefusesAndReportsTheLastOneOut) {
  Gate gate;
  bool empty = false;
  Gate::Pass inside(gate);
  ASSERT_TRUE(inside);
  gate.close([&] { empty = true; });
  EXPECT_FALSE(gate.enter());
  EXPECT_FALSE(empty);
  inside = Gate::Pass();
  EXPECT_TRUE(empty);
}

TEST(Reactor, WorkThatDefersItselfForeverLeavesTheTurnToOthers) {
  struct Forever final : Deferred {
    explicit Forever(Reactor& r) : reactor(r) {}
    ~Forever() {
      if (linked()) unlink();
    }
    void run() noexcept override {
      ++runs;
      reactor.defer(*this);
    }
    Reactor& reactor;
    unsigned runs = 0;
  };
  Reactor reactor({.use_ring = false});
  Forever forever(reactor);
  reactor.defer(forever);
  EXPECT_TRUE(reactor.turn());
  EXPECT_LE(forever.runs, 2 * Reactor::kDeferredRoundsMax);
  const unsigned before = forever.runs;
  reactor.turn();
  EXPECT_GT(forever.runs, before);
}

}  // namespace
}  // namespace diskengine
