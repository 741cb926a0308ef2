// The NVMe host over PCIe, on a simulated controller: what a disk does, does to its memory, and gets wrong.
#include <fmt/ranges.h>
#include <gtest/gtest.h>

#include <cstring>
#include <optional>
#include <thread>

#include "base/log.h"
#include "fabric/pcie/host.h"
#include "fabric/pcie/sim_controller.h"
#include "nvme/manager.h"
#include "runtime/alloc_trap.h"

namespace diskengine::nvme {
namespace {

using fabric::pcie::SimController;
using spec::Status;
using Verdict = SimController::Verdict;

class PcieTest : public testing::Test {
 protected:
  explicit PcieTest(bool use_ring = false) : reactor_(reactor_options(clock_, use_ring)) {
    log_set_level(LogLevel::error);
  }
  ~PcieTest() override {
    sim_.delete_works = true;
    channel_.reset();
    disk_.reset();
    bool stopped = false;
    on_reactor([&] { spawn(manager_.stop(), [&] { stopped = true; }); });
    EXPECT_TRUE(until([&] { return stopped; }));
    for (int i = 0; i < 10; ++i) reactor_.turn();
    EXPECT_EQ(sim_.dma_faults, expected_faults_);
  }

  // Turns, and lets time pass: a millisecond for each turn.
  bool until(const std::function<bool()>& done) {
    const uint64_t end_ns = clock_.now_ns() + 60'000'000'000;
    while (!done() && clock_.now_ns() < end_ns) {
      reactor_.turn();
      clock_.advance_ns(1'000'000);
      // Devices are opened, and memory is mapped, by a thread.
      if (!done()) std::this_thread::sleep_for(std::chrono::microseconds(20));
    }
    return done();
  }
  void on_reactor(std::function<void()> work) {
    bool done = false;
    reactor_.post([&] {
      work();
      done = true;
    });
    ASSERT_TRUE(until([&] { return done; }));
  }
  template <typename T>
  T wait(Task<T> task) {
    std::optional<T> result;
    auto holder = std::make_shared<Task<T>>(std::move(task));
    reactor_.post([&, holder] { spawn<T>(std::move(*holder), [&](T value) { result.emplace(std::move(value)); }); });
    EXPECT_TRUE(until([&] { return result.has_value(); }));
    return std::move(*result);
  }

  static ControllerOptions options() {
    ControllerOptions options;
    options.name = "NvmeDisk1";
    options.address = {"PCIe", "00:04.0", "", "", ""};
    return options;
  }
  void attach() {
    Result<std::vector<std::string>> names = wait(manager_.attach(options()));
    ASSERT_TRUE(names) << names.error().message();
    ASSERT_EQ(names->front(), "NvmeDisk1n1");
    disk_ = *registry_.find("NvmeDisk1n1");
    on_reactor([&] { channel_ = *disk_->open_channel(reactor_); });
    const std::shared_ptr<Controller> controller = *manager_.find("NvmeDisk1");
    EXPECT_TRUE(until([&] { return !controller->links().empty() && controller->links().front()->connected; }));
  }
  Error refusal() {
    Result<std::vector<std::string>> names = wait(manager_.attach(options()));
    return names ? Error(Errc::internal, "attached") : names.error();
  }

