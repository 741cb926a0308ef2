// The NVMe/RDMA target over simulated verbs, with a host made by hand: data moves both ways, every limit holds, and a
// connection ends cleanly whatever was under way.
#include "fabric/rdma/target.h"

#include <arpa/inet.h>
#include <gtest/gtest.h>

#include <cstring>
#include <optional>

#include "base/endian.h"
#include "base/log.h"
#include "fabric/rdma/sim_verbs.h"
#include "runtime/clock.h"

namespace diskengine::fabric::rdma {
namespace {

using spec::Status;

constexpr uint16_t kPort = 4420;
constexpr size_t kHostBytes = 4 << 20;

// Keeps commands until the test completes them.
class Handler final : public TargetQueueHandler {
 public:
  void on_command(TargetCommand& command) noexcept override { commands.push_back(&command); }
  void on_disconnected() noexcept override { disconnected = true; }
  void complete(size_t at, Status status = Status::success) {
    TargetCommand& command = *commands.at(at);
    commands.erase(commands.begin() + static_cast<std::ptrdiff_t>(at));
    command.cqe = {};
    command.cqe.cid = command.sqe.cid;
    command.cqe.status = spec::status_field(status);
    queue->complete(command);
  }
  TargetQueue* queue = nullptr;
  std::vector<TargetCommand*> commands;
  bool disconnected = false;
};

class Acceptor final : public TargetAcceptor {
 public:
  TargetQueueHandler* on_connected(TargetQueue& queue) override {
    if (refuse) return nullptr;
    handlers.push_back(std::make_unique<Handler>());
    handlers.back()->queue = &queue;
    return handlers.back().get();
  }
  std::vector<std::unique_ptr<Handler>> handlers;
  bool refuse = false;
};

// A host's end of a connection.
class Host {
 public:
  Host(SimVerbs& verbs, SimFabric& fabric) : verbs_(verbs), memory(kHostBytes) {
    channel_ = *verbs.create_event_channel();
    id_ = *verbs.create_id(channel_, nullptr);
    pd_ = *verbs.alloc_pd(&fabric.context);
    mr_ = *verbs.reg_mr(pd_, memory.data(), memory.size(),
                        IBV_ACCESS_LOCAL_WRITE | IBV_ACCESS_REMOTE_READ | IBV_ACCESS_REMOTE_WRITE);
    cq_ = *verbs.create_cq(&fabric.context, 65536, nullptr);
    sockaddr_in to{};
    to.sin_family = AF_INET;
    to.sin_port = htons(kPort);
    to.sin_addr.s_addr = htonl(0xc0000201);
    EXPECT_TRUE(verbs.resolve_addr(id_, nullptr, reinterpret_cast<sockaddr*>(&to), 1000));
    ibv_qp_init_attr attributes{};
    attributes.send_cq = attributes.recv_cq = cq_;
    EXPECT_TRUE(verbs.create_qp(id_, pd_, &attributes));
  }
  ~Host() {
    verbs_.disconnect(id_);
    verbs_.destroy_qp(id_);
    verbs_.destroy_id(id_);
    verbs_.destroy_cq(cq_);
    verbs_.dereg_mr(mr_);
    verbs_.dealloc_pd(pd_);
    verbs_.destroy_event_channel(channel_);
  }

  void connect(const spec::RdmaCmRequest& request, size_t bytes = sizeof(spec::RdmaCmRequest)) {
    rdma_conn_param parameters{};
    parameters.private_data = &request;
    parameters.private_data_len = static_cast<uint8_t>(bytes);
    EXPECT_TRUE(verbs_.connect(id_, &parameters));
    for (uint16_t i = 0; i < 512; ++i) post_answer_room(i);
  }
  void close() { verbs_.disconnect(id_); }

  // The last event of the kind that ends or begins a connection.
  std::optional<CmEvent> event(rdma_cm_event_type wanted) {
    std::optional<CmEvent> found;
    while (rdma_cm_event* next = verbs_.next_event(channel_)) {
      if (next->event == wanted) {
        found.emplace();
        found->type = next->event;
        found->private_bytes = next->param.conn.private_data_len;
        std::memcpy(found->private_data.data(), next->param.conn.private_data, found->private_bytes);
      }
      verbs_.ack_event(next);
    }
    return found;
  }

