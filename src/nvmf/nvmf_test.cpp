#include <gtest/gtest.h>

#include <cstring>
#include <deque>
#include <optional>

#include "base/endian.h"
#include "fabric/sim_target.h"
#include "nvmf/target.h"
#include "runtime/random.h"

namespace diskengine::nvmf {
namespace {

using fabric::Address;
using fabric::SimTargetQueue;
using spec::AdminOp;
using spec::IoOp;
using spec::Status;

constexpr char kNqn[] = "nqn.2024-01.io.diskengine:test";
constexpr char kHost[] = "nqn.2024-01.io.diskengine:host";
const Address kAddress{"TCP", "IPv4", "127.0.0.1", "4420"};
constexpr uint32_t kBlock = 512;
constexpr uint64_t kBlocks = 8192;

// A disk that can hold requests back, and has the limits a test gives it.
class TestDisk final : public Device {
 public:
  explicit TestDisk(DeviceInfo info) : Device(std::move(info)), bytes(kBlocks * kBlock) {}
  Result<std::unique_ptr<Channel>> open_channel(Reactor& reactor) override {
    return std::unique_ptr<Channel>(std::make_unique<Line>(*this, reactor));
  }
  using Device::set_size_blocks;
  Uuid cache_instance() const override { return cache; }

  void release_held() {
    while (!held.empty()) {
      auto [line, request] = held.front();
      held.pop_front();
      line->serve(*request);
    }
  }

  struct Line final : Channel {
    Line(TestDisk& d, Reactor& reactor) : Channel(d.shared_from_this(), reactor), disk(d) {}
    void start(Request& request) noexcept override {
      ++disk.requests;
      if (disk.hold) {
        disk.held.emplace_back(this, &request);
      } else {
        serve(request);
      }
    }
    void serve(Request& request) noexcept {
      uint8_t* at = disk.bytes.data() + request.lba * kBlock;
      if (request.may_lend) {
        ++disk.loans;
        request.loan = {disk.kept, at};
        finish(request, disk.outcome);
        return;
      }
      if (request.op == Op::unmap || request.op == Op::write_zeroes) std::memset(at, 0, request.blocks * kBlock);
      for (const iovec& piece : request.iov) {
        if (request.op == Op::read) std::memcpy(piece.iov_base, at, piece.iov_len);
        if (request.op == Op::write) std::memcpy(at, piece.iov_base, piece.iov_len);
        at += piece.iov_len;
      }
      if (request.op == Op::flush) ++disk.flushes;
      if (request.fua) ++disk.fuas;
      finish(request, disk.outcome);
    }
    TestDisk& disk;
  };

  std::vector<uint8_t> bytes;
  bool hold = false;
  IoStatus outcome;
  Uuid cache;
  std::deque<std::pair<Line*, Request*>> held;
  std::shared_ptr<int> kept = std::make_shared<int>();  // use_count() tells how much is lent
  int loans = 0;
  int requests = 0;
  int flushes = 0;
  int fuas = 0;
};

class NullTransport final : public fabric::TargetTransport {
 public:
  NullTransport() : TargetTransport("TCP", {}) {}
  struct Listener final : fabric::TargetListener {
    using TargetListener::TargetListener;
    explicit Listener(Address address) : TargetListener(std::move(address)) {}
  };
  Result<std::unique_ptr<fabric::TargetListener>> listen(const Address& address) override {
    return std::unique_ptr<fabric::TargetListener>(std::make_unique<Listener>(address));
  }
  fabric::TargetTransportStats stats(size_t) const override { return {}; }
  void stop(std::function<void()> done) override { done(); }
};

class Nvmf : public ::testing::Test {
 protected:
  void SetUp() override {
    ASSERT_TRUE(target.add_transport(std::make_unique<NullTransport>()));
    SubsystemOptions options;
    options.nqn = kNqn;
    options.allow_any_host = true;
    auto made = target.create_subsystem(options);
    ASSERT_TRUE(made);
    subsystem = *made;
    ASSERT_TRUE(target.add_listener(*subsystem, kAddress));
  }

