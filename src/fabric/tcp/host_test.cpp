#include "fabric/tcp/host.h"

#include <gtest/gtest.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cstring>
#include <numeric>
#include <optional>
#include <vector>

#include "base/crc32c.h"
#include "base/endian.h"
#include "runtime/alloc_trap.h"

namespace diskengine::fabric::tcp {
namespace {

using spec::DataDirection;
using spec::Status;
using spec::TcpPdu;

std::vector<uint8_t> pattern(size_t bytes, uint8_t first) {
  std::vector<uint8_t> data(bytes);
  std::iota(data.begin(), data.end(), first);
  return data;
}

// One PDU as the scripted controller received it.
struct Received {
  TcpPdu type{};
  uint8_t flags = 0;
  std::vector<uint8_t> header;
  std::vector<uint8_t> data;
  spec::Sqe sqe() const { return load_le<spec::Sqe>(&header[8]); }
  spec::TcpData h2c() const { return load_le<spec::TcpData>(header.data()); }
};

// A host queue whose other end the test plays, PDU by PDU.
class TcpHostQueueTest : public ::testing::Test, private HostQueueEvents {
 protected:
  ~TcpHostQueueTest() override {
    if (queue_) {
      queue_->disconnect();
      EXPECT_TRUE(reactor_.run_until([&] { return ended_.has_value(); }));
      queue_.reset();
    }
    if (peer_ >= 0) close(peer_);
  }

  void connect(HostQueueOptions options = {}) {
    int ends[2];
    ASSERT_EQ(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0, ends), 0);
    peer_ = ends[1];
    options_ = options;
    queue_ = std::make_unique<TcpHostQueue>(reactor_, std::make_shared<Staging>(), UniqueFd(ends[0]), "peer", options,
                                            static_cast<HostQueueEvents&>(*this));
  }

  void initialize(uint8_t digests = 0, uint8_t cpda = 0, uint32_t max_h2c_data = 128 * 1024) {
    const Received request = receive();
    ASSERT_EQ(request.type, TcpPdu::ic_req);
    spec::TcpIcResp response{};
    response.common = {TcpPdu::ic_resp, 0, sizeof response, 0, sizeof response};
    response.cpda = cpda;
    response.digests = digests;
    response.max_h2c_data = max_h2c_data;
    write_raw(&response, sizeof response);
    ASSERT_TRUE(reactor_.run_until([&] { return connected_ || ended_; }));
    header_digest_ = (digests & spec::kTcpDigestHeader) != 0;
    data_digest_ = (digests & spec::kTcpDigestData) != 0;
  }

  void write_raw(const void* data, size_t bytes) {
    ASSERT_EQ(::send(peer_, data, bytes, MSG_NOSIGNAL), static_cast<ssize_t>(bytes));
  }