  struct Io {
    Request request;
    std::vector<uint8_t> own;
    std::vector<iovec> iov;
    bool done = false;
  };
  void submit(Io& io, Op op, uint64_t lba, uint64_t blocks, std::vector<iovec> pieces = {}) {
    io.iov = std::move(pieces);
    const bool data = op == Op::read || op == Op::write || op == Op::compare;
    if (data && io.iov.empty()) {
      io.own.resize(blocks * disk_->info().block_size);
      io.iov = {{io.own.data(), io.own.size()}};
    }
    io.request.op = op;
    io.request.lba = lba;
    io.request.blocks = blocks;
    io.request.iov = io.iov;
    io.request.owner = &io;
    io.done = false;
    io.request.done = [](Request& request) noexcept { static_cast<Io*>(request.owner)->done = true; };
    on_reactor([&] { channel_->submit(io.request); });
  }
  IoStatus finish(Io& io) {
    EXPECT_TRUE(until([&] { return io.done; })) << "the request never completed";
    return io.request.status;
  }
  IoStatus run(Op op, uint64_t lba, uint64_t blocks) {
    Io io;
    submit(io, op, lba, blocks);
    return finish(io);
  }
  std::string state() { return std::string((*manager_.find("NvmeDisk1"))->state_name()); }
  uint8_t* media(uint64_t lba) { return &sim_.namespaces[1].bytes[lba * 512]; }
  fabric::HostQueueStats stats() {
    fabric::HostQueueStats sum;
    on_reactor([&] { sum = (*manager_.find("NvmeDisk1"))->links().front()->channel->queue_stats(); });
    return sum;
  }

  // Until listed memory at `at` is read into where it is; returns how many requests were so far.
  uint64_t wait_reached(uint8_t* at) {
    for (int tries = 0; tries < 20'000 && stats().direct_requests == 0; ++tries) {
      std::this_thread::sleep_for(std::chrono::microseconds(100));  // for the thread that maps it
      Io io;
      submit(io, Op::read, 0, 1, {{at, 512}});
      EXPECT_TRUE(finish(io).ok());
    }
    EXPECT_GT(stats().direct_requests, 0u);
    return stats().direct_requests;
  }

  static Reactor::Options reactor_options(const Clock& clock, bool use_ring) {
    Reactor::Options options;
    options.clock = &clock;
    options.use_ring = use_ring;
    return options;
  }