  // A capsule with in-capsule data.
  void send(const spec::Sqe& sqe, std::span<const uint8_t> data = {}, size_t sqe_bytes = sizeof(spec::Sqe)) {
    uint8_t* at = memory.data() + kHostBytes - 16384;
    std::memcpy(at, &sqe, sizeof sqe);
    if (!data.empty()) std::memcpy(at + sizeof sqe, data.data(), data.size());
    ibv_sge sge{reinterpret_cast<uint64_t>(at), static_cast<uint32_t>(sqe_bytes + data.size()), mr_->lkey};
    ibv_send_wr wr{};
    wr.opcode = IBV_WR_SEND;
    wr.sg_list = &sge;
    wr.num_sge = 1;
    ibv_send_wr* bad = nullptr;
    EXPECT_EQ(verbs_.post_send(id_->qp, &wr, &bad), 0);
  }

  // Answers that came, in order.
  std::vector<spec::Cqe> answers() {
    std::vector<spec::Cqe> found;
    ibv_wc wc;
    while (verbs_.poll_cq(cq_, {&wc, 1}) == 1)
      if (wc.status == IBV_WC_SUCCESS && wc.opcode == IBV_WC_RECV)
        found.push_back(load_le<spec::Cqe>(memory.data() + kHostBytes / 2 + wc.wr_id * 16));
    return found;
  }

  spec::SglDescriptor keyed(size_t offset, uint32_t length, bool invalidate = false) const {
    return spec::make_keyed_sgl({.address = reinterpret_cast<uint64_t>(memory.data()) + offset,
                                 .length = length,
                                 .key = mr_->rkey,
                                 .invalidate = invalidate});
  }
  uint32_t key() const { return mr_->rkey; }

 private:
  void post_answer_room(uint64_t index) {
    ibv_sge sge{reinterpret_cast<uint64_t>(memory.data()) + kHostBytes / 2 + index * 16, 16, mr_->lkey};
    ibv_recv_wr wr{};
    wr.wr_id = index;
    wr.sg_list = &sge;
    wr.num_sge = 1;
    ibv_recv_wr* bad = nullptr;
    EXPECT_EQ(verbs_.post_recv(id_->qp, &wr, &bad), 0);
  }

  SimVerbs& verbs_;
  rdma_event_channel* channel_;
  rdma_cm_id* id_;
  ibv_pd* pd_;
  ibv_mr* mr_;
  ibv_cq* cq_;