  // Reads exactly so many bytes while the reactor turns; fewer at the end of the stream.
  std::vector<uint8_t> read_raw(size_t bytes) {
    std::vector<uint8_t> data(bytes);
    size_t have = 0;
    bool over = false;
    reactor_.run_until(
        [&] {
          while (have < bytes && !over) {
            const ssize_t got = ::recv(peer_, data.data() + have, bytes - have, 0);
            if (got < 0 && errno == EAGAIN) return false;
            if (got <= 0) over = true;
            if (got > 0) have += static_cast<size_t>(got);
          }
          return true;
        },
        5'000'000'000);
    data.resize(have);
    return data;
  }

  Received receive() {
    Received pdu;
    pdu.header = read_raw(8);
    if (pdu.header.size() < 8) return pdu;
    const auto common = load_le<spec::TcpCommonHeader>(pdu.header.data());
    pdu.type = common.type;
    pdu.flags = common.flags;
    std::vector<uint8_t> rest = read_raw(common.total_bytes - 8);
    pdu.header.insert(pdu.header.end(), rest.begin(), rest.begin() + (common.header_bytes - 8));
    if ((common.flags & spec::kTcpFlagHeaderDigest) != 0 && common.type != TcpPdu::ic_req) {
      EXPECT_EQ(load_le<uint32_t>(&rest[common.header_bytes - 8]), crc32c(pdu.header.data(), pdu.header.size()));
    }
    if (common.data_offset != 0) {
      const size_t trailer = (common.flags & spec::kTcpFlagDataDigest) != 0 ? 4 : 0;
      pdu.data.assign(rest.begin() + (common.data_offset - 8), rest.end() - static_cast<long>(trailer));
      if (trailer != 0) {
        EXPECT_EQ(load_le<uint32_t>(&rest[rest.size() - 4]), crc32c(pdu.data.data(), pdu.data.size()));
      }
    }
    return pdu;
  }

  template <typename Header>
  void send_pdu(TcpPdu type, Header header, const std::vector<uint8_t>& data = {}, uint8_t flags = 0,
                bool spoil_digest = false) {
    header.common = make_tcp_header(type, sizeof header, static_cast<uint32_t>(data.size()), header_digest_,
                                    data_digest_ && !data.empty(), 0, flags);
    std::vector<uint8_t> pdu(header.common.total_bytes);
    std::memcpy(pdu.data(), &header, sizeof header);
    if (header_digest_) spec::put_tcp_header_digest(pdu.data());
    if (!data.empty()) std::memcpy(&pdu[header.common.data_offset], data.data(), data.size());
    if (data_digest_ && !data.empty())
      store_le<uint32_t>(&pdu[pdu.size() - 4], crc32c(data.data(), data.size()) + (spoil_digest ? 1 : 0));
    write_raw(pdu.data(), pdu.size());
  }

  void respond(uint16_t cid, Status status = Status::success) {
    spec::TcpCapsuleResp response{};
    spec::Cqe cqe;
    cqe.cid = cid;
    cqe.status = spec::status_field(status);
    std::memcpy(response.cqe, &cqe, sizeof cqe);
    send_pdu(TcpPdu::capsule_resp, response);
  }

  void respond_from_stack(uint16_t cid) {
    spec::TcpCapsuleResp response{};
    response.common = {TcpPdu::capsule_resp, 0, sizeof response, 0, sizeof response};
    spec::Cqe cqe;
    cqe.cid = cid;
    std::memcpy(response.cqe, &cqe, sizeof cqe);
    write_raw(&response, sizeof response);
  }

  void send_data(uint16_t cid, uint32_t offset, const std::vector<uint8_t>& data, uint8_t flags,
                 bool spoil_digest = false) {
    spec::TcpData header{};
    header.cid = cid;
    header.data_offset = offset;
    header.data_bytes = static_cast<uint32_t>(data.size());
    send_pdu(TcpPdu::c2h_data, header, data, flags, spoil_digest);
  }

  void send_r2t(uint16_t cid, uint16_t ttag, uint32_t offset, uint32_t bytes) {
    spec::TcpR2t header{};
    header.cid = cid;
    header.ttag = ttag;
    header.data_offset = offset;
    header.data_bytes = bytes;
    send_pdu(TcpPdu::r2t, header);
  }

  // A command with its buffer, and how often it completed.
  struct Io {
    HostCommand command;
    std::vector<uint8_t> buffer;
    std::vector<iovec> iov;
    int completions = 0;
  };
  void submit(Io& io, uint8_t opcode, DataDirection direction, size_t bytes, size_t piece_bytes = 0) {
    io.command.reset(opcode);
    io.command.direction = direction;
    io.command.data_bytes = static_cast<uint32_t>(bytes);
    if (io.buffer.size() != bytes) io.buffer = pattern(bytes, 7);
    if (piece_bytes == 0) piece_bytes = bytes;
    for (size_t at = 0; at < bytes; at += piece_bytes)
      io.iov.push_back({io.buffer.data() + at, std::min(piece_bytes, bytes - at)});
    io.command.iov = io.iov;
    io.command.owner = &io;
    io.command.done = [](HostCommand& command) noexcept { ++static_cast<Io*>(command.owner)->completions; };
    queue_->submit(io.command);
  }
  bool finished(const Io& io) {
    return reactor_.run_until([&] { return io.completions > 0; }, 5'000'000'000);
  }
  // The connection ended because of the peer's doing, and `io` was given up with it.
  void expect_ended_by_protocol_error(const Io& io) {
    EXPECT_TRUE(reactor_.run_until([&] { return ended_.has_value(); }, 5'000'000'000));
    ASSERT_TRUE(ended_);
    EXPECT_EQ(ended_->code(), Errc::protocol) << ended_->message();
    EXPECT_EQ(io.completions, 1);
    EXPECT_EQ(io.command.outcome, HostOutcome::lost);
  }

  void on_connected() noexcept override { connected_ = true; }
  void on_disconnected(const Error& reason) noexcept override { ended_ = reason; }

  Reactor reactor_{Reactor::Options{}};
  HostQueueOptions options_;
  std::unique_ptr<TcpHostQueue> queue_;
  int peer_ = -1;
  bool connected_ = false;
  bool header_digest_ = false;
  bool data_digest_ = false;
  std::optional<Error> ended_;
};

TEST_F(TcpHostQueueTest, SmallWriteTravelsInItsCapsuleAndCompletesWithItsResponse) {
  connect();
  initialize();
  Io io;
  submit(io, spec::IoOp::write, DataDirection::to_controller, 4096, 512);
  const Received capsule = receive();
  ASSERT_EQ(capsule.type, TcpPdu::capsule_cmd);
  EXPECT_EQ(capsule.data, io.buffer);
  EXPECT_EQ(capsule.sqe().data.type, spec::SglType::in_capsule);
  EXPECT_EQ(capsule.sqe().data.length, 4096u);
  respond(capsule.sqe().cid);
  EXPECT_TRUE(finished(io));
  EXPECT_EQ(io.command.outcome, HostOutcome::answered);
}

TEST_F(TcpHostQueueTest, ReadDataArrivesInItsBufferHoweverItIsCutAndWhereverItLies) {
  for (const size_t bytes : {size_t{4096}, size_t{128 * 1024}}) {
    connect();
    initialize();
    Io io;
    submit(io, spec::IoOp::read, DataDirection::from_controller, bytes, 4000);
    const uint16_t cid = receive().sqe().cid;
    const std::vector<uint8_t> data = pattern(bytes, 99);
    const std::vector<uint8_t> first(data.begin(), data.begin() + 1000);
    const std::vector<uint8_t> rest(data.begin() + 1000, data.end());
    send_data(cid, 0, first, 0);
    send_data(cid, 1000, rest, spec::kTcpFlagLast);
    respond(cid);
    ASSERT_TRUE(finished(io));
    EXPECT_EQ(io.command.cqe.status, 0);
    EXPECT_EQ(io.buffer, data);
    queue_->disconnect();
    ASSERT_TRUE(reactor_.run_until([&] { return ended_.has_value(); }));
    queue_.reset();
    close(peer_);
    peer_ = -1;
    ended_.reset();
    connected_ = false;
  }
}

TEST_F(TcpHostQueueTest, DataWithTheSuccessFlagCompletesWithoutAResponse) {
  connect();
  initialize();
  Io io;
  submit(io, spec::IoOp::read, DataDirection::from_controller, 512);
  const uint16_t cid = receive().sqe().cid;
  send_data(cid, 0, pattern(512, 3), spec::kTcpFlagLast | spec::kTcpFlagSuccess);
  ASSERT_TRUE(finished(io));
  EXPECT_EQ(io.command.cqe.status, 0);
  EXPECT_EQ(io.buffer, pattern(512, 3));
  // Its id is free now: a response to it is an answer to nothing.
  respond(cid);
  EXPECT_TRUE(reactor_.run_until([&] { return ended_.has_value(); }));
  EXPECT_EQ(io.completions, 1);
}

TEST_F(TcpHostQueueTest, LargeWriteIsSentAsTheControllerAsksForItInPiecesOfItsChoice) {
  HostQueueOptions options;
  options.capsule_data_bytes = 8192;
  connect(options);
  initialize(0, 0, 4096);
  Io io;
  submit(io, spec::IoOp::write, DataDirection::to_controller, 20000, 3000);
  const Received capsule = receive();
  EXPECT_TRUE(capsule.data.empty());
  EXPECT_EQ(capsule.sqe().data.type, spec::SglType::transport_data);
  const uint16_t cid = capsule.sqe().cid;
  send_r2t(cid, 11, 0, 10000);
  send_r2t(cid, 12, 10000, 10000);
  std::vector<uint8_t> assembled(20000);
  for (const uint16_t ttag : {11, 12}) {
    for (size_t piece = 0; piece < 3; ++piece) {
      const Received data = receive();
      ASSERT_EQ(data.type, TcpPdu::h2c_data);
      EXPECT_EQ(data.h2c().ttag, ttag);
      EXPECT_EQ(data.h2c().cid, cid);
      EXPECT_LE(data.data.size(), 4096u);
      EXPECT_EQ((data.flags & spec::kTcpFlagLast) != 0, piece == 2);
      ASSERT_LE(data.h2c().data_offset + data.data.size(), assembled.size());
      std::copy(data.data.begin(), data.data.end(), assembled.begin() + data.h2c().data_offset);
    }
  }
  EXPECT_EQ(assembled, io.buffer);
  respond(cid);
  EXPECT_TRUE(finished(io));
}

TEST_F(TcpHostQueueTest, DigestsAreSentAndCheckedAndAlignmentIsHonoured) {
  HostQueueOptions options;
  options.header_digest = options.data_digest = true;
  connect(options);
  initialize(spec::kTcpDigestHeader | spec::kTcpDigestData, 15);
  Io write;
  submit(write, spec::IoOp::write, DataDirection::to_controller, 512);
  const Received capsule = receive();
  EXPECT_EQ(capsule.data, write.buffer);
  EXPECT_EQ(load_le<spec::TcpCommonHeader>(capsule.header.data()).data_offset % 64, 0);
  respond(capsule.sqe().cid);
  EXPECT_TRUE(finished(write));

  Io read;
  submit(read, spec::IoOp::read, DataDirection::from_controller, 512);
  const uint16_t cid = receive().sqe().cid;
  send_data(cid, 0, pattern(512, 1), spec::kTcpFlagLast, true);
  respond(cid);
  ASSERT_TRUE(finished(read));
  EXPECT_EQ(spec::status_of(read.command.cqe.status), Status::transient_transport_error)
      << "wrong data passed as right";
}

TEST_F(TcpHostQueueTest, AResponseNobodyWaitsForEndsTheConnection) {
  connect();
  initialize();
  Io io;
  submit(io, spec::IoOp::flush, DataDirection::none, 0);
  respond(static_cast<uint16_t>(receive().sqe().cid + 1));
  expect_ended_by_protocol_error(io);
}

TEST_F(TcpHostQueueTest, ADuplicateResponseNeverCompletesTheNextCommandOfThatPlace) {
  HostQueueOptions options;
  options.depth = 1;
  connect(options);
  initialize();
  Io first;
  submit(first, spec::IoOp::flush, DataDirection::none, 0);
  const uint16_t cid = receive().sqe().cid;
  respond(cid);
  ASSERT_TRUE(finished(first));
  Io second;
  submit(second, spec::IoOp::flush, DataDirection::none, 0);
  EXPECT_NE(receive().sqe().cid, cid);
  respond(cid);
  expect_ended_by_protocol_error(second);
  EXPECT_EQ(first.completions, 1);
}

TEST_F(TcpHostQueueTest, SuccessWithoutAllOfTheDataEndsTheConnection) {
  connect();
  initialize();
  Io io;
  submit(io, spec::IoOp::read, DataDirection::from_controller, 4096);
  const uint16_t cid = receive().sqe().cid;
  send_data(cid, 0, pattern(2048, 0), 0);
  respond(cid);
  expect_ended_by_protocol_error(io);
}

TEST_F(TcpHostQueueTest, DataOutsideOfTheBufferEndsTheConnectionAndTouchesNothing) {
  connect();
  initialize();
  Io io;
  submit(io, spec::IoOp::read, DataDirection::from_controller, 512);
  const std::vector<uint8_t> before = io.buffer;
  send_data(receive().sqe().cid, 256, pattern(512, 200), spec::kTcpFlagLast);
  expect_ended_by_protocol_error(io);
  EXPECT_EQ(io.buffer, before);
}

TEST_F(TcpHostQueueTest, DataForAWriteEndsTheConnection) {
  connect();
  initialize();
  Io io;
  submit(io, spec::IoOp::write, DataDirection::to_controller, 512);
  send_data(receive().sqe().cid, 0, pattern(512, 200), spec::kTcpFlagLast);
  expect_ended_by_protocol_error(io);
}

TEST_F(TcpHostQueueTest, AnR2tBeyondTheDataEndsTheConnection) {
  connect();
  initialize();
  Io io;
  submit(io, spec::IoOp::write, DataDirection::to_controller, 32768);
  send_r2t(receive().sqe().cid, 1, 0, 32769);
  expect_ended_by_protocol_error(io);
}

TEST_F(TcpHostQueueTest, AnR2tAskedTwiceEndsTheConnection) {
  connect();
  initialize();
  Io io;
  submit(io, spec::IoOp::write, DataDirection::to_controller, 32768);
  const uint16_t cid = receive().sqe().cid;
  send_r2t(cid, 1, 0, 4096);
  receive();
  send_r2t(cid, 1, 0, 4096);
  EXPECT_TRUE(reactor_.run_until([&] { return ended_.has_value(); }));
  EXPECT_EQ(io.command.outcome, HostOutcome::lost);
}

TEST_F(TcpHostQueueTest, SuccessBeforeTheDataWasAskedForEndsTheConnection) {
  connect();
  initialize();
  Io io;
  submit(io, spec::IoOp::write, DataDirection::to_controller, 32768);
  respond(receive().sqe().cid);
  expect_ended_by_protocol_error(io);
}

TEST_F(TcpHostQueueTest, AResponseWhileDataIsStillBeingSentEndsTheConnection) {
  connect();
  initialize();
  Io io;
  submit(io, spec::IoOp::write, DataDirection::to_controller, 1024 * 1024);
  const uint16_t cid = receive().sqe().cid;
  send_r2t(cid, 1, 0, 1024 * 1024);
  read_raw(8);  // the socket's buffer is far smaller than the data
  respond(cid, Status::internal_error);
  expect_ended_by_protocol_error(io);
}

TEST_F(TcpHostQueueTest, EveryCommandIsLostOnceWhenThePeerClosesInTheMiddle) {
  connect();
  initialize();
  std::vector<Io> ios(20);
  for (Io& io : ios) submit(io, spec::IoOp::write, DataDirection::to_controller, 8192);
  receive();
  close(peer_);
  peer_ = -1;
  EXPECT_TRUE(reactor_.run_until([&] { return ended_.has_value(); }));
  for (const Io& io : ios) {
    EXPECT_EQ(io.completions, 1);
    EXPECT_EQ(io.command.outcome, HostOutcome::lost);
  }
}

TEST_F(TcpHostQueueTest, DisconnectGivesUpCommandsOnlyAfterTheConnectionIsClosed) {
  connect();
  initialize();
  Io io;
  submit(io, spec::IoOp::flush, DataDirection::none, 0);
  receive();
  queue_->disconnect();
  EXPECT_EQ(io.completions, 0) << "completed inside disconnect()";
  ASSERT_TRUE(finished(io));
  uint8_t byte = 0;
  EXPECT_EQ(::recv(peer_, &byte, 1, 0), 0) << "the connection is still open";
}

TEST_F(TcpHostQueueTest, BadSetupAnswersAreRefused) {
  struct Case {
    const char* what;
    void (*change)(spec::TcpIcResp&);
  };
  const Case cases[] = {
      {"version", [](spec::TcpIcResp& r) { r.version = 1; }},
      {"alignment", [](spec::TcpIcResp& r) { r.cpda = 32; }},
      {"digests nobody asked for", [](spec::TcpIcResp& r) { r.digests = 1; }},
      {"tiny data PDUs", [](spec::TcpIcResp& r) { r.max_h2c_data = 512; }},
      {"length", [](spec::TcpIcResp& r) { r.common.total_bytes = 64; }},
      {"type", [](spec::TcpIcResp& r) { r.common.type = TcpPdu::capsule_resp; }},
  };
  for (const Case& one : cases) {
    SCOPED_TRACE(one.what);
    connect();
    receive();
    spec::TcpIcResp response{};
    response.common = {TcpPdu::ic_resp, 0, sizeof response, 0, sizeof response};
    response.max_h2c_data = 128 * 1024;
    one.change(response);
    write_raw(&response, sizeof response);
    EXPECT_TRUE(reactor_.run_until([&] { return ended_.has_value(); }, 5'000'000'000));
    EXPECT_FALSE(connected_);
    queue_.reset();
    close(peer_);
    peer_ = -1;
    ended_.reset();
  }
}

TEST_F(TcpHostQueueTest, IoAllocatesNothingOnceTheQueueIsUp) {
  connect();
  initialize();
  std::array<uint8_t, 4096> buffer{};
  const iovec piece{buffer.data(), buffer.size()};
  std::array<uint8_t, 72 + 4096> received{};
  std::array<uint8_t, 24 + 4096> data{};
  bool done = false;
  HostCommand command;
  command.owner = &done;
  command.done = [](HostCommand& answered) noexcept { *static_cast<bool*>(answered.owner) = true; };
  uint64_t allocations = 0;
  for (int round = 0; round < 40; ++round) {
    const bool is_read = round % 2 == 0;
    const AllocTrap trap;
    command.reset(is_read ? spec::IoOp::read : spec::IoOp::write);
    command.direction = is_read ? DataDirection::from_controller : DataDirection::to_controller;
    command.data_bytes = buffer.size();
    command.iov = {&piece, 1};
    done = false;
    queue_->submit(command);
    reactor_.turn();
    ASSERT_EQ(::recv(peer_, received.data(), received.size(), 0), is_read ? 72 : 72 + 4096);
    if (is_read) {
      spec::TcpData header{};
      header.common = make_tcp_header(TcpPdu::c2h_data, sizeof header, 4096, false, false, 0,
                                      spec::kTcpFlagLast | spec::kTcpFlagSuccess);
      header.cid = command.sqe.cid;
      header.data_bytes = 4096;
      std::memcpy(data.data(), &header, sizeof header);
      write_raw(data.data(), data.size());
    } else {
      respond_from_stack(command.sqe.cid);
    }
    for (int turn = 0; turn < 1000 && !done; ++turn) reactor_.turn();
    ASSERT_TRUE(done);
    if (round >= 4) allocations += trap.allocations();
  }
  EXPECT_EQ(allocations, 0u);
}

TEST_F(TcpHostQueueTest, MoreCommandsThanTheSocketTakesWaitAndAllArriveInOrder) {
  HostQueueOptions options;
  options.depth = 512;
  connect(options);
  initialize();
  std::vector<Io> ios(512);
  for (size_t i = 0; i < ios.size(); ++i) {
    ios[i].buffer = pattern(8192, static_cast<uint8_t>(i));
    submit(ios[i], spec::IoOp::write, DataDirection::to_controller, 8192, 64);
  }
  for (Io& io : ios) {
    const Received capsule = receive();
    ASSERT_EQ(capsule.type, TcpPdu::capsule_cmd);
    ASSERT_EQ(capsule.data, io.buffer);
    respond(capsule.sqe().cid);
    ASSERT_TRUE(finished(io));
  }
  EXPECT_GT(queue_->stats().queued_requests, 0u);
  EXPECT_EQ(queue_->outstanding(), 0u);
}

}  // namespace
}  // namespace diskengine::fabric::tcp