  void TearDown() override {
    for (auto& queue : queues) queue->disconnect("the test ends");
    bool stopped = false;
    bool removed = true;
    reactor.post([&] { spawn(target.stop(), [&] { stopped = true; }); });
    settle();
    EXPECT_TRUE(stopped);
    for (const auto& name : names) {
      removed = false;
      reactor.post(
          [&] { spawn<Result<void>>(devices.remove(name), [&](Result<void> r) { removed = r.has_value(); }); });
      disks.erase(name);
      settle();
      clock.advance_ns(1'000'000'000);
      settle();
      EXPECT_TRUE(removed);
    }
    for (auto& queue : queues) EXPECT_TRUE(queue->released());
  }

  void settle() {
    for (int i = 0; i < 400; ++i) reactor.turn();
  }

  TestDisk& add_disk(const std::string& name, uint32_t nsid = 0, DeviceInfo info = {}) {
    info.name = name;
    info.block_size = kBlock;
    info.size_blocks = kBlocks;
    info.uuid = random.uuid();
    auto disk = std::make_shared<TestDisk>(info);
    EXPECT_TRUE(devices.add(disk));
    TestDisk& made = *disk;
    disks.emplace(name, &made);
    names.push_back(name);
    EXPECT_TRUE(subsystem->add_namespace({.device = name, .nsid = nsid, .ids = {}}));
    return made;
  }
  static DeviceInfo capable() {
    DeviceInfo info;
    info.can_unmap = info.can_write_zeroes = true;
    return info;
  }

  SimTargetQueue& open_queue() {
    queues.push_back(std::make_unique<SimTargetQueue>(reactor, target, kAddress));
    return *queues.back();
  }

  spec::Sqe sqe(uint8_t opcode, uint32_t nsid = 0) {
    spec::Sqe made;
    made.opcode = opcode;
    made.flags = spec::kSqeSgl;
    made.cid = next_cid++;
    made.nsid = nsid;
    return made;
  }

  SimTargetQueue::Answer run(SimTargetQueue& queue, const spec::Sqe& command, std::vector<uint8_t> data = {}) {
    queue.submit(command, std::move(data));
    settle();
    const auto at = queue.answers().find(command.cid);
    if (at == queue.answers().end()) {
      ADD_FAILURE() << "no answer to opcode " << int{command.opcode};
      return {};
    }
    SimTargetQueue::Answer answer = std::move(at->second);
    queue.answers().erase(at);
    return answer;
  }

  struct Wish {
    uint16_t qid = 0;
    uint16_t cntlid = spec::kControllerIdAny;
    std::string nqn = kNqn;
    std::string host = kHost;
    uint16_t size = 31;
    uint32_t keep_alive_ms = 0;
    uint8_t host_id = 1;
    uint16_t format = 0;
  };
  SimTargetQueue::Answer connect(SimTargetQueue& queue, const Wish& wish) {
    spec::FabricsConnect command;
    command.cid = next_cid++;
    command.queue_id = wish.qid;
    command.queue_size = wish.size;
    command.keep_alive_ms = wish.keep_alive_ms;
    command.record_format = wish.format;
    spec::FabricsConnectData data;
    data.host_id[0] = wish.host_id;
    data.controller_id = wish.cntlid;
    std::memcpy(data.subsystem_nqn, wish.nqn.data(), std::min(wish.nqn.size(), sizeof data.subsystem_nqn));
    std::memcpy(data.host_nqn, wish.host.data(), std::min(wish.host.size(), sizeof data.host_nqn));
    std::vector<uint8_t> bytes(sizeof data);
    std::memcpy(bytes.data(), &data, sizeof data);
    return run(queue, load_le<spec::Sqe>(&command), bytes);
  }
  SimTargetQueue::Answer property(SimTargetQueue& queue, bool set, uint32_t offset, uint64_t value, bool wide = false) {
    spec::FabricsProperty command;
    command.cid = next_cid++;
    command.type = set ? spec::FabricsType::property_set : spec::FabricsType::property_get;
    command.offset = offset;
    command.value = value;
    command.size = wide ? 1 : 0;
    return run(queue, load_le<spec::Sqe>(&command));
  }

  // A controller that is enabled, with one I/O queue.
  struct Pair {
    SimTargetQueue* admin;
    SimTargetQueue* io;
    uint16_t cntlid;
  };
  Pair connect_host() { return connect_host(Wish()); }
  Pair connect_host(Wish wish) {
    SimTargetQueue& admin = open_queue();
    const auto granted = connect(admin, wish);
    EXPECT_EQ(granted.status(), Status::success);
    const uint16_t cntlid = spec::connect_controller_id(granted.cqe.cdw0);
    EXPECT_EQ(property(admin, true, spec::Property::cc, spec::kCcEnable | spec::kCcEntrySizes).status(),
              Status::success);
    SimTargetQueue* io = nullptr;
    if (wish.nqn == kNqn) {
      io = &open_queue();
      wish.qid = 1;
      wish.cntlid = cntlid;
      EXPECT_EQ(connect(*io, wish).status(), Status::success);
    }
    return {&admin, io, cntlid};
  }

  spec::Sqe rw(uint8_t opcode, uint64_t lba, uint32_t blocks, uint32_t nsid = 1) {
    spec::Sqe command = sqe(opcode, nsid);
    command.set_slba(lba);
    command.cdw12 = blocks - 1;
    return command;
  }
  std::vector<uint8_t> random_bytes(size_t size) {
    std::vector<uint8_t> bytes(size);
    for (uint8_t& byte : bytes) byte = static_cast<uint8_t>(random.next());
    return bytes;
  }

  ManualClock clock;
  Reactor reactor{Reactor::Options{.clock = &clock, .use_ring = false}};
  Random random{1};
  DeviceRegistry devices{reactor};
  Target target{{&reactor}, devices, Uuid::from_random(1, 2)};
  Subsystem* subsystem = nullptr;
  std::vector<std::unique_ptr<SimTargetQueue>> queues;
  std::map<std::string, TestDisk*> disks;
  std::vector<std::string> names;
  uint16_t next_cid = 1;
};

TEST_F(Nvmf, WritesAreReadBackAndReachTheDeviceWithTheirFlags) {
  TestDisk& disk = add_disk("disk", 0, capable());
  const Pair host = connect_host();
  const auto data = random_bytes(200 * kBlock);
  EXPECT_EQ(run(*host.io, rw(IoOp::write, 7, 200), data).status(), Status::success);
  EXPECT_TRUE(run(*host.io, rw(IoOp::read, 7, 200), std::vector<uint8_t>(data.size())).data == data);
  EXPECT_EQ(std::memcmp(disk.bytes.data() + 7 * kBlock, data.data(), data.size()), 0);
  spec::Sqe fua = rw(IoOp::write, 0, 1);
  fua.cdw12 |= spec::kRwFua;
  EXPECT_EQ(run(*host.io, fua, random_bytes(kBlock)).status(), Status::success);
  EXPECT_EQ(disk.fuas, 1);
  EXPECT_EQ(run(*host.io, sqe(IoOp::flush, 1)).status(), Status::success);
  EXPECT_EQ(disk.flushes, 1);
}

TEST_F(Nvmf, ADeviceLendsWhatIsReadWhereTheTransportCanSendIt) {
  TestDisk& disk = add_disk("disk", 0, capable());
  const Pair host = connect_host();
  const auto data = random_bytes(200 * kBlock);
  EXPECT_EQ(run(*host.io, rw(IoOp::write, 7, 200), data).status(), Status::success);
  EXPECT_TRUE(run(*host.io, rw(IoOp::read, 7, 200), std::vector<uint8_t>(data.size())).data == data);
  EXPECT_EQ(disk.loans, 0);
  host.io->set_may_lend(true);
  EXPECT_TRUE(run(*host.io, rw(IoOp::read, 7, 200), std::vector<uint8_t>(data.size())).data == data);
  EXPECT_EQ(disk.loans, 1);
  // Only reads, and what failed is given back as well.
  EXPECT_EQ(run(*host.io, rw(IoOp::write, 0, 8), random_bytes(8 * kBlock)).status(), Status::success);
  disk.outcome = IoStatus::error(IoCode::io_error);
  EXPECT_NE(run(*host.io, rw(IoOp::read, 7, 8), std::vector<uint8_t>(8 * kBlock)).status(), Status::success);
  EXPECT_EQ(disk.loans, 2);
  EXPECT_EQ(disk.kept.use_count(), 1);
}

TEST_F(Nvmf, NothingIsLentForAReadThatIsDoneInParts) {
  DeviceInfo info;
  info.max_transfer_blocks = 24;
  TestDisk& disk = add_disk("disk", 0, info);
  const Pair host = connect_host();
  host.io->set_may_lend(true);
  const auto data = random_bytes(100 * kBlock);
  EXPECT_EQ(run(*host.io, rw(IoOp::write, 3, 100), data).status(), Status::success);
  EXPECT_TRUE(run(*host.io, rw(IoOp::read, 3, 100), std::vector<uint8_t>(data.size())).data == data);
  EXPECT_EQ(disk.loans, 0);
}

TEST_F(Nvmf, ZeroingAndDeallocatingTouchExactlyTheirRanges) {
  TestDisk& disk = add_disk("disk", 0, capable());
  const Pair host = connect_host();
  std::fill(disk.bytes.begin(), disk.bytes.end(), 0xaa);
  EXPECT_EQ(run(*host.io, rw(IoOp::write_zeroes, 10, 5)).status(), Status::success);
  std::vector<uint8_t> ranges(3 * sizeof(spec::DsmRange));
  store_le(ranges.data(), spec::DsmRange{0, 2, 100});
  store_le(ranges.data() + 16, spec::DsmRange{0, 0, 200});
  store_le(ranges.data() + 32, spec::DsmRange{0, 3, 300});
  spec::Sqe command = sqe(IoOp::dataset_management, 1);
  command.cdw10 = 2;
  command.cdw11 = spec::kDsmDeallocate;
  EXPECT_EQ(run(*host.io, command, ranges).status(), Status::success);
  for (uint64_t lba = 0; lba < kBlocks; ++lba) {
    const bool zero = (lba >= 10 && lba < 15) || (lba >= 100 && lba < 102) || (lba >= 300 && lba < 303);
    ASSERT_EQ(disk.bytes[lba * kBlock], zero ? 0 : 0xaa) << lba;
  }
  // One bad range, and nothing is done.
  store_le(ranges.data() + 32, spec::DsmRange{0, 3, kBlocks - 2});
  store_le(ranges.data(), spec::DsmRange{0, 2, 50});
  command.cid = next_cid++;
  EXPECT_EQ(run(*host.io, command, ranges).status(), Status::lba_out_of_range);
  EXPECT_EQ(disk.bytes[50 * kBlock], 0xaa);
}

TEST_F(Nvmf, DevicesWithLimitsGetSmallerRequestsAndWrittenZeroes) {
  DeviceInfo info;
  info.max_transfer_blocks = 24;
  TestDisk& disk = add_disk("disk", 0, info);
  const Pair host = connect_host();
  const auto data = random_bytes(1000 * kBlock);
  EXPECT_EQ(run(*host.io, rw(IoOp::write, 3, 1000), data).status(), Status::success);
  EXPECT_EQ(disk.requests, 42);
  EXPECT_TRUE(run(*host.io, rw(IoOp::read, 3, 1000), std::vector<uint8_t>(data.size())).data == data);
  EXPECT_EQ(run(*host.io, rw(IoOp::write_zeroes, 3, 999)).status(), Status::success);
  EXPECT_EQ(disk.bytes[1001 * kBlock], 0);
  EXPECT_EQ(std::memcmp(disk.bytes.data() + 1002 * kBlock, data.data() + 999 * kBlock, kBlock), 0);
}

TEST_F(Nvmf, BadCommandsGetTheirStatusAndLeaveTheQueueUsable) {
  TestDisk& disk = add_disk("disk", 0, capable());
  const Pair host = connect_host();
  const std::vector<uint8_t> block(kBlock);
  auto status = [&](const spec::Sqe& command, std::vector<uint8_t> data = {}) {
    return run(*host.io, command, std::move(data)).status();
  };
  EXPECT_EQ(status(rw(IoOp::read, kBlocks, 1), block), Status::lba_out_of_range);
  EXPECT_EQ(status(rw(IoOp::read, UINT64_MAX, 1), block), Status::lba_out_of_range);
  EXPECT_EQ(status(rw(IoOp::read, 0, 2), block), Status::invalid_sgl_data_length);
  EXPECT_EQ(status(rw(IoOp::write, 0, 1)), Status::invalid_sgl_data_length);
  EXPECT_EQ(status(rw(IoOp::read, 0, 1, 2), block), Status::invalid_namespace);
  EXPECT_EQ(status(rw(IoOp::read, 0, 1, 0), block), Status::invalid_namespace);
  EXPECT_EQ(status(sqe(IoOp::flush, spec::kNsidAll)), Status::invalid_namespace);
  EXPECT_EQ(status(sqe(IoOp::dataset_management, 1), {}), Status::invalid_sgl_data_length);
  for (const uint8_t reservation :
       {IoOp::reservation_register, IoOp::reservation_report, IoOp::reservation_acquire, IoOp::reservation_release})
    EXPECT_EQ(status(sqe(reservation, 1), std::vector<uint8_t>(16)), Status::invalid_opcode);
  spec::Sqe prp = rw(IoOp::read, 0, 1);
  prp.flags = 0;
  EXPECT_EQ(status(prp, block), Status::invalid_field);
  spec::Sqe fused = rw(IoOp::read, 0, 1);
  fused.flags |= 1;
  EXPECT_EQ(status(fused, block), Status::invalid_field);
  EXPECT_EQ(disk.requests, 0);
  EXPECT_EQ(status(rw(IoOp::read, 0, 1), block), Status::success);
}

TEST_F(Nvmf, DeviceErrorsBecomeTheStatusThatHostsActOn) {
  TestDisk& disk = add_disk("disk", 0, capable());
  const Pair host = connect_host();
  const std::vector<uint8_t> block(kBlock);
  disk.outcome = IoStatus::error(IoCode::io_error, EIO);
  EXPECT_EQ(run(*host.io, rw(IoOp::read, 0, 1), block).status(), Status::unrecovered_read_error);
  EXPECT_EQ(run(*host.io, rw(IoOp::write, 0, 1), block).status(), Status::write_fault);
  disk.outcome = IoStatus::error(IoCode::no_space);
  const auto full = run(*host.io, rw(IoOp::write, 0, 1), block);
  EXPECT_EQ(full.status(), Status::capacity_exceeded);
  EXPECT_TRUE(spec::do_not_retry(full.cqe.status));
  disk.outcome = IoStatus::nvme(IoCode::io_error, 2, 0x81, false);
  EXPECT_EQ(run(*host.io, rw(IoOp::write, 0, 1), block).status(), Status::unrecovered_read_error);
}

TEST_F(Nvmf, ACommandIdentifierInUseIsRefusedAndTheFirstCommandGoesOn) {
  TestDisk& disk = add_disk("disk");
  const Pair host = connect_host();
  disk.hold = true;
  const spec::Sqe command = rw(IoOp::read, 0, 1);
  host.io->submit(command, std::vector<uint8_t>(kBlock));
  EXPECT_EQ(run(*host.io, command, std::vector<uint8_t>(kBlock)).status(), Status::command_id_conflict);
  disk.hold = false;
  reactor.post([&] { disk.release_held(); });
  settle();
  ASSERT_EQ(host.io->answers().count(command.cid), 1u);
  EXPECT_EQ(host.io->answers().find(command.cid)->second.status(), Status::success);
}

TEST_F(Nvmf, ConnectSaysWhatIsWrong) {
  add_disk("disk");
  subsystem->set_allow_any_host(false);
  ASSERT_TRUE(subsystem->add_host(kHost));
  const Pair host = connect_host();
  auto refused = [&](const Wish& wish) { return connect(open_queue(), wish); };
  EXPECT_EQ(refused({.nqn = "nqn.2024-01.io.diskengine:other"}).status(), Status::connect_invalid_parameters);
  EXPECT_EQ(refused({.nqn = std::string(256, 'x')}).cqe.cdw0, spec::connect_bad_field(256, true));
  EXPECT_EQ(refused({.host = std::string(256, 'x')}).cqe.cdw0, spec::connect_bad_field(512, true));
  EXPECT_EQ(refused({.host = "nqn.2024-01.io.diskengine:stranger"}).status(), Status::connect_invalid_host);
  EXPECT_EQ(refused({.cntlid = 5}).cqe.cdw0, spec::connect_bad_field(16, true));
  EXPECT_EQ(refused({.size = 0}).cqe.cdw0, spec::connect_bad_field(44, false));
  EXPECT_EQ(refused({.size = 4096}).cqe.cdw0, spec::connect_bad_field(44, false));
  EXPECT_EQ(refused({.format = 1}).status(), Status::connect_incompatible_format);
  EXPECT_EQ(refused({.qid = 2, .cntlid = 999}).status(), Status::connect_invalid_parameters);
  EXPECT_EQ(refused({.qid = 1, .cntlid = host.cntlid}).status(), Status::connect_invalid_parameters);
  EXPECT_EQ(refused({.qid = 2, .cntlid = host.cntlid, .host_id = 9}).cqe.cdw0, spec::connect_bad_field(0, true));
  EXPECT_EQ(refused({.qid = 1000, .cntlid = host.cntlid}).cqe.cdw0, spec::connect_bad_field(42, false));
  EXPECT_EQ(run(open_queue(), sqe(AdminOp::identify)).status(), Status::command_sequence_error);
  EXPECT_EQ(connect(*host.admin, {}).status(), Status::command_sequence_error);
  EXPECT_EQ(refused({.qid = 2, .cntlid = host.cntlid}).status(), Status::success);
}

TEST_F(Nvmf, PropertiesEnableShutDownAndReset) {
  const Pair host = connect_host();
  const auto cap = property(*host.admin, false, spec::Property::cap, 0, true);
  EXPECT_EQ(spec::Cap{cap.cqe.result()}.queue_entries_max(), 1024u);
  EXPECT_EQ(property(*host.admin, false, spec::Property::cap, 0, false).status(), Status::invalid_field);
  EXPECT_EQ(property(*host.admin, false, 0x1234, 0).status(), Status::invalid_field);
  EXPECT_EQ(property(*host.admin, false, spec::Property::csts, 0).cqe.cdw0, spec::kCstsReady);
  EXPECT_EQ(property(*host.admin, true, spec::Property::cc, 0).status(), Status::success);
  settle();
  EXPECT_EQ(property(*host.admin, false, spec::Property::csts, 0).cqe.cdw0, 0u);
  EXPECT_TRUE(host.io->disconnected()) << "a reset takes the I/O queues";
  EXPECT_EQ(run(*host.admin, sqe(AdminOp::identify), std::vector<uint8_t>(4096)).status(),
            Status::command_sequence_error);
}

TEST_F(Nvmf, IdentifyDescribesTheNamespace) {
  add_disk("disk", 3);
  const Pair host = connect_host();
  auto identify = [&](uint8_t cns, uint32_t nsid) {
    spec::Sqe command = sqe(AdminOp::identify, nsid);
    command.cdw10 = cns;
    return run(*host.admin, command, std::vector<uint8_t>(4096, 0xee));
  };
  const auto controller = load_le<spec::IdentifyController>(identify(spec::Cns::controller, 0).data.data());
  EXPECT_STREQ(controller.subsystem_nqn, kNqn);
  EXPECT_EQ(controller.ioccsz, 516u);
  EXPECT_EQ(controller.mdts, 8);
  EXPECT_EQ(controller.cntlid, host.cntlid);
  const auto ns = load_le<spec::IdentifyNamespace>(identify(spec::Cns::ns, 3).data.data());
  EXPECT_EQ(ns.size_blocks, kBlocks);
  EXPECT_EQ(ns.lba_format_table[0].data_size_log2, 9);
  EXPECT_EQ(load_le<uint32_t>(identify(spec::Cns::active_namespaces, 0).data.data()), 3u);
  EXPECT_EQ(load_le<uint32_t>(identify(spec::Cns::active_namespaces, 3).data.data()), 0u);
  EXPECT_EQ(identify(spec::Cns::ns, 99).status(), Status::invalid_namespace);
  EXPECT_EQ(identify(spec::Cns::ns_descriptors, 3).data[0], static_cast<uint8_t>(spec::NsDescriptorType::nguid));
  EXPECT_EQ(identify(0xff, 0).status(), Status::invalid_field);
}

TEST_F(Nvmf, IdentifyNamesWhatHoldsTheNamespacesUnflushedWrites) {
  add_disk("ram", 1);
  add_disk("file", 2).cache = Uuid::from_name("kept by the machine");
  const Pair host = connect_host();
  const auto cache_of = [&](uint32_t nsid) {
    spec::Sqe command = sqe(AdminOp::identify, nsid);
    command.cdw10 = spec::Cns::ns;
    const auto answer = run(*host.admin, command, std::vector<uint8_t>(4096, 0xee));
    return spec::instance_of(load_le<spec::IdentifyNamespace>(answer.data.data()));
  };
  EXPECT_EQ(cache_of(1), Uuid::from_random(1, 2)) << "the process";
  EXPECT_EQ(cache_of(2), Uuid::from_name("kept by the machine"));
}

TEST_F(Nvmf, KeepAliveThatStopsEndsTheController) {
  const Pair host = connect_host({.keep_alive_ms = 5000});
  for (int i = 0; i < 5; ++i) {
    clock.advance_ns(4'000'000'000);
    settle();
    ASSERT_EQ(run(*host.admin, sqe(AdminOp::keep_alive)).status(), Status::success);
  }
  clock.advance_ns(6'100'000'000);
  settle();
  EXPECT_TRUE(host.admin->disconnected());
  EXPECT_TRUE(host.io->disconnected());
  EXPECT_TRUE(subsystem->controllers().empty());
}

TEST_F(Nvmf, NamespaceChangesAreToldOnceUntilTheLogIsRead) {
  TestDisk& disk = add_disk("disk");
  const Pair host = connect_host();
  spec::Sqe config = sqe(AdminOp::set_features);
  config.cdw10 = spec::Feature::async_event_config;
  config.cdw11 = spec::kAsyncNamespaceAttribute;
  ASSERT_EQ(run(*host.admin, config).status(), Status::success);
  const spec::Sqe first = sqe(AdminOp::async_event);
  const spec::Sqe second = sqe(AdminOp::async_event);
  host.admin->submit(first);
  host.admin->submit(second);
  settle();
  EXPECT_EQ(host.admin->answers().size(), 0u);
  disk.set_size_blocks(kBlocks / 2);
  add_disk("other");
  settle();
  ASSERT_EQ(host.admin->answers().size(), 1u);
  EXPECT_EQ(host.admin->answers().begin()->second.cqe.cdw0,
            spec::async_event(spec::AsyncEventType::notice, spec::AsyncNotice::namespace_attribute,
                              spec::LogPage::changed_namespaces));
  host.admin->answers().clear();
  spec::Sqe log = sqe(AdminOp::get_log_page);
  spec::set_log_page(log, spec::LogPage::changed_namespaces, 4096, 0);
  const auto changed = run(*host.admin, log, std::vector<uint8_t>(4096));
  EXPECT_EQ(load_le<uint32_t>(changed.data.data()), 1u);
  EXPECT_EQ(load_le<uint32_t>(changed.data.data() + 4), 2u);
  spec::Sqe abort = sqe(AdminOp::abort);
  abort.cdw10 = spec::abort_target(0, second.cid);
  EXPECT_EQ(run(*host.admin, abort).cqe.cdw0, 0u);
  settle();
  EXPECT_EQ(host.admin->answers().find(second.cid)->second.status(), Status::aborted_by_request);
}

TEST_F(Nvmf, ARemovedHostIsGoneOnlyWhenItsLastRequestIs) {
  TestDisk& disk = add_disk("disk");
  subsystem->set_allow_any_host(false);
  ASSERT_TRUE(subsystem->add_host(kHost));
  const Pair host = connect_host();
  disk.hold = true;
  host.io->submit(rw(IoOp::write, 0, 1), std::vector<uint8_t>(kBlock, 1));
  settle();
  std::optional<bool> gone;
  reactor.post([&] {
    spawn<Result<void>>(subsystem->remove_host(kHost, 1'000'000'000), [&](Result<void> r) { gone = r.has_value(); });
  });
  settle();
  EXPECT_TRUE(host.admin->disconnected());
  EXPECT_FALSE(gone.has_value());
  clock.advance_ns(2'000'000'000);
  settle();
  EXPECT_EQ(gone, false) << "time is up and its write may still land: it is not cut off";
  reactor.post([&] { disk.release_held(); });
  settle();
  EXPECT_TRUE(subsystem->controllers().empty());
  EXPECT_EQ(connect(open_queue(), {}).status(), Status::connect_invalid_host);
}

TEST_F(Nvmf, ANamespaceIsRemovedWhenItsIoIsDoneAndItsDeviceIsFreeThen) {
  TestDisk& disk = add_disk("disk");
  const Pair host = connect_host();
  disk.hold = true;
  const spec::Sqe command = rw(IoOp::write, 0, 1);
  host.io->submit(command, std::vector<uint8_t>(kBlock, 1));
  settle();
  std::optional<bool> removed;
  reactor.post(
      [&] { spawn<Result<void>>(subsystem->remove_namespace(1), [&](Result<void> r) { removed = r.has_value(); }); });
  settle();
  EXPECT_FALSE(removed.has_value());
  EXPECT_EQ(run(*host.io, rw(IoOp::read, 0, 1), std::vector<uint8_t>(kBlock)).status(), Status::invalid_namespace);
  reactor.post([&] { disk.release_held(); });
  settle();
  EXPECT_EQ(removed, true);
  EXPECT_EQ(host.io->answers().find(command.cid)->second.status(), Status::success);
  EXPECT_TRUE(disk.claimed_by().empty());
}

TEST_F(Nvmf, DiscoveryShowsAHostWhatItMayUse) {
  subsystem->set_allow_any_host(false);
  const Pair stranger = connect_host({.nqn = spec::kDiscoveryNqn});
  auto records = [&] {
    spec::Sqe log = sqe(AdminOp::get_log_page);
    spec::set_log_page(log, spec::LogPage::discovery, 4096, 0);
    return run(*stranger.admin, log, std::vector<uint8_t>(4096)).data;
  };
  EXPECT_EQ(load_le<spec::DiscoveryHeader>(records().data()).records, 0u);
  ASSERT_TRUE(subsystem->add_host(kHost));
  const auto log = records();
  EXPECT_EQ(load_le<spec::DiscoveryHeader>(log.data()).records, 1u);
  const auto entry = load_le<spec::DiscoveryEntry>(log.data() + 1024);
  EXPECT_STREQ(entry.subsystem_nqn, kNqn);
  EXPECT_EQ(std::string(entry.service_id, 5), "4420 ");
  EXPECT_EQ(run(*stranger.admin, sqe(AdminOp::identify, 1), std::vector<uint8_t>(4096)).status(),
            Status::invalid_field);
}

TEST_F(Nvmf, RandomCommandsAreEachAnsweredOnceAndNothingBreaks) {
  const uint64_t seed = Random::from_system().next();
  SCOPED_TRACE("seed " + std::to_string(seed));
  random = Random(seed);
  add_disk("disk", 0, capable());
  const Pair host = connect_host();
  for (int i = 0; i < 3000 && !host.admin->disconnected(); ++i) {
    spec::Sqe command;
    for (size_t at = 0; at < sizeof command; at += 8)
      store_le(reinterpret_cast<uint8_t*>(&command) + at, random.chance(1, 3) ? random.next() : random.below(4));
    command.opcode = static_cast<uint8_t>(random.below(random.chance(1, 2) ? 0x20 : 0x100));
    command.flags = spec::kSqeSgl;
    command.cid = static_cast<uint16_t>(1000 + i);
    command.nsid = static_cast<uint32_t>(random.below(3));
    SimTargetQueue& queue = random.chance(1, 2) ? *host.admin : *host.io;
    const size_t sizes[] = {0, 4, 16, 512, 1024, 4096, 65536};
    queue.submit(command, std::vector<uint8_t>(sizes[random.below(7)]));
    for (int turn = 0; turn < 8; ++turn) reactor.turn();
    EXPECT_LE(queue.answers().count(command.cid), 1u);
  }
  settle();
  // What is still lent are event requests.
  EXPECT_LE(host.admin->lent(), Controller::kAsyncEventsMax);
  EXPECT_EQ(host.io->lent(), 0u);
}

TEST(Nqn, IsCheckedForItsForm) {
  EXPECT_TRUE(check_nqn("nqn.2016-06.io.spdk:cnode1"));
  EXPECT_TRUE(check_nqn("nqn.2014-08.org.nvmexpress:uuid:11111111-2222-3333-4444-555555555555"));
  EXPECT_TRUE(check_nqn(spec::kDiscoveryNqn));
  for (const char* bad :
       {"", "nqn", "iqn.2016-06.io.spdk:cnode1", "nqn.16-06.io.spdk:x", "nqn.2016-06io.spdk", "nqn.2016-06.io.spdk:\n"})
    EXPECT_FALSE(check_nqn(bad)) << bad;
  EXPECT_FALSE(check_nqn("nqn.2016-06.io.spdk:" + std::string(204, 'x')));
}

}  // namespace
}  // namespace diskengine::nvmf