  ManualClock clock_;
  Reactor reactor_;
  DeviceRegistry registry_{reactor_};
  Random random_{7};
  SimController sim_;
  DmaRegions regions_;
  fabric::pcie::HostTransport transport_{sim_, regions_};
  HostManager manager_{reactor_, registry_, {{"PCIe", &transport_}}, random_};
  std::shared_ptr<Device> disk_;
  std::unique_ptr<Channel> channel_;
  unsigned expected_faults_ = 0;
};

// --- What works -----------------------------------------------------------------------------------------------------

TEST_F(PcieTest, AttachShowsTheDiskWithWhatItsControllerSays) {
  sim_.namespaces[2].block_size = 4096;
  attach();
  EXPECT_EQ(disk_->info().block_size, 512u);
  EXPECT_EQ(disk_->size_blocks(), 2048u);
  EXPECT_TRUE(disk_->info().write_cache);
  EXPECT_TRUE(disk_->info().can_unmap && disk_->info().can_write_zeroes && disk_->info().can_compare);
  EXPECT_EQ((*manager_.find("NvmeDisk1"))->limits().controller_id, 3);
  EXPECT_EQ((*registry_.find("NvmeDisk1n2"))->info().block_size, 4096u);
}

TEST_F(PcieTest, ACacheThatIsSwitchedOffIsNone) {
  sim_.cache_on = false;
  attach();
  EXPECT_FALSE(disk_->info().write_cache);
  EXPECT_EQ(disk_->cache_instance(), kNothingCached);
}

// Hears of lost caches and holds nothing up.
struct LossCounter final : DeviceWatcher {
  void on_removed(Device&) override {}
  void on_cache_lost(Device&, const std::shared_ptr<void>&) override { ++losses; }
  unsigned losses = 0;
};

TEST_F(PcieTest, AResetLosesNoCacheAndACutOfPowerDoes) {
  sim_.health.power_cycles.low = 7;
  attach();
  const Uuid cache = disk_->cache_instance();
  EXPECT_FALSE(cache.is_nil());
  LossCounter counter;
  on_reactor([&] { disk_->watch(counter); });
  ASSERT_TRUE(wait(manager_.reset("NvmeDisk1", 0)));
  EXPECT_EQ(disk_->cache_instance(), cache);
  EXPECT_EQ(counter.losses, 0u);
  ++sim_.health.power_cycles.low;
  ASSERT_TRUE(wait(manager_.reset("NvmeDisk1", 0)));
  EXPECT_NE(disk_->cache_instance(), cache);
  EXPECT_EQ(counter.losses, 1u);
  on_reactor([&] { disk_->unwatch(counter); });
}

TEST_F(PcieTest, RequestsOfAnySizeMoveTheRightBytes) {
  attach();
  for (const auto& [lba, blocks] : {std::pair{0, 1}, {8, 8}, {9, 9}, {3, 255}, {1, 700}, {0, 2048}}) {
    Io write;
    write.own.resize(static_cast<size_t>(blocks) * 512);
    for (uint8_t& byte : write.own) byte = static_cast<uint8_t>(random_.next());
    submit(write, Op::write, lba, blocks);
    ASSERT_TRUE(finish(write).ok());
    ASSERT_EQ(std::memcmp(write.own.data(), media(lba), write.own.size()), 0);
    Io read;
    submit(read, Op::read, lba, blocks);
    ASSERT_TRUE(finish(read).ok());
    EXPECT_EQ(read.own, write.own);
    Io compare;
    compare.own = write.own;
    submit(compare, Op::compare, lba, blocks);
    EXPECT_TRUE(finish(compare).ok());
  }
  EXPECT_EQ(stats().direct_requests, 0u);
}

TEST_F(PcieTest, MemoryMayLieScatteredWhereThereIsNoIommu) {
  sim_.domain().scattered = true;
  attach();
  const DmaRegions::Listed listed = regions_.list(media(0), 64 * 1024);  // cannot be mapped
  for (const uint64_t blocks : {1u, 8u, 33u, 256u, 1024u}) {
    // Enough at once for the pool's memory to be used across the borders of its runs.
    std::vector<Io> writes(12);
    for (size_t i = 0; i < writes.size(); ++i) {
      writes[i].own.resize(blocks * 512);
      for (size_t at = 0; at < writes[i].own.size(); ++at)
        writes[i].own[at] = static_cast<uint8_t>(at / 512 * 7 + at + i);
      submit(writes[i], Op::write, 0, blocks);
    }
    for (Io& write : writes) ASSERT_TRUE(finish(write).ok());
    const std::vector<uint8_t>& last = writes.back().own;
    ASSERT_EQ(std::memcmp(media(0), last.data(), last.size()), 0) << blocks;
    Io read;
    submit(read, Op::read, 0, blocks);
    ASSERT_TRUE(finish(read).ok());
    ASSERT_EQ(read.own, last) << blocks;
  }
  EXPECT_EQ(stats().direct_requests, 0u);
}

TEST_F(PcieTest, FlushFuaZeroesAndUnmapReachTheControllerAsSuch) {
  attach();
  EXPECT_TRUE(run(Op::flush, 0, 0).ok());
  EXPECT_EQ(sim_.io_commands.back().opcode, spec::IoOp::flush);
  Io fua;
  fua.request.fua = true;
  submit(fua, Op::write, 5, 1);
  EXPECT_TRUE(finish(fua).ok());
  EXPECT_NE(sim_.io_commands.back().cdw12 & spec::kRwFua, 0u);
  *media(5) = *media(6) = 3;
  EXPECT_TRUE(run(Op::write_zeroes, 5, 1).ok());
  EXPECT_TRUE(run(Op::unmap, 6, 10).ok());
  EXPECT_EQ(*media(5) + *media(6), 0);
}

TEST_F(PcieTest, CommandsOfATurnLeaveWithOneDoorbell) {
  attach();
  const unsigned before = sim_.doorbells;
  std::vector<Io> ios(32);
  on_reactor([&] {
    for (size_t i = 0; i < ios.size(); ++i) {
      ios[i].request.op = Op::flush;
      ios[i].request.owner = &ios[i];
      ios[i].request.done = [](Request& request) noexcept { static_cast<Io*>(request.owner)->done = true; };
      channel_->submit(ios[i].request);
    }
  });
  EXPECT_TRUE(finish(ios.back()).ok());
  EXPECT_EQ(sim_.doorbells - before, 2u) << "one for the commands, one for their completions";
}

TEST_F(PcieTest, MoreRequestsThanTheQueueHoldsAllCompleteAndTheQueueGoesRound) {
  attach();
  std::vector<Io> ios(1000);
  for (size_t i = 0; i < ios.size(); ++i) {
    ios[i].own.assign(512, static_cast<uint8_t>(i + 1));
    submit(ios[i], Op::write, i, 1);
  }
  for (size_t i = 0; i < ios.size(); ++i) {
    ASSERT_TRUE(finish(ios[i]).ok());
    ASSERT_EQ(*media(i), static_cast<uint8_t>(i + 1));
  }
}

TEST_F(PcieTest, IoAllocatesNothingOnceTheQueueIsUp) {
  attach();
  for (const uint64_t blocks : {1u, 8u, 256u}) {
    for (const Op op : {Op::write, Op::read, Op::flush}) {
      Io io;
      uint64_t allocations = 0;
      for (int round = 0; round < 20; ++round) {
        submit(io, op, 16, blocks);  // for the first time, and its vectors are made
        ASSERT_TRUE(finish(io).ok());
        io.done = false;
        reactor_.post([&] { channel_->submit(io.request); });
        for (int turns = 0; turns < 1000 && !io.done; ++turns) {
          const AllocTrap trap;
          reactor_.turn();
          if (round >= 4) allocations += trap.allocations();
        }
        ASSERT_TRUE(io.done);
      }
      EXPECT_EQ(allocations, 0u) << blocks << " blocks";
    }
  }
}

TEST_F(PcieTest, ListedMemoryIsReachedWhereItIsUntilItLeavesTheList) {
  attach();
  DmaBuffer memory(256 * 1024);
  const size_t mappings = sim_.domain().mappings();
  auto listed = std::make_optional(regions_.list(memory.data(), memory.size()));
  const uint64_t before = wait_reached(memory.data());
  std::memset(memory.data(), 0x5a, memory.size());
  const auto piece = [&](size_t at, size_t bytes) { return iovec{memory.data() + at, bytes}; };
  Io whole;
  submit(whole, Op::write, 0, 128, {piece(512, 65536)});
  EXPECT_TRUE(finish(whole).ok());
  Io pages;
  submit(pages, Op::write, 200, 24, {piece(4096, 4096), piece(32768, 8192)});
  EXPECT_TRUE(finish(pages).ok());
  EXPECT_EQ(stats().direct_requests, before + 2);
  EXPECT_EQ(*media(127), 0x5a);
  Io holes;  // no page pointers for these
  submit(holes, Op::write, 300, 4, {piece(0, 1024), piece(2048, 1024)});
  EXPECT_TRUE(finish(holes).ok());
  EXPECT_EQ(stats().direct_requests, before + 2);
  EXPECT_EQ(*media(303), 0x5a);
  listed.reset();
  Io after;
  submit(after, Op::read, 0, 8, {piece(0, 4096)});
  EXPECT_TRUE(finish(after).ok());
  EXPECT_EQ(stats().direct_requests, before + 2);
  ASSERT_TRUE(until([&] { return sim_.domain().mappings() == mappings; }));
}

TEST_F(PcieTest, PiecesOfAnyShapeAreReachedWhereTheyAreBySgls) {
  sim_.sgls = spec::kSglsSupported;
  attach();
  DmaBuffer memory(64 * 1024);
  const DmaRegions::Listed listed = regions_.list(memory.data(), memory.size());
  const uint64_t before = wait_reached(memory.data());
  std::memset(memory.data(), 0x77, memory.size());
  Io io;
  submit(io, Op::write, 0, 4, {{memory.data() + 1, 1000}, {memory.data() + 9000, 1048}});
  EXPECT_TRUE(finish(io).ok());
  EXPECT_EQ(sim_.sgl_commands, 1u);
  EXPECT_EQ(stats().direct_requests, before + 1);
  EXPECT_EQ(*media(3), 0x77);
}

TEST_F(PcieTest, WithShadowDoorbellsTheControllerLooksByItself) {
  sim_.oacs = spec::kOacsDoorbellBuffer;
  sim_.looks_at_shadow = true;
  attach();
  EXPECT_TRUE(run(Op::read, 0, 1).ok());
  sim_.automatic = false;
  sim_.step();
  const unsigned before = sim_.doorbells;
  std::vector<Io> ios(8);
  for (size_t i = 0; i < ios.size(); ++i) submit(ios[i], Op::read, i, 1);
  // The first is asked for; the event index stands where the controller looked last.
  EXPECT_EQ(sim_.doorbells - before, 1u);
  EXPECT_EQ(sim_.step(), 8u);
  sim_.automatic = true;
  for (Io& io : ios) EXPECT_TRUE(finish(io).ok());
}

// With a reactor that waits for descriptors.
class PcieInterruptTest : public PcieTest {
 protected:
  PcieInterruptTest() : PcieTest(true) {}

