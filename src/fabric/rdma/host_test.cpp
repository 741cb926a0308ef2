// The NVMe/RDMA host over simulated verbs, against our own target: data moves both ways, memory is bounded, errors are
// named, and what a hostile controller answers costs its connection and nothing else.
#include "fabric/rdma/host.h"

#include <gtest/gtest.h>

#include <cstring>
#include <numeric>
#include <optional>

#include "base/log.h"
#include "fabric/rdma/sim_verbs.h"
#include "fabric/rdma/target.h"
#include "runtime/alloc_count.h"

namespace diskengine::fabric::rdma {
namespace {

using spec::DataDirection;
using spec::Status;

constexpr char kPort[] = "4420";

// A controller with one megabyte of memory for all commands, or what the test makes of it.
class Controller final : public TargetAcceptor, public TargetQueueHandler {
 public:
  TargetQueueHandler* on_connected(TargetQueue& q) override {
    queue = &q;
    disconnected = false;
    return this;
  }
  void on_command(TargetCommand& command) noexcept override {
    if (hold) {
      held.push_back(&command);
    } else {
      answer(command);
    }
  }
  void on_disconnected() noexcept override { disconnected = true; }

  void answer(TargetCommand& command) {
    size_t at = 0;
    for (const iovec& piece : command.data) {
      const bool in = spec::data_direction(command.sqe.opcode) == DataDirection::to_controller;
      std::memcpy(in ? &memory[at] : piece.iov_base, in ? piece.iov_base : &memory[at], piece.iov_len);
      at += piece.iov_len;
    }
    answer_as(command, command.sqe.cid);
  }
  void answer_as(TargetCommand& command, uint16_t cid) {
    command.cqe = {};
    command.cqe.cid = cid;
    command.cqe.status = spec::status_field(status);
    queue->complete(command);
  }
  // The handler's part at the end of a connection.
  void release() {
    if (queue == nullptr) return;
    while (!held.empty()) {
      answer_as(*held.back(), 0);
      held.pop_back();
    }
    queue->release();
    queue = nullptr;
  }