 public:
  std::vector<uint8_t> memory;
};

spec::Sqe command(uint8_t opcode, uint16_t cid, const spec::SglDescriptor& data = {}) {
  spec::Sqe sqe;
  sqe.opcode = opcode;
  sqe.cid = cid;
  sqe.flags = spec::kSqeSgl;
  sqe.data = data;
  return sqe;
}

class RdmaTargetTest : public testing::Test {
 protected:
  RdmaTargetTest() : host_verbs_(fabric_) { log_set_level(LogLevel::error); }
  ~RdmaTargetTest() override {
    hosts_.clear();
    turn();
    for (const auto& handler : acceptor_.handlers) finish(*handler);
    listener_.reset();
    if (!target_) return;
    bool stopped = false;
    target_->stop([&] { stopped = true; });
    pass(1'000'000'000);
    EXPECT_TRUE(stopped);
    target_.reset();
  }

  static Reactor::Options options(const Clock& clock) {
    Reactor::Options options;
    options.clock = &clock;
    options.use_ring = false;
    return options;
  }

  void start(TargetOptions target_options = {}) {
    if (target_options.srq_entries == TargetOptions{}.srq_entries) target_options.srq_entries = 64;
    target_options.in_capsule_bytes = 4096;
    target_options.buffers = 32;
    auto made = RdmaTarget::create(std::make_unique<SimVerbs>(fabric_), {&reactor_}, acceptor_, target_options);
    ASSERT_TRUE(made) << made.error().message();
    target_ = std::move(*made);
    auto listening = target_->listen({"RDMA", "IPv4", "192.0.2.1", std::to_string(kPort)});
    ASSERT_TRUE(listening) << listening.error().message();
    listener_ = std::move(*listening);
  }
  void turn(int times = 12) {
    for (int i = 0; i < times; ++i) reactor_.turn();
  }
  void pass(uint64_t ns) {
    turn();
    clock_.advance_ns(ns);
    turn();
  }
  Host& connect(uint32_t entries = 32) {
    hosts_.push_back(std::make_unique<Host>(host_verbs_, fabric_));
    spec::RdmaCmRequest request;
    request.queue_id = 1;
    request.host_receive_size = static_cast<uint16_t>(entries);
    request.host_send_size = static_cast<uint16_t>(entries - 1);
    hosts_.back()->connect(request);
    turn();
    return *hosts_.back();
  }
  Handler& handler() { return *acceptor_.handlers.back(); }
  // The handler's part at the end of a connection.
  void finish(Handler& handler) {
    if (handler.queue == nullptr) return;
    while (!handler.commands.empty()) handler.complete(0);
    if (!handler.disconnected) handler.queue->disconnect("the test is over");
    turn();
    EXPECT_TRUE(handler.disconnected);
    handler.queue->release();
    handler.queue = nullptr;
    pass(100'000'000);
  }
  TargetTransportStats stats() { return target_->stats(0); }

  ManualClock clock_;
  Reactor reactor_{options(clock_)};
  SimFabric fabric_;
  SimVerbs host_verbs_;
  Acceptor acceptor_;
  std::unique_ptr<RdmaTarget> target_;
  std::unique_ptr<TargetListener> listener_;
  std::vector<std::unique_ptr<Host>> hosts_;
};

TEST_F(RdmaTargetTest, DataInTheCapsuleIsUsedWhereItArrived) {
  start();
  Host& host = connect();
  EXPECT_EQ(spec::read_rdma_accept(host.event(RDMA_CM_EVENT_ESTABLISHED)->data()), 32u);
  spec::SglDescriptor sgl;
  sgl.length = 4096;
  sgl.type = spec::SglType::in_capsule;
  host.send(command(spec::IoOp::write, 7, sgl), std::vector<uint8_t>(4096, 0x5a));
  turn();
  ASSERT_EQ(handler().commands.size(), 1u);
  const TargetCommand& received = *handler().commands[0];
  EXPECT_EQ(received.transport_status, Status::success);
  ASSERT_EQ(received.data_bytes, 4096u);
  ASSERT_EQ(received.data.size(), 1u);
  EXPECT_EQ(reinterpret_cast<uintptr_t>(received.data[0].iov_base) % 4096, 0u);
  EXPECT_EQ(static_cast<uint8_t*>(received.data[0].iov_base)[4095], 0x5a);
  handler().complete(0);
  turn();
  const auto answers = host.answers();
  ASSERT_EQ(answers.size(), 1u);
  EXPECT_EQ(answers[0].cid, 7);
}

TEST_F(RdmaTargetTest, DataOfAnySizeIsReadFromAndWrittenToTheHost) {
  for (const int pieces : {30, 16, 4}) {
    fabric_.attributes.max_sge = pieces;
    start();
    Host& host = connect();
    for (const uint32_t bytes : {512u, 4096u, 4608u, 65536u, 1u << 20}) {
      for (size_t i = 0; i < bytes; ++i) host.memory[i] = static_cast<uint8_t>(i * 7 + bytes);
      host.send(command(spec::IoOp::write, 1, host.keyed(0, bytes)));
      turn();
      ASSERT_EQ(handler().commands.size(), 1u) << bytes;
      size_t at = 0;
      for (const iovec& piece : handler().commands[0]->data) {
        ASSERT_EQ(std::memcmp(piece.iov_base, host.memory.data() + at, piece.iov_len), 0);
        at += piece.iov_len;
      }
      EXPECT_EQ(at, bytes);
      handler().complete(0);
      turn();
      ASSERT_EQ(host.answers().size(), 1u);

      host.send(command(spec::IoOp::read, 2, host.keyed(0, bytes)));
      turn();
      for (const iovec& piece : handler().commands.at(0)->data) std::memset(piece.iov_base, 0xa7, piece.iov_len);
      handler().complete(0);
      turn();
      ASSERT_EQ(host.answers().size(), 1u);
      EXPECT_EQ(host.memory[0], 0xa7);
      EXPECT_EQ(host.memory[bytes - 1], 0xa7);
      EXPECT_NE(host.memory[bytes], 0xa7);
    }
    hosts_.clear();
    turn();
    finish(handler());
    listener_.reset();
    target_->stop([] {});
    pass(1'000'000'000);
    target_.reset();
  }
}

TEST_F(RdmaTargetTest, TheAnswerInvalidatesTheKeyIfAskedTo) {
  start();
  Host& host = connect();
  host.send(command(spec::IoOp::read, 1, host.keyed(0, 512, true)));
  turn();
  handler().complete(0);
  turn();
  EXPECT_EQ(host.answers().size(), 1u);
  EXPECT_TRUE(fabric_.invalidated.contains(host.key()));
}

TEST_F(RdmaTargetTest, AFailedReadSendsNoData) {
  start();
  Host& host = connect();
  host.memory[0] = 1;
  host.send(command(spec::IoOp::read, 1, host.keyed(0, 512)));
  turn();
  std::memset(handler().commands.at(0)->data[0].iov_base, 0xff, 512);
  handler().complete(0, Status::lba_out_of_range);
  turn();
  EXPECT_EQ(spec::status_of(host.answers().at(0).status), Status::lba_out_of_range);
  EXPECT_EQ(host.memory[0], 1);
}

TEST_F(RdmaTargetTest, WrongRequestsAreRefusedWithTheirStatus) {
  start();
  const auto refused = [this](const spec::RdmaCmRequest& request, size_t bytes, int create_qp_error = 0) {
    Host host(host_verbs_, fabric_);
    fabric_.create_qp_error = create_qp_error;
    host.connect(request, bytes);
    turn();
    const auto event = host.event(RDMA_CM_EVENT_REJECTED);
    EXPECT_TRUE(event.has_value());
    return event ? spec::read_rdma_reject(event->data()) : spec::RdmaCmStatus::none;
  };
  spec::RdmaCmRequest request;
  request.host_receive_size = 32;
  request.host_send_size = 2000;
  EXPECT_EQ(refused(request, sizeof request), spec::RdmaCmStatus::invalid_host_send_size);
  request.host_send_size = 31;
  request.queue_id = 500;
  EXPECT_EQ(refused(request, sizeof request), spec::RdmaCmStatus::invalid_queue_id);
  request.queue_id = 1;
  EXPECT_EQ(refused(request, sizeof request, ENOMEM), spec::RdmaCmStatus::no_resources);
  acceptor_.refuse = true;
  EXPECT_EQ(refused(request, sizeof request), spec::RdmaCmStatus::no_resources);
  EXPECT_TRUE(acceptor_.handlers.empty());
}

TEST_F(RdmaTargetTest, MemoryThatCannotBeRegisteredRefusesTheConnection) {
  start();
  Host host(host_verbs_, fabric_);
  fabric_.register_error = ENOMEM;
  spec::RdmaCmRequest request;
  request.queue_id = 1;
  request.host_receive_size = 32;
  request.host_send_size = 31;
  host.connect(request);
  turn();
  EXPECT_EQ(spec::read_rdma_reject(host.event(RDMA_CM_EVENT_REJECTED)->data()), spec::RdmaCmStatus::no_resources);
  // The next one finds memory.
  connect();
  EXPECT_EQ(acceptor_.handlers.size(), 1u);
}

TEST_F(RdmaTargetTest, HostsThatBreakTheProtocolAreDisconnected) {
  start();
  Host* host = &connect();
  host->send(command(spec::IoOp::flush, 1), {}, 63);  // a capsule too short
  turn();
  EXPECT_TRUE(handler().disconnected);
  host = &connect(4);
  for (uint16_t cid = 0; cid < 5; ++cid) host->send(command(spec::IoOp::flush, cid));
  turn();
  EXPECT_TRUE(handler().disconnected);
  EXPECT_EQ(handler().commands.size(), 4u);
  host = &connect();
  spec::SglDescriptor foreign = spec::make_keyed_sgl({.address = 0x1000, .length = 512, .key = 0xdead});
  host->send(command(spec::IoOp::write, 1, foreign));
  turn();
  EXPECT_TRUE(handler().disconnected);
  EXPECT_TRUE(handler().commands.empty());
  host = &connect();
  host->send(command(spec::IoOp::read, 1, foreign));
  turn();
  EXPECT_FALSE(handler().disconnected);
  handler().complete(0);
  turn();
  EXPECT_TRUE(handler().disconnected);
  EXPECT_EQ(stats().protocol_errors, 4u);
}

TEST_F(RdmaTargetTest, AWrongDataPointerReachesTheHandlerAsItsStatus) {
  start();
  Host& host = connect();
  spec::SglDescriptor sgl;
  sgl.length = 4096;
  sgl.type = spec::SglType::in_capsule;
  host.send(command(spec::IoOp::write, 1, sgl), std::vector<uint8_t>(512));
  turn();
  EXPECT_EQ(handler().commands.at(0)->transport_status, Status::invalid_sgl_data_length);
}

TEST_F(RdmaTargetTest, CommandsWaitForBuffersInOrder) {
  start();  // 32 buffers of 64 KiB
  Host& host = connect();
  for (uint16_t cid = 0; cid < 4; ++cid) host.send(command(spec::IoOp::write, cid, host.keyed(0, 1 << 20)));
  turn();
  EXPECT_EQ(handler().commands.size(), 2u);
  EXPECT_EQ(stats().waited_for_buffers, 2u);
  for (uint16_t cid = 0; cid < 4; ++cid) {
    ASSERT_FALSE(handler().commands.empty());
    EXPECT_EQ(handler().commands[0]->sqe.cid, cid);
    handler().complete(0);
    turn();
  }
  EXPECT_EQ(host.answers().size(), 4u);
}

TEST_F(RdmaTargetTest, CommandsWaitForRoomInTheSendQueue) {
  fabric_.attributes.max_qp_wr = 3;
  start();
  Host& host = connect();
  for (uint16_t cid = 0; cid < 16; ++cid) host.send(command(spec::IoOp::read, cid, host.keyed(0, 4096)));
  turn();
  ASSERT_EQ(handler().commands.size(), 16u);
  while (!handler().commands.empty()) handler().complete(0);
  turn(40);
  EXPECT_EQ(host.answers().size(), 16u);
  EXPECT_GT(stats().devices.at(0).pending_rdma_send, 0u);
}

TEST_F(RdmaTargetTest, HostsShareTheReceivesAndNoneIsLost) {
  TargetOptions few;
  few.srq_entries = 16;
  start(few);
  Host& first = connect();
  Handler& first_handler = handler();
  Host& second = connect();
  Handler& second_handler = handler();
  for (int round = 0; round < 50; ++round) {
    for (uint16_t cid = 0; cid < 8; ++cid) {
      first.send(command(spec::IoOp::flush, cid));
      second.send(command(spec::IoOp::flush, cid));
    }
    turn();
    while (!first_handler.commands.empty()) first_handler.complete(0);
    while (!second_handler.commands.empty()) second_handler.complete(0);
    turn();
  }
  EXPECT_EQ(stats().devices.at(0).requests, 50u * 16);
  EXPECT_EQ(stats().devices.at(0).total_recv_wrs, 16u + 50 * 16);
}

TEST_F(RdmaTargetTest, AConnectionEndsWithCommandsInEveryState) {
  start();
  Host& host = connect();
  Handler& queue = handler();
  host.send(command(spec::IoOp::flush, 1));  // lent
  for (uint16_t cid = 2; cid < 5; ++cid)     // lent, and waiting for buffers
    host.send(command(spec::IoOp::write, cid, host.keyed(0, 1 << 20)));
  turn();
  fabric_.deliver = [](const ibv_wc& wc) { return wc.opcode == IBV_WC_RECV; };  // READs that never end
  host.send(command(spec::IoOp::write, 9, host.keyed(0, 512)));
  turn();
  EXPECT_EQ(queue.commands.size(), 3u);
  host.close();
  turn();
  EXPECT_TRUE(queue.disconnected);
  while (!queue.commands.empty()) queue.complete(0);
  queue.queue->release();
  queue.queue = nullptr;
  pass(10'000'000'000);
  fabric_.deliver = nullptr;
  // All of its slots and buffers are there again.
  Host& next = connect();
  for (uint16_t cid = 0; cid < 30; ++cid) next.send(command(spec::IoOp::flush, cid));
  turn();
  EXPECT_EQ(handler().commands.size(), 30u);
  while (!handler().commands.empty()) handler().complete(0);
  for (uint16_t cid = 0; cid < 2; ++cid) next.send(command(spec::IoOp::write, cid, next.keyed(0, 1 << 20)));
  turn();
  EXPECT_EQ(handler().commands.size(), 2u);
}

TEST_F(RdmaTargetTest, APostThatFailsClosesTheConnectionOnly) {
  start();
  Host& host = connect();
  Handler& first = handler();
  for (uint16_t cid = 0; cid < 3; ++cid) host.send(command(spec::IoOp::flush, cid));
  turn();
  while (!first.commands.empty()) first.complete(0);
  fabric_.post_send_error = ENOMEM;
  fabric_.post_send_good = 1;
  turn();
  EXPECT_TRUE(first.disconnected);
  first.queue->release();
  first.queue = nullptr;
  pass(10'000'000'000);
  Host& next = connect();
  next.send(command(spec::IoOp::flush, 1));
  turn();
  EXPECT_EQ(handler().commands.size(), 1u);
}

TEST_F(RdmaTargetTest, AHostThatNeverConnectsItsQueueIsClosed) {
  start();
  connect();
  pass(31'000'000'000);
  EXPECT_TRUE(handler().disconnected);
}

TEST_F(RdmaTargetTest, ADeviceThatGoesAwayEndsItsConnectionsAndComesBack) {
  start();
  connect();
  Handler& first = handler();
  SimId* listening = fabric_.listeners.at(kPort);
  SimVerbs::tell(listening, RDMA_CM_EVENT_DEVICE_REMOVAL);
  turn();
  EXPECT_TRUE(fabric_.listeners.empty());
  first.queue->disconnect("its device goes away");
  turn();
  finish(first);
  EXPECT_TRUE(stats().devices.empty());
  fabric_.address_unknown = true;
  pass(1'100'000'000);
  EXPECT_TRUE(fabric_.listeners.empty());
  fabric_.address_unknown = false;
  pass(1'100'000'000);
  ASSERT_EQ(fabric_.listeners.size(), 1u);
  connect();
  EXPECT_EQ(acceptor_.handlers.size(), 2u);
}

TEST_F(RdmaTargetTest, ADeadDeviceEndsItsConnections) {
  start();
  connect();
  Handler& first = handler();
  fabric_.answers = false;
  turn();
  EXPECT_TRUE(first.disconnected);
  finish(first);
  fabric_.answers = true;
  Host& host = connect();
  host.send(command(spec::IoOp::flush, 1));
  turn();
  EXPECT_EQ(handler().commands.size(), 1u);
}

TEST_F(RdmaTargetTest, AnAddressThatIsTakenOrNotThereIsNamed) {
  start();
  const auto again = target_->listen({"RDMA", "IPv4", "192.0.2.1", std::to_string(kPort)});
  ASSERT_FALSE(again);
  EXPECT_NE(again.error().message().find("RDMA 192.0.2.1:4420"), std::string::npos);
  fabric_.address_unknown = true;
  const auto nowhere = target_->listen({"RDMA", "IPv4", "192.0.2.9", "4421"});
  ASSERT_FALSE(nowhere);
  EXPECT_NE(nowhere.error().message().find("no RDMA device has this address"), std::string::npos);
  EXPECT_FALSE(target_->listen({"RDMA", "IPv6", "192.0.2.9", "4421"}));
}

}  // namespace
}  // namespace diskengine::fabric::rdma
