#include <gtest/gtest.h>

#include <numeric>
#include <optional>

#include "nvme/discovery.h"
#include "nvme/fake_controller.h"
#include "nvme/io_status.h"
#include "nvme/manager.h"

namespace diskengine::nvme {
namespace {

using spec::Status;
using Verdict = FakeController::Verdict;

constexpr uint64_t kLimitNs = 20'000'000'000;

class NvmeHostTest : public ::testing::Test {
 protected:
  ~NvmeHostTest() override {
    channel_.reset();
    disk_.reset();
    bool stopped = false;
    on_reactor([&] { spawn(manager_.stop(), [&] { stopped = true; }); });
    EXPECT_TRUE(reactor_.run_until([&] { return stopped && fake_.connections() == 0; }, kLimitNs));
    // Queues of channels that were just closed end in the turns after.
    for (int i = 0; i < 10; ++i) reactor_.turn();
  }

  void on_reactor(std::function<void()> work) {
    bool done = false;
    reactor_.post([&] {
      work();
      done = true;
    });
    ASSERT_TRUE(reactor_.run_until([&] { return done; }, kLimitNs));
  }

  template <typename T>
  T wait(Task<T> task) {
    std::optional<T> result;
    auto holder = std::make_shared<Task<T>>(std::move(task));
    reactor_.post([&, holder] { spawn<T>(std::move(*holder), [&](T value) { result.emplace(std::move(value)); }); });
    EXPECT_TRUE(reactor_.run_until([&] { return result.has_value(); }, kLimitNs));
    return std::move(*result);
  }

  static ControllerOptions options(LossPolicy loss = {}) {
    ControllerOptions options;
    options.name = "C";
    options.address = {"TCP", "192.0.2.1", "4420", "", ""};
    options.subsystem_nqn = "nqn.2024-01.io.diskengine:fake";
    options.loss = loss;
    return options;
  }

  void attach(LossPolicy loss = {}) {
    Result<std::vector<std::string>> names = wait(manager_.attach(options(loss)));
    ASSERT_TRUE(names) << names.error().message();
    ASSERT_EQ(names->size(), fake_.namespaces.size());
    Result<std::shared_ptr<Device>> found = registry_.find("Cn1");
    ASSERT_TRUE(found);
    disk_ = *found;
    found = std::shared_ptr<Device>();
    on_reactor([&] { channel_ = *disk_->open_channel(reactor_); });
  }

  struct Io {
    Request request;
    std::vector<uint8_t> buffer;
    std::vector<iovec> iov;
    bool done = false;
  };
  void submit(Io& io, Op op, uint64_t lba, uint64_t blocks, size_t piece_bytes = 0) {
    const size_t bytes = blocks * disk_->info().block_size;
    if (op == Op::read || op == Op::write || op == Op::compare) {
      if (io.buffer.size() != bytes) io.buffer.resize(bytes);
      if (piece_bytes == 0) piece_bytes = bytes;
      for (size_t at = 0; at < bytes; at += piece_bytes)
        io.iov.push_back({io.buffer.data() + at, std::min(piece_bytes, bytes - at)});
    }
    io.request.op = op;
    io.request.lba = lba;
    io.request.blocks = blocks;
    io.request.iov = io.iov;
    io.request.owner = &io;
    io.request.done = [](Request& request) noexcept { static_cast<Io*>(request.owner)->done = true; };
    on_reactor([&] { channel_->submit(io.request); });
  }
  IoStatus finish(Io& io) {
    EXPECT_TRUE(reactor_.run_until([&] { return io.done; }, kLimitNs)) << "the request never completed";
    return io.request.status;
  }
  IoStatus run(Op op, uint64_t lba, uint64_t blocks) {
    Io io;
    submit(io, op, lba, blocks);
    return finish(io);
  }
  std::string state() { return std::string((*manager_.find("C"))->state_name()); }
  bool reaches(const std::string& wanted) {
    return reactor_.run_until([&] { return state() == wanted; }, kLimitNs);
  }