  // Answers a request once its queue has gone to wait.
  IoStatus answer_late() {
    Io io;
    sim_.automatic = false;
    submit(io, Op::read, 0, 1);
    for (int i = 0; i < 100; ++i) {
      reactor_.turn();
      clock_.advance_ns(1'000'000);
    }
    EXPECT_EQ(sim_.step(), 1u);
    sim_.automatic = true;
    return finish(io);
  }
};

TEST_F(PcieInterruptTest, AnIdleQueueIsWokenByItsInterrupt) {
  attach();
  EXPECT_TRUE(answer_late().ok());
  for (int i = 0; i < 30; ++i) EXPECT_TRUE(run(Op::read, 0, 1).ok());  // busy for so long that it was off
  EXPECT_TRUE(answer_late().ok());
}

TEST_F(PcieInterruptTest, AQueueGetsInterruptsWhateverTheOneBeforeItLeft) {
  attach();
  for (int i = 0; i < 30; ++i) EXPECT_TRUE(run(Op::read, 0, 1).ok());
  EXPECT_FALSE(sim_.interrupts_on(1));
  on_reactor([&] {
    channel_.reset();
    channel_ = *disk_->open_channel(reactor_);
  });
  EXPECT_TRUE(run(Op::read, 0, 1).ok());
  EXPECT_TRUE(answer_late().ok());
}

TEST_F(PcieInterruptTest, AQueueWhoseInterruptTheKernelRefusesIsPolled) {
  attach();
  sim_.refuse_vectors = true;
  EXPECT_TRUE(answer_late().ok());
}

TEST_F(PcieTest, HealthAndErrorsAreRead) {
  sim_.health.set_temperature_k(311);
  sim_.health.available_spare_percent = 98;
  sim_.health.media_errors.low = 5;
  attach();
  Result<spec::SmartLog> log = wait(manager_.read_health("NvmeDisk1"));
  ASSERT_TRUE(log);
  EXPECT_EQ(log->temperature_k(), 311);
  EXPECT_EQ(log->available_spare_percent, 98);
  EXPECT_EQ(log->media_errors.low, 5u);
}

TEST_F(PcieTest, ItsTemperatureIsThatOfTheLastReading) {
  sim_.health.set_temperature_k(311);
  attach();
  const std::shared_ptr<Controller> controller = *manager_.find("NvmeDisk1");
  EXPECT_EQ(controller->temperature_k(), 0);
  on_reactor([&] {
    controller->read_temperature();
    controller->read_temperature();  // under way
  });
  until([&] { return controller->temperature_k() == 311; });
  sim_.health.set_temperature_k(355);
  on_reactor([&] { controller->read_temperature(); });
  until([&] { return controller->temperature_k() == 355; });
}

TEST_F(PcieTest, ADiskThatSaysItIsNotWellIsReportedOnceForEachChange) {
  std::vector<std::string> told;
  manager_.set_health_watcher([&](const std::string& name, const std::string& what) { told.push_back(name + what); });
  attach();
  const auto announce = [&](uint8_t warning) {
    sim_.health.critical_warning = warning;
    on_reactor([&] { sim_.announce(spec::async_event(spec::AsyncEventType::smart, 0, spec::LogPage::smart)); });
    int turns = 0;  // of a millisecond
    until([&] { return ++turns > 2000; });
  };
  sim_.health.available_spare_percent = 3;
  sim_.health.available_spare_threshold_percent = 10;
  announce(spec::kWarningSpare);
  announce(spec::kWarningSpare);
  ASSERT_EQ(told.size(), 1u);
  EXPECT_EQ(told[0], "NvmeDisk13 % of its spare is left, below its threshold of 10 %");
  announce(spec::kWarningSpare | spec::kWarningReadOnly);
  announce(0);
  ASSERT_EQ(told.size(), 3u) << fmt::format("{}", fmt::join(told, " / "));
  EXPECT_NE(told[1].find("; takes no more writes"), std::string::npos);
  EXPECT_EQ(told[2], "NvmeDisk1well again");
}

TEST_F(PcieTest, TheErrorLogShowsEntriesInUse) {
  attach();
  Result<std::vector<spec::ErrorLogEntry>> log = wait(manager_.read_errors("NvmeDisk1"));
  ASSERT_TRUE(log);
  ASSERT_EQ(log->size(), 1u);
  EXPECT_EQ(log->front().count, 7u);
  EXPECT_EQ(log->front().lba, 42u);
  EXPECT_EQ(spec::status_of(log->front().status), Status::unrecovered_read_error);
}

TEST_F(PcieTest, ADiskIsFoundByItsSerialNumber) {
  ControllerOptions wanted = options();
  wanted.address.address = "serial:SIM1";
  Result<std::vector<std::string>> names = wait(manager_.attach(wanted));
  ASSERT_TRUE(names) << names.error().message();
  EXPECT_EQ((*manager_.find("NvmeDisk1"))->options().address.address, "0000:00:04.0");
  EXPECT_EQ(sim_.opens, 2u) << "asked, and then attached";
  wanted.name = "Again";
  EXPECT_EQ(wait(manager_.attach(wanted)).error().code(), Errc::busy);
  wanted.address.address = "serial:OTHER";
  const Error other = wait(manager_.attach(wanted)).error();
  EXPECT_EQ(other.code(), Errc::not_found);
  EXPECT_NE(other.message().find("0000:00:04.0 has SIM1"), std::string::npos) << other.message();
  EXPECT_EQ(sim_.opens, 2u) << "what is attached is not asked again";
}

TEST_F(PcieTest, QueuesAreLimitedToTheVectorsThereAre) {
  sim_.vectors = 3;
  attach();
  EXPECT_EQ((*manager_.find("NvmeDisk1"))->limits().io_queues, 2);
  std::vector<std::unique_ptr<Channel>> more(2);
  on_reactor([&] {
    for (auto& channel : more) channel = *disk_->open_channel(reactor_);
  });
  EXPECT_TRUE(until([&] { return sim_.queues() == 3; }));
  Request third;
  bool failed = false;
  third.op = Op::flush;
  third.owner = &failed;
  third.done = [](Request& request) noexcept { *static_cast<bool*>(request.owner) = true; };
  on_reactor([&] { more[1]->submit(third); });
  EXPECT_TRUE(until([&] { return failed; }));
  EXPECT_EQ(third.status.code, IoCode::disconnected);
}

TEST_F(PcieTest, DetachLeavesTheControllerOffAndNothingMapped) {
  attach();
  EXPECT_TRUE(run(Op::read, 0, 1).ok());
  channel_.reset();
  disk_.reset();
  EXPECT_TRUE(wait(manager_.detach("NvmeDisk1", {})));
  EXPECT_FALSE(sim_.enabled());
  EXPECT_TRUE(until([&] { return sim_.domain().mappings() == 0; }));
  attach();
  EXPECT_TRUE(run(Op::read, 0, 1).ok());
}

// --- What goes wrong ------------------------------------------------------------------------------------------------

TEST_F(PcieTest, AControllerThatCannotBeDrivenIsRefusedWithTheReason) {
  sim_.gone = true;
  EXPECT_EQ(refusal().code(), Errc::not_found);
  sim_.gone = false;
  sim_.half_gone = true;
  EXPECT_EQ(refusal().code(), Errc::not_found);
  sim_.half_gone = false;
  sim_.cap |= uint64_t{1} << 48;  // pages of 8192 bytes and more
  EXPECT_NE(refusal().message().find("pages of 8192"), std::string::npos);
  sim_.cap = spec::make_cap(64, 1000).value & ~(uint64_t{1} << 37);
  EXPECT_NE(refusal().message().find("command set"), std::string::npos);
  sim_.cap = spec::make_cap(64, 1000).value;
  sim_.never_ready = true;
  EXPECT_EQ(refusal().code(), Errc::timed_out);
  sim_.never_ready = false;
  sim_.fatal = true;
  EXPECT_NE(refusal().message().find("CSTS.CFS"), std::string::npos);
  sim_.fatal = false;
  sim_.domain().refuse = true;
  EXPECT_EQ(refusal().code(), Errc::no_memory);
  sim_.domain().refuse = false;
  attach();
}

TEST_F(PcieTest, ALostCompletionIsAbortedAndIfThatIsNoUseTheControllerIsReset) {
  ASSERT_TRUE(manager_.set_options({.action_on_timeout = TimeoutAction::abort, .timeout_us = 50'000}));
  attach();
  sim_.verdict = [](const spec::Sqe&) { return Verdict::swallow; };
  EXPECT_EQ(run(Op::read, 0, 1).code, IoCode::canceled);
  EXPECT_EQ(sim_.aborts, 1u);
  EXPECT_EQ(sim_.enables, 1u);
  bool lost = false;
  sim_.verdict = [&](const spec::Sqe&) { return Verdict::serve; };
  sim_.mangle = [&](uint16_t queue, spec::Cqe& cqe) {
    if (queue != 0 && !std::exchange(lost, true)) cqe.status ^= spec::kCqePhase;  // never seen
  };
  EXPECT_TRUE(run(Op::read, 0, 1).ok());
  EXPECT_EQ(sim_.enables, 2u);
}

TEST_F(PcieTest, CompletionsThatFitNoCommandCostAResetAndNoRequest) {
  attach();
  unsigned wrong = 0;
  const std::vector<std::function<void(spec::Cqe&)>> ways = {
      [](spec::Cqe& cqe) { cqe.cid = static_cast<uint16_t>(cqe.cid ^ 1); },
      [](spec::Cqe& cqe) { cqe.cid = static_cast<uint16_t>(cqe.cid ^ 0x8000); },
      [](spec::Cqe& cqe) { cqe.cid = 0xffff; },
      [](spec::Cqe& cqe) { cqe.sq_id = 7; },
      [](spec::Cqe& cqe) { cqe.sq_head = 0xfff0; },
  };
  for (const auto& way : ways) {
    bool once = false;
    sim_.mangle = [&](uint16_t queue, spec::Cqe& cqe) {
      if (queue == 0 || std::exchange(once, true)) return;
      way(cqe);
      ++wrong;
    };
    EXPECT_TRUE(run(Op::read, 0, 1).ok());
    EXPECT_EQ(sim_.enables, wrong + 1);
  }
}

TEST_F(PcieTest, ARepeatedCompletionCostsAReset) {
  attach();
  EXPECT_TRUE(run(Op::read, 0, 1).ok());
  spec::Cqe cqe;
  cqe.cid = sim_.io_commands.back().cid;
  cqe.sq_id = 1;
  on_reactor([&] { sim_.post(1, cqe); });
  EXPECT_TRUE(until([&] { return sim_.enables == 2 && state() == "enabled"; }));
  EXPECT_TRUE(run(Op::read, 0, 1).ok());
}

TEST_F(PcieTest, RequestsInFlightSurviveAReset) {
  attach();
  sim_.automatic = false;
  std::vector<Io> ios(20);
  for (size_t i = 0; i < ios.size(); ++i) {
    ios[i].own.assign(512, static_cast<uint8_t>(i + 1));
    submit(ios[i], Op::write, i, 1);
  }
  sim_.automatic = true;
  sim_.verdict = [this](const spec::Sqe&) { return sim_.enables == 1 ? Verdict::swallow : Verdict::serve; };
  EXPECT_TRUE(wait(manager_.reset("NvmeDisk1", 0)));
  for (size_t i = 0; i < ios.size(); ++i) {
    EXPECT_TRUE(finish(ios[i]).ok());
    EXPECT_EQ(*media(i), static_cast<uint8_t>(i + 1));
  }
}

TEST_F(PcieTest, AQueueThatCannotBeDeletedTakesTheControllerDownBeforeItsCommandsAreOver) {
  ASSERT_TRUE(manager_.set_options({.action_on_timeout = TimeoutAction::reset, .timeout_us = 50'000}));
  attach();
  sim_.delete_works = false;
  bool swallowed = false;
  sim_.verdict = [&](const spec::Sqe&) { return std::exchange(swallowed, true) ? Verdict::serve : Verdict::swallow; };
  EXPECT_TRUE(run(Op::read, 0, 1).ok());
  EXPECT_EQ(sim_.enables, 2u);
  EXPECT_EQ(sim_.resets, 0u);
}

TEST_F(PcieTest, AControllerThatDoesNotBecomeIdleHasItsFunctionReset) {
  attach();
  sim_.never_idle = true;
  EXPECT_TRUE(wait(manager_.reset("NvmeDisk1", 0)));
  EXPECT_EQ(sim_.resets, 1u);
  sim_.never_idle = false;
  EXPECT_TRUE(run(Op::read, 0, 1).ok());
}

TEST_F(PcieTest, AFatalStatusIsNoticedAndTheControllerIsReset) {
  ASSERT_TRUE(manager_.set_options({.keep_alive_ms = 1000}));
  attach();
  sim_.fatal = true;
  EXPECT_TRUE(until([&] { return state() != "enabled"; }));
  sim_.fatal = false;
  Result<void> again = wait(manager_.reset("NvmeDisk1", 0));
  EXPECT_TRUE(again) << again.error().message();
  EXPECT_TRUE(run(Op::read, 0, 1).ok());
}

TEST_F(PcieTest, AnUnpluggedDiskGoesAwayAndFailsItsRequests) {
  ASSERT_TRUE(manager_.set_options({.keep_alive_ms = 1000}));
  attach();
  sim_.automatic = false;
  Io io;
  submit(io, Op::write, 0, 1);
  sim_.gone = true;
  EXPECT_EQ(finish(io).code, IoCode::disconnected);
  EXPECT_TRUE(until([&] { return !registry_.find("NvmeDisk1n1"); }));
  EXPECT_EQ(run(Op::read, 0, 1).code, IoCode::disconnected);
  channel_.reset();
  disk_.reset();
  EXPECT_TRUE(until([&] { return manager_.all().empty(); }));
  sim_.gone = false;
  sim_.automatic = true;
  attach();
  EXPECT_TRUE(run(Op::read, 0, 1).ok());
}

TEST_F(PcieTest, ADiskThatTheKernelWantsBackIsGivenUpInOrder) {
  attach();
  on_reactor([&] { sim_.ask_for_removal(); });
  EXPECT_TRUE(until([&] { return !registry_.find("NvmeDisk1n1"); }));
  EXPECT_FALSE(sim_.enabled());
  EXPECT_EQ(sim_.opens, 1u) << "it was opened again";
  channel_.reset();
  disk_.reset();
  EXPECT_TRUE(until([&] { return manager_.all().empty(); }));
}

TEST_F(PcieTest, OneAddressIsAttachedOnce) {
  attach();
  ControllerOptions other = options();
  other.name = "Other";
  other.address.address = "0000:00:04.0";
  EXPECT_EQ(wait(manager_.attach(other)).error().code(), Errc::busy);
  other.address.address = "no address";
  EXPECT_EQ(wait(manager_.attach(other)).error().code(), Errc::invalid_argument);
}

}  // namespace
}  // namespace diskengine::nvme