  TargetQueue* queue = nullptr;
  bool disconnected = false;
  bool hold = false;
  Status status = Status::success;
  std::vector<TargetCommand*> held;
  std::vector<uint8_t> memory = std::vector<uint8_t>(1 << 20);
};

struct Command final : HostCommand {
  explicit Command(uint8_t op, uint32_t bytes = 0, size_t offset = 0, size_t piece_bytes = 1 << 20) {
    reset(op);
    memory.resize(bytes + offset + 16);
    for (size_t at = 0; at < memory.size(); at += piece_bytes)
      pieces.push_back({&memory[at], std::min(piece_bytes, memory.size() - at)});
    iov = pieces;
    iov_offset = offset;
    data_bytes = bytes;
    direction = bytes == 0 ? DataDirection::none : spec::data_direction(op);
    done = [](HostCommand& command) noexcept { ++static_cast<Command&>(command).completions; };
  }
  std::vector<uint8_t> memory;
  std::vector<iovec> pieces;
  int completions = 0;
};

class RdmaHostTest : public testing::Test, protected HostQueueEvents {
 protected:
  RdmaHostTest() { log_set_level(LogLevel::error); }
  ~RdmaHostTest() override {
    close();
    transport_.reset();
    listener_.reset();
    if (target_) target_->stop([] {});
    pass(1'000'000'000);
  }
  static Reactor::Options options(const Clock& clock) {
    Reactor::Options options;
    options.clock = &clock;
    options.use_ring = false;
    return options;
  }
  void turn(int times = 30) {
    for (int i = 0; i < times; ++i) reactor_.turn();
  }
  void pass(uint64_t ns) {
    turn();
    clock_.advance_ns(ns);
    turn();
  }
  void start_target(TargetOptions target_options = {}) {
    target_options.srq_entries = 256;
    target_options.in_capsule_bytes = 4096;
    target_options.buffers = 64;
    target_ = *RdmaTarget::create(std::make_unique<SimVerbs>(fabric_), {&reactor_}, controller_, target_options);
    listener_ = *target_->listen({"RDMA", "IPv4", "192.0.2.1", kPort});
  }
  Result<void> begin(uint16_t queue_id = 1, uint32_t depth = 64) {
    HostQueueOptions queue_options;
    queue_options.queue_id = queue_id;
    queue_options.depth = depth;
    queue_options.capsule_data_bytes = 4096;
    connected_ = false;
    ended_.reset();
    TRY_ASSIGN(queue_, transport_->connect(reactor_, {"RDMA", "192.0.2.1", kPort, "", ""}, queue_options,
                                           static_cast<HostQueueEvents&>(*this)));
    turn();
    return {};
  }
  void connect(uint16_t queue_id = 1, uint32_t depth = 64) {
    ASSERT_TRUE(begin(queue_id, depth));
    ASSERT_TRUE(connected_) << ended_.value_or("still connecting");
    controller_.queue->set_depth(depth + 1, true);
  }
  void close() {
    if (!queue_) return;
    queue_->disconnect();
    turn();
    EXPECT_TRUE(ended_);
    EXPECT_EQ(queue_->outstanding(), 0u);
    queue_.reset();
    turn();
    if (controller_.queue != nullptr) controller_.release();
    pass(100'000'000);
  }
  std::string failure() {
    if (Result<void> begun = begin(); !begun) return begun.error().message();
    std::string reason = ended_.value_or("");
    queue_.reset();
    return reason;
  }
  void on_connected() noexcept override { connected_ = true; }
  void on_disconnected(const Error& reason) noexcept override {
    EXPECT_FALSE(ended_) << "told twice";
    ended_ = reason.message();
  }

  ManualClock clock_;
  Reactor reactor_{options(clock_)};
  SimFabric fabric_;
  Controller controller_;
  std::unique_ptr<RdmaTarget> target_;
  std::unique_ptr<TargetListener> listener_;
  DmaRegions regions_;
  std::unique_ptr<HostTransport> transport_ = std::make_unique<HostTransport>(
      [this] { return Result<std::unique_ptr<Verbs>>(std::make_unique<SimVerbs>(fabric_)); }, regions_);
  std::unique_ptr<HostQueue> queue_;
  bool connected_ = false;
  std::optional<std::string> ended_;
};

TEST_F(RdmaHostTest, DataOfAnySizeAndShapeMovesBothWays) {
  start_target();
  connect();
  for (const uint32_t bytes : {512u, 4096u, 4608u, 16384u, 131072u, 1u << 20})
    for (const size_t offset : {0u, 7u})
      for (const size_t piece : {size_t{1} << 20, size_t{4096}, size_t{bytes} / 3 + 1}) {
        Command write(spec::IoOp::write, bytes, offset, piece);
        std::iota(write.memory.begin(), write.memory.end(), static_cast<uint8_t>(bytes / 512 + offset));
        queue_->submit(write);
        EXPECT_EQ(write.completions, 0) << "never inside submit";
        turn();
        ASSERT_EQ(write.completions, 1);
        ASSERT_EQ(std::memcmp(controller_.memory.data(), write.memory.data() + offset, bytes), 0);
        Command read(spec::IoOp::read, bytes, offset, piece);
        queue_->submit(read);
        turn();
        ASSERT_EQ(read.completions, 1);
        ASSERT_EQ(std::memcmp(read.memory.data() + offset, controller_.memory.data(), bytes), 0);
        EXPECT_EQ(read.memory[offset + bytes], 0) << "past the end";
      }
  EXPECT_EQ(queue_->outstanding(), 0u);
}

TEST_F(RdmaHostTest, IoAllocatesNothingAtEitherEndOnceTheConnectionIsUp) {
  start_target();
  connect();
  for (const uint32_t bytes : {512u, 4096u, 131072u, 1u << 20}) {  // in the capsule, in own memory, in pooled memory
    Command write(spec::IoOp::write, bytes);
    Command read(spec::IoOp::read, bytes);
    uint64_t allocations = 0;
    for (int round = 0; round < 20; ++round) {
      write.reset(spec::IoOp::write);
      read.reset(spec::IoOp::read);
      for (Command* command : {&write, &read}) {
        command->iov = command->pieces;
        command->data_bytes = bytes;
        command->direction = spec::data_direction(command->sqe.opcode);
      }
      const AllocTrap trap;
      queue_->submit(write);
      queue_->submit(read);
      turn();
      if (round >= 4) allocations += trap.allocations();
    }
    EXPECT_EQ(write.completions, 20);
    EXPECT_EQ(read.completions, 20);
    EXPECT_EQ(allocations, 0u) << bytes;
  }
}

TEST_F(RdmaHostTest, DataOfAdminCommandsNeverGoesInTheCapsule) {
  start_target();
  connect(0, 32);
  controller_.hold = true;
  Command write(spec::IoOp::write, 1024);
  queue_->submit(write);
  turn();
  ASSERT_EQ(controller_.held.size(), 1u);
  EXPECT_EQ(controller_.held[0]->sqe.data.type, spec::SglType::keyed_data_block);
  close();  // before the command goes
}

TEST_F(RdmaHostTest, AFailedReadLeavesTheCallersMemoryAlone) {
  start_target();
  connect();
  controller_.status = Status::lba_out_of_range;
  controller_.memory.assign(controller_.memory.size(), 0xff);
  Command read(spec::IoOp::read, 65536);
  queue_->submit(read);
  turn();
  ASSERT_EQ(read.completions, 1);
  EXPECT_EQ(read.outcome, HostOutcome::answered);
  EXPECT_EQ(spec::status_of(read.cqe.status), Status::lba_out_of_range);
  EXPECT_EQ(read.memory[0], 0);
}

TEST_F(RdmaHostTest, CommandsWaitForRegisteredMemoryInOrder) {
  start_target();
  connect();
  std::vector<std::unique_ptr<Command>> commands;
  for (int i = 0; i < 40; ++i) {  // 40 MiB over a pool of 16
    commands.push_back(std::make_unique<Command>(spec::IoOp::write, 1 << 20));
    queue_->submit(*commands.back());
  }
  EXPECT_EQ(queue_->stats().queued_requests, 24u);
  turn(200);
  for (const auto& command : commands) ASSERT_EQ(command->completions, 1);
}

TEST_F(RdmaHostTest, ListedMemoryIsReachedWhereItIsUntilItLeavesTheList) {
  start_target();
  DmaBuffer memory(1 << 20);
  std::optional<DmaRegions::Listed> listed = regions_.list(memory.data(), memory.size());
  connect();
  controller_.hold = true;
  // Where the controller is told that the data is: 16 KiB at `at`, in pieces of a page.
  const auto place_of = [&](uint8_t* at, uint8_t opcode) {
    Command command(opcode, 16384);
    command.pieces.clear();
    for (size_t i = 0; i < 4; ++i) command.pieces.push_back({at + i * 4096, 4096});
    command.iov = command.pieces;
    queue_->submit(command);
    turn();
    TargetCommand& held = *controller_.held.at(0);
    controller_.held.clear();
    const uint64_t address = spec::keyed_sgl_of(held.sqe.data).address;
    controller_.answer(held);
    turn();
    EXPECT_EQ(command.completions, 1);
    return reinterpret_cast<uint8_t*>(address);
  };
  uint8_t* const at = memory.data() + 8192;
  for (int i = 0; i < 1000 && place_of(at, spec::IoOp::read) != at; ++i) usleep(1000);
  std::iota(controller_.memory.begin(), controller_.memory.end(), uint8_t{3});
  EXPECT_EQ(place_of(at, spec::IoOp::read), at);
  EXPECT_EQ(std::memcmp(at, controller_.memory.data(), 16384), 0);
  std::memset(at, 0x77, 16384);
  EXPECT_EQ(place_of(at, spec::IoOp::write), at);
  EXPECT_EQ(controller_.memory[16383], 0x77);
  EXPECT_GE(queue_->stats().direct_requests, 2u);
  const auto keys = [this] {
    const std::lock_guard lock(fabric_.keys_mutex);
    return fabric_.keys.size();
  };
  const size_t before = keys();
  listed.reset();
  // From this moment on, before anybody was told; and a moment later the device has forgotten it, too.
  EXPECT_NE(place_of(at, spec::IoOp::read), at);
  for (int i = 0; i < 1000 && keys() == before; ++i) {
    turn();
    usleep(1000);
  }
  EXPECT_EQ(keys(), before - 1);
}

TEST_F(RdmaHostTest, MemoryThatCannotBeRegisteredIsCopied) {
  start_target();
  connect();
  fabric_.register_error = ENOMEM;
  DmaBuffer memory(1 << 20);
  const DmaRegions::Listed listed = regions_.list(memory.data(), memory.size());
  for (int i = 0; i < 1000 && fabric_.register_error != 0; ++i) usleep(1000);
  turn();
  Command read(spec::IoOp::read, 65536);
  read.pieces = {{memory.data(), 65536}};
  read.iov = read.pieces;
  controller_.memory.assign(controller_.memory.size(), 0x42);
  queue_->submit(read);
  turn();
  EXPECT_EQ(read.completions, 1);
  EXPECT_EQ(memory.data()[65535], 0x42);
}

TEST_F(RdmaHostTest, ALostConnectionCompletesEveryCommandOnceAndGivesItsMemoryBack) {
  start_target();
  for (int round = 0; round < 3; ++round) {
    connect();
    controller_.hold = true;
    std::vector<std::unique_ptr<Command>> commands;
    for (int i = 0; i < 30; ++i) {
      commands.push_back(std::make_unique<Command>(spec::IoOp::read, i % 2 == 0 ? 4096 : 1 << 20));
      queue_->submit(*commands.back());
    }
    turn();
    controller_.queue->disconnect("the controller goes away");
    turn();
    ASSERT_TRUE(ended_);
    for (const auto& command : commands) {
      ASSERT_EQ(command->completions, 1);
      EXPECT_EQ(command->outcome, HostOutcome::lost);
    }
    close();
  }
}

TEST_F(RdmaHostTest, WhyThereIsNoConnectionIsSaid) {
  EXPECT_EQ(failure(), "nothing listens for RDMA connections on 192.0.2.1:4420");
  fabric_.address_unknown = true;
  EXPECT_NE(failure().find("no RDMA device of this machine reaches 192.0.2.1:4420"), std::string::npos);
  fabric_.address_unknown = false;
  fabric_.route_unknown = true;
  EXPECT_NE(failure().find("there is no RDMA route to 192.0.2.1:4420"), std::string::npos);
  fabric_.route_unknown = false;
  fabric_.register_error = ENOMEM;
  EXPECT_NE(failure().find("cannot register memory"), std::string::npos);
  TargetOptions small;
  small.max_queue_depth = 16;
  start_target(small);
  EXPECT_EQ(failure(), "192.0.2.1:4420 refused the RDMA connection: invalid host send queue size");
}

TEST_F(RdmaHostTest, AMachineWithoutRdmaSaysSoAtOnce) {
  HostTransport none(
      []() -> Result<std::unique_ptr<Verbs>> { return Error(Errc::not_supported, "RDMA needs librdmacm.so.1"); },
      regions_);
  const auto made =
      none.connect(reactor_, {"RDMA", "192.0.2.1", kPort, "", ""}, {}, static_cast<HostQueueEvents&>(*this));
  ASSERT_FALSE(made);
  EXPECT_EQ(made.error().code(), Errc::not_supported);
}

TEST_F(RdmaHostTest, AnAnswerToNoCommandCostsTheConnection) {
  start_target();
  for (const uint16_t wrong : {uint16_t{0xffff}, uint16_t{0x7fff}, uint16_t{63}}) {
    connect();
    controller_.hold = true;
    Command read(spec::IoOp::read, 65536);
    queue_->submit(read);
    turn();
    controller_.answer_as(*controller_.held.at(0), wrong);
    controller_.held.clear();
    turn();
    ASSERT_TRUE(ended_);
    EXPECT_NE(ended_->find("broke the NVMe/RDMA protocol"), std::string::npos);
    EXPECT_EQ(read.completions, 1);
    EXPECT_EQ(read.outcome, HostOutcome::lost);
    close();
  }
}

TEST_F(RdmaHostTest, ASecondAnswerNeverCompletesAnotherCommand) {
  start_target();
  connect();
  controller_.hold = true;
  Command first(spec::IoOp::flush);
  Command second(spec::IoOp::flush);
  queue_->submit(first);
  queue_->submit(second);
  turn();
  ASSERT_EQ(controller_.held.size(), 2u);
  const uint16_t cid = controller_.held[0]->sqe.cid;
  controller_.answer_as(*controller_.held[0], cid);
  turn();
  Command third(spec::IoOp::flush);  // takes the slot of the first
  queue_->submit(third);
  controller_.answer_as(*controller_.held[1], cid);
  controller_.held.clear();
  turn();
  EXPECT_EQ(first.completions, 1);
  EXPECT_EQ(first.outcome, HostOutcome::answered);
  ASSERT_TRUE(ended_);
  EXPECT_EQ(second.outcome, HostOutcome::lost);
  EXPECT_EQ(third.outcome, HostOutcome::lost);
}

TEST_F(RdmaHostTest, FaultsOfTheDeviceEndTheConnection) {
  start_target();
  connect();
  Command flush(spec::IoOp::flush);
  fabric_.post_send_error = ENOMEM;
  queue_->submit(flush);
  turn();
  EXPECT_EQ(flush.completions, 1);
  EXPECT_NE(ended_.value_or("").find("cannot post"), std::string::npos);
  close();

  connect();
  bool failed = false;
  fabric_.judge = [&failed](const ibv_send_wr&) {
    return std::exchange(failed, true) ? IBV_WC_SUCCESS : IBV_WC_RETRY_EXC_ERR;
  };
  Command again(spec::IoOp::flush);
  queue_->submit(again);
  turn();
  EXPECT_EQ(again.outcome, HostOutcome::lost);
  EXPECT_NE(ended_.value_or("").find("lost the RDMA connection"), std::string::npos);
  fabric_.judge = nullptr;
  close();
}

TEST_F(RdmaHostTest, AnEndlessSetUpIsGivenUp) {
  start_target();
  listener_.reset();
  // Somebody who takes the request and never answers.
  SimVerbs silent(fabric_);
  rdma_event_channel* channel = *silent.create_event_channel();
  rdma_cm_id* id = *silent.create_id(channel, nullptr);
  sockaddr_in at{};
  at.sin_family = AF_INET;
  at.sin_port = htons(4420);
  ASSERT_TRUE(silent.bind_addr(id, reinterpret_cast<sockaddr*>(&at)));
  ASSERT_TRUE(silent.listen(id, 1));
  ASSERT_TRUE(begin());
  EXPECT_FALSE(ended_);
  pass(11'000'000'000);
  EXPECT_NE(ended_.value_or("").find("did not complete the NVMe/RDMA connection"), std::string::npos);
  queue_.reset();
  while (rdma_cm_event* event = silent.next_event(channel)) {
    rdma_cm_id* request = event->id;
    silent.ack_event(event);
    silent.destroy_id(request);
  }
  silent.destroy_id(id);
  silent.destroy_event_channel(channel);
}

}  // namespace
}  // namespace diskengine::fabric::rdma