  Reactor reactor_{Reactor::Options{}};
  DeviceRegistry registry_{reactor_};
  Random random_{42};
  FakeController fake_;
  HostManager manager_{reactor_, registry_, {{"TCP", &fake_}}, random_};
  std::shared_ptr<Device> disk_;
  std::unique_ptr<Channel> channel_;
};

TEST_F(NvmeHostTest, AttachShowsTheNamespacesWithWhatTheControllerSaysOfThem) {
  fake_.namespaces[7].block_size = 4096;
  fake_.namespaces[7].uuid = 9;
  attach();
  EXPECT_EQ(disk_->info().product_name, "NVMe disk");
  EXPECT_EQ(disk_->info().block_size, 512u);
  EXPECT_EQ(disk_->size_blocks(), 2048u);
  EXPECT_TRUE(disk_->info().write_cache);
  Result<std::shared_ptr<Device>> other = registry_.find("Cn7");
  ASSERT_TRUE(other);
  EXPECT_EQ((*other)->info().block_size, 4096u);
  EXPECT_EQ((*other)->info().uuid.to_string(), "09090909-0909-0909-0909-090909090909");
}

TEST_F(NvmeHostTest, RequestsOfAnySizeAndShapeMoveTheRightBytes) {
  attach();
  for (const auto& [lba, blocks, piece] : {std::tuple{0, 1, 0}, {8, 8, 512}, {3, 700, 0}, {0, 2048, 1000}}) {
    Io write;
    write.buffer.resize(static_cast<size_t>(blocks) * 512);
    for (uint8_t& byte : write.buffer) byte = static_cast<uint8_t>(random_.next());
    submit(write, Op::write, lba, blocks, piece);
    EXPECT_TRUE(finish(write).ok());
    EXPECT_TRUE(std::equal(write.buffer.begin(), write.buffer.end(), fake_.namespaces[1].bytes.begin() + lba * 512));
    Io read;
    submit(read, Op::read, lba, blocks, piece == 0 ? 0 : piece + 24);
    EXPECT_TRUE(finish(read).ok());
    EXPECT_EQ(read.buffer, write.buffer);
    Io compare;
    compare.buffer = write.buffer;
    submit(compare, Op::compare, lba, blocks);
    EXPECT_TRUE(finish(compare).ok());
    compare.buffer.back() ^= 1;
    Io different;
    different.buffer = compare.buffer;
    submit(different, Op::compare, lba, blocks);
    EXPECT_EQ(finish(different).code, IoCode::miscompare);
  }
  for (const spec::Sqe& sqe : fake_.io_commands)
    if (sqe.opcode == spec::IoOp::write) {
      EXPECT_LE((sqe.cdw12 & 0xffff) + 1, 256u) << "longer than MDTS allows";
    }
}

TEST_F(NvmeHostTest, MorePiecesThanACommandTakesAreSplitAtBlocks) {
  attach();
  Io write;
  write.buffer.assign(256 * 512, 0x5a);
  submit(write, Op::write, 0, 256, 64);  // 2048 pieces
  EXPECT_TRUE(finish(write).ok());
  EXPECT_EQ(fake_.namespaces[1].bytes[256 * 512 - 1], 0x5a);
  EXPECT_EQ(fake_.io_commands.size(), 2u);
}

TEST_F(NvmeHostTest, FlushFuaZeroesAndUnmapReachTheControllerAsSuch) {
  attach();
  EXPECT_TRUE(run(Op::flush, 0, 0).ok());
  EXPECT_EQ(fake_.io_commands.back().opcode, spec::IoOp::flush);
  Io fua;
  fua.request.fua = true;
  fua.buffer.assign(512, 1);
  submit(fua, Op::write, 5, 1);
  EXPECT_TRUE(finish(fua).ok());
  EXPECT_NE(fake_.io_commands.back().cdw12 & spec::kRwFua, 0u);
  EXPECT_TRUE(run(Op::write_zeroes, 5, 1).ok());
  EXPECT_EQ(fake_.namespaces[1].bytes[5 * 512], 0);
  fake_.namespaces[1].bytes[6 * 512] = 3;
  EXPECT_TRUE(run(Op::unmap, 6, 10).ok());
  EXPECT_EQ(fake_.namespaces[1].bytes[6 * 512], 0);
}

TEST_F(NvmeHostTest, HundredsOfRequestsAtOnceAllComplete) {
  attach();
  std::vector<Io> ios(500);
  for (size_t i = 0; i < ios.size(); ++i) {
    ios[i].buffer.assign(512, static_cast<uint8_t>(i));
    submit(ios[i], Op::write, i, 1);
  }
  for (size_t i = 0; i < ios.size(); ++i) {
    EXPECT_TRUE(finish(ios[i]).ok());
    EXPECT_EQ(fake_.namespaces[1].bytes[i * 512], static_cast<uint8_t>(i));
  }
}

TEST_F(NvmeHostTest, AnUnreachableControllerIsAnErrorAndLeavesTheNameFree) {
  fake_.refuse_connections = true;
  Result<std::vector<std::string>> failed = wait(manager_.attach(options()));
  ASSERT_FALSE(failed);
  EXPECT_EQ(failed.error().code(), Errc::unreachable);
  fake_.refuse_connections = false;
  attach();
  EXPECT_EQ(wait(manager_.attach(options())).error().code(), Errc::already_exists);
}

TEST_F(NvmeHostTest, ARefusedHostIsToldTheControllersReason) {
  fake_.connect_status = Status::connect_invalid_host;
  Result<std::vector<std::string>> failed = wait(manager_.attach(options()));
  ASSERT_FALSE(failed);
  EXPECT_NE(failed.error().message().find("invalid host"), std::string::npos) << failed.error().message();
}

TEST_F(NvmeHostTest, IoInFlightOnALostConnectionIsSentAgainOnTheNextOne) {
  attach();
  bool dropped = false;
  fake_.verdict = [&](const spec::Sqe&) {
    return std::exchange(dropped, true) ? Verdict::serve : Verdict::drop_connection;
  };
  std::vector<Io> ios(20);
  for (size_t i = 0; i < ios.size(); ++i) {
    ios[i].buffer.assign(512, static_cast<uint8_t>(i + 1));
    submit(ios[i], Op::write, i, 1);
  }
  for (size_t i = 0; i < ios.size(); ++i) {
    EXPECT_TRUE(finish(ios[i]).ok());
    EXPECT_EQ(fake_.namespaces[1].bytes[i * 512], static_cast<uint8_t>(i + 1));
  }
  EXPECT_EQ(fake_.admin_connects, 2u);
}

TEST_F(NvmeHostTest, WithoutAReconnectPolicyIoFailsAfterOneVainAttemptAndAResetBringsItBack) {
  attach();
  fake_.refuse_connections = true;
  on_reactor([&] { fake_.drop_all_connections(); });
  EXPECT_TRUE(reaches("failed"));
  EXPECT_EQ(run(Op::read, 0, 1).code, IoCode::disconnected);
  Result<void> still = wait(manager_.reset("C", 0));
  EXPECT_FALSE(still);
  fake_.refuse_connections = false;
  Result<void> reset = wait(manager_.reset("C", 0));
  EXPECT_TRUE(reset);
  EXPECT_EQ(state(), "enabled");
  EXPECT_TRUE(run(Op::read, 0, 1).ok());
}

TEST_F(NvmeHostTest, IoWaitsForTheReconnectThatThePolicyPromises) {
  attach({.controller_loss_s = -1, .reconnect_delay_s = 1, .fast_io_fail_s = 0});
  fake_.refuse_connections = true;
  on_reactor([&] { fake_.drop_all_connections(); });
  EXPECT_TRUE(reaches("reconnect_is_delayed"));
  Io io;
  submit(io, Op::read, 0, 1);
  fake_.refuse_connections = false;
  EXPECT_TRUE(finish(io).ok());
}

// Keeps what it is told of a lost cache.
struct CacheWatcher final : DeviceWatcher {
  void on_removed(Device&) override {}
  void on_cache_lost(Device&, const std::shared_ptr<void>& hold) override {
    ++losses;
    if (keeps) held = hold;
  }
  unsigned losses = 0;
  bool keeps = true;
  std::shared_ptr<void> held;
};

TEST_F(NvmeHostTest, AControllerThatWasStartedAnewDoesNoIoBeforeItsUserHasHeardOfTheLostCache) {
  fake_.instance = Uuid::from_random(1, 1);
  attach({.controller_loss_s = -1, .reconnect_delay_s = 1, .fast_io_fail_s = 0});
  CacheWatcher watcher;
  on_reactor([&] { disk_->watch(watcher); });
  on_reactor([&] { fake_.drop_all_connections(); });
  EXPECT_TRUE(run(Op::read, 0, 1).ok());
  EXPECT_EQ(watcher.losses, 0u) << "the same process";

  fake_.instance = Uuid::from_random(2, 2);
  on_reactor([&] { fake_.drop_all_connections(); });
  EXPECT_TRUE(reactor_.run_until([&] { return watcher.losses == 1; }, kLimitNs));
  Io io;
  submit(io, Op::read, 0, 1);
  const size_t commands = fake_.io_commands.size();
  for (int i = 0; i < 200; ++i) reactor_.turn();
  EXPECT_EQ(fake_.io_commands.size(), commands);
  EXPECT_FALSE(io.done);
  on_reactor([&] { watcher.held.reset(); });
  EXPECT_TRUE(finish(io).ok());

  watcher.keeps = false;
  fake_.instance = Uuid();  // a foreign one: nobody knows
  for (unsigned losses = 2; losses < 4; ++losses) {
    on_reactor([&] { fake_.drop_all_connections(); });
    EXPECT_TRUE(run(Op::read, 0, 1).ok());
    EXPECT_EQ(watcher.losses, losses);
  }
  on_reactor([&] { disk_->unwatch(watcher); });
}

TEST_F(NvmeHostTest, WhatANamespaceSaysOfItsCacheCountsMoreThanTheProcess) {
  fake_.instance = Uuid::from_random(1, 1);
  fake_.namespaces[1].cache = Uuid::from_name("one");
  fake_.namespaces[2].uuid = 2;
  fake_.namespaces[2].cache = Uuid::from_name("one");
  attach({.controller_loss_s = -1, .reconnect_delay_s = 1, .fast_io_fail_s = 0});
  CacheWatcher first, second;
  first.keeps = second.keeps = false;
  std::shared_ptr<Device> other = *registry_.find("Cn2");
  EXPECT_EQ(disk_->cache_instance(), Uuid::from_name("one"));
  on_reactor([&] { disk_->watch(first), other->watch(second); });
  const auto reconnect = [&] {
    on_reactor([&] { fake_.drop_all_connections(); });
    EXPECT_TRUE(run(Op::read, 0, 1).ok());
    return std::pair(first.losses, second.losses);
  };
  fake_.instance = Uuid::from_random(2, 2);
  EXPECT_EQ(reconnect(), std::pair(0u, 0u)) << "another process, with the same caches";
  fake_.namespaces[2].cache = Uuid::from_name("two");
  EXPECT_EQ(reconnect(), std::pair(0u, 1u));
  EXPECT_EQ(other->cache_instance(), Uuid::from_name("two"));
  EXPECT_EQ(reconnect(), std::pair(0u, 1u));
  fake_.namespaces[1].cache = Uuid();
  EXPECT_EQ(reconnect(), std::pair(1u, 1u)) << "it says nothing any more";
  EXPECT_EQ(reconnect(), std::pair(1u, 1u)) << "but is the same process";
  fake_.instance = Uuid::from_random(3, 3);
  EXPECT_EQ(reconnect(), std::pair(2u, 1u));
  on_reactor([&] { disk_->unwatch(first), other->unwatch(second); });
  other.reset();
}

TEST_F(NvmeHostTest, IoFailsAfterTheFastFailTimeWhileReconnectingGoesOn) {
  attach({.controller_loss_s = -1, .reconnect_delay_s = 1, .fast_io_fail_s = 1});
  fake_.refuse_connections = true;
  on_reactor([&] { fake_.drop_all_connections(); });
  Io io;
  submit(io, Op::read, 0, 1);
  EXPECT_EQ(finish(io).code, IoCode::disconnected);
  EXPECT_NE(state(), "failed");
  fake_.refuse_connections = false;
  EXPECT_TRUE(reaches("enabled"));
  EXPECT_TRUE(run(Op::read, 0, 1).ok());
}

TEST_F(NvmeHostTest, AControllerLostForTooLongTakesItsDevicesAway) {
  attach({.controller_loss_s = 1, .reconnect_delay_s = 1, .fast_io_fail_s = 0});
  fake_.refuse_connections = true;
  on_reactor([&] { fake_.drop_all_connections(); });
  EXPECT_TRUE(reactor_.run_until([&] { return !registry_.find("Cn1"); }, kLimitNs));
  EXPECT_EQ(run(Op::read, 0, 1).code, IoCode::disconnected);
  channel_.reset();
  disk_.reset();
  EXPECT_TRUE(reactor_.run_until([&] { return !manager_.find("C"); }, kLimitNs));
  for (int i = 0; i < 10; ++i) reactor_.turn();
}

TEST_F(NvmeHostTest, AnOverdueCommandIsAborted) {
  ASSERT_TRUE(manager_.set_options({.action_on_timeout = TimeoutAction::abort, .timeout_us = 250'000}));
  attach();
  fake_.verdict = [&](const spec::Sqe&) { return Verdict::swallow; };
  EXPECT_EQ(run(Op::read, 0, 1).code, IoCode::canceled);
  EXPECT_EQ(fake_.aborts, 1u);
  EXPECT_EQ(fake_.admin_connects, 1u);
}

TEST_F(NvmeHostTest, ACommandThatCannotBeAbortedEndsWithItsConnectionAndIsTriedOnTheNext) {
  ASSERT_TRUE(manager_.set_options({.action_on_timeout = TimeoutAction::abort, .timeout_us = 250'000}));
  attach();
  fake_.abort_works = false;
  bool swallowed = false;
  fake_.verdict = [&](const spec::Sqe&) { return std::exchange(swallowed, true) ? Verdict::serve : Verdict::swallow; };
  EXPECT_TRUE(run(Op::read, 0, 1).ok());
  EXPECT_EQ(fake_.aborts, 1u);
  EXPECT_EQ(fake_.admin_connects, 2u);
}

TEST_F(NvmeHostTest, ALostConnectionIsRetriedOnlySoOften) {
  attach();
  fake_.verdict = [&](const spec::Sqe&) { return Verdict::drop_connection; };
  EXPECT_EQ(run(Op::read, 0, 1).code, IoCode::disconnected);
  EXPECT_EQ(fake_.io_commands.size(), 4u) << "one try and three retries";
}

TEST_F(NvmeHostTest, AnUnansweredKeepAliveEndsTheConnection) {
  ASSERT_TRUE(manager_.set_options({.keep_alive_ms = 100}));
  attach();
  fake_.swallow_keep_alive = true;
  EXPECT_TRUE(reactor_.run_until([&] { return fake_.admin_connects == 2; }, kLimitNs));
  fake_.swallow_keep_alive = false;
  EXPECT_TRUE(reaches("enabled"));
}

TEST_F(NvmeHostTest, StatusesOfTheControllerReachTheSubmitterWithTheirNumbers) {
  attach();
  fake_.status = [](const spec::Sqe&) { return Status::unrecovered_read_error; };
  const IoStatus status = run(Op::read, 0, 1);
  EXPECT_EQ(status.code, IoCode::io_error);
  EXPECT_EQ(status.nvme_sct, 2);
  EXPECT_EQ(status.nvme_sc, 0x81);
  unsigned refusals = 2;
  fake_.status = [&](const spec::Sqe&) { return refusals-- > 0 ? Status::namespace_not_ready : Status::success; };
  EXPECT_TRUE(run(Op::read, 0, 1).ok()) << "a transient refusal was not tried again";
}

TEST_F(NvmeHostTest, NamespacesComeGoAndGrowWithTheirEvents) {
  attach();
  fake_.namespaces[1].bytes.resize(2 * 1024 * 1024);
  fake_.namespaces[2].uuid = 2;
  on_reactor([&] { fake_.announce_namespaces(); });
  EXPECT_TRUE(reactor_.run_until([&] { return registry_.find("Cn2").has_value(); }, kLimitNs));
  EXPECT_EQ(disk_->size_blocks(), 4096u);
  fake_.namespaces.erase(2);
  on_reactor([&] { fake_.announce_namespaces(); });
  EXPECT_TRUE(reactor_.run_until([&] { return !registry_.find("Cn2").has_value(); }, kLimitNs));
}

TEST_F(NvmeHostTest, AnotherNamespaceBehindTheSameNumberIsAnotherDevice) {
  attach();
  channel_.reset();
  fake_.namespaces[1].uuid = 77;
  on_reactor([&] { fake_.drop_all_connections(); });
  EXPECT_TRUE(reactor_.run_until(
      [&] {
        Result<std::shared_ptr<Device>> now = registry_.find("Cn1");
        return now && *now != disk_;
      },
      kLimitNs));
  disk_.reset();
}

TEST_F(NvmeHostTest, AChannelBeyondTheGrantedQueuesFailsItsIoAndHarmsNoOther) {
  fake_.granted_queues = 1;
  attach();
  EXPECT_TRUE(run(Op::read, 0, 1).ok());
  std::unique_ptr<Channel> first = std::move(channel_);
  on_reactor([&] { channel_ = *disk_->open_channel(reactor_); });
  EXPECT_EQ(run(Op::read, 0, 1).code, IoCode::disconnected);
  std::swap(first, channel_);
  EXPECT_TRUE(run(Op::read, 0, 1).ok());
}

TEST_F(NvmeHostTest, DetachWaitsForUsersAndFreesTheName) {
  attach();
  channel_.reset();
  disk_.reset();
  EXPECT_EQ(wait(manager_.detach("C", {.address = "192.0.2.9"})).error().code(), Errc::not_found);
  EXPECT_TRUE(wait(manager_.detach("C", {})));
  EXPECT_EQ(wait(manager_.detach("C", {})).error().code(), Errc::no_device);
  EXPECT_FALSE(registry_.find("Cn1"));
  attach();
}

TEST_F(NvmeHostTest, HealthIsReadFromTheController) {
  attach();
  Result<spec::SmartLog> log = wait(manager_.read_health("C"));
  ASSERT_TRUE(log);
  EXPECT_EQ(log->temperature_k(), 300);
}

TEST(NvmeLossPolicy, ContradictionsAreRefusedAsSpdkRefusesThem) {
  EXPECT_TRUE(check_loss_policy({0, 0, 0}));
  EXPECT_TRUE(check_loss_policy({-1, 1, 0}));
  EXPECT_TRUE(check_loss_policy({10, 2, 5}));
  EXPECT_FALSE(check_loss_policy({-2, 1, 0}));
  EXPECT_FALSE(check_loss_policy({-1, 0, 0}));
  EXPECT_FALSE(check_loss_policy({10, 0, 0}));
  EXPECT_FALSE(check_loss_policy({1, 2, 0}));
  EXPECT_FALSE(check_loss_policy({10, 2, 11}));
  EXPECT_FALSE(check_loss_policy({10, 5, 2}));
  EXPECT_FALSE(check_loss_policy({0, 1, 0}));
}

TEST(NvmeIoStatus, EveryStatusMapsToAnOutcomeThatKeepsItsNumbers) {
  for (uint32_t field = 0; field < 0x1000; field += 2) {
    const IoStatus status = io_status_of(static_cast<uint16_t>(field));
    EXPECT_EQ(status.ok(), field == 0);
    EXPECT_EQ(spec::make_status(status.nvme_sct, status.nvme_sc), spec::status_of(static_cast<uint16_t>(field)));
  }
  EXPECT_FALSE(is_transient(spec::status_field(Status::namespace_not_ready, true)));
}

}  // namespace
}  // namespace diskengine::nvme
