// What a hostile or broken front end can send: each costs it its own connection or queue at most, leaks nothing, and
// the next front end is served.
#include <fcntl.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cstring>

#include "runtime/random.h"
#include "vhost_bed.h"

namespace diskengine::vhost {
namespace {

using client::VhostFrontend;
using client::VhostSocket;
using spec::VhostUserRequest;

constexpr int kTimeoutMs = 10'000;

struct VhostHostile : testing::Test {
  void SetUp() override {
    bed.add_disk(disk_info("disk"));
    ASSERT_TRUE(bed.create("vhost.0", "disk"));
    std::unique_ptr<VhostFrontend> warm_up = connect();
    warm_up.reset();
    ASSERT_TRUE(eventually([&] { return !bed.connected("vhost.0"); }));
  }
  std::unique_ptr<VhostFrontend> connect() {
    VhostFrontend::Options options;
    options.socket_path = bed.path("vhost.0");
    auto disk = VhostFrontend::connect(options);
    EXPECT_TRUE(disk) << disk.error().message();
    return disk ? std::move(*disk) : nullptr;
  }
  VhostSocket open() {
    auto socket = VhostSocket::connect(bed.path("vhost.0"), kTimeoutMs);
    DE_ASSERT(socket.has_value());
    return std::move(*socket);
  }
  // The next front end gets a disk that works.
  void expect_served() {
    ASSERT_TRUE(eventually([&] { return !bed.connected("vhost.0"); }));
    auto disk = connect();
    ASSERT_NE(disk, nullptr);
    const auto status = disk->run(0, {.data = disk->data(), .bytes = 4096});
    ASSERT_TRUE(status) << status.error().message();
    EXPECT_EQ(*status, spec::kVirtioBlkOk);
    disk.reset();
    ASSERT_TRUE(eventually([&] { return !bed.connected("vhost.0"); }));
  }
  static void expect_closed(VhostSocket& socket) {
    const auto reply = socket.receive();
    ASSERT_FALSE(reply);
    EXPECT_TRUE(reply.error().code() == Errc::unreachable) << reply.error().message();
  }

  Bed bed;
};

UniqueFd memory_file(size_t bytes) {
  UniqueFd fd(memfd_create("test", MFD_CLOEXEC));
  DE_ASSERT(ftruncate(fd.get(), static_cast<off_t>(bytes)) == 0);
  return fd;
}

TEST_F(VhostHostile, MessagesOfTheWrongShapeEndTheConnectionAndLeakNoDescriptor) {
  const UniqueFd fd = memory_file(1 << 20);
  const size_t before = open_descriptors();
  struct Case {
    const char* what;
    uint32_t request, flags, size;
    size_t sent;
    unsigned fds;
  };
  const Case cases[] = {
      {"version 0", 1, 0, 0, 0, 0},
      {"a reply", 1, 5, 0, 0, 0},
      {"payload too short", 2, 1, 4, 4, 0},
      {"payload too long", 2, 1, 16, 16, 0},
      {"payload of 4 GiB", 5, 1, UINT32_MAX, 100, 1},
      {"descriptors nobody asked for", 3, 1, 0, 0, 3},
      {"a memory table without its descriptors", 5, 1, 8 + 32, 8 + 32, 0},
      {"a memory table with too many", 5, 1, 8 + 32, 8 + 32, 8},
      {"more than 8 descriptors", 5, 1, 8 + 32, 8 + 32, 9},
      {"a kick without its descriptor", 12, 1, 8, 8, 0},
      {"a kick with two", 12, 1, 8, 8, 2},
      {"an unknown type", 4711, 1, 0, 0, 1},
      {"cut off in the header", 1, 1, 0, SIZE_MAX, 0},
  };
  for (const Case& c : cases) {
    SCOPED_TRACE(c.what);
    VhostSocket socket = open();
    const spec::VhostUserHeader header{c.request, c.flags, c.size};
    std::vector<uint8_t> bytes(sizeof header + (c.sent == SIZE_MAX ? 0 : c.sent));
    std::memcpy(bytes.data(), &header, sizeof header);
    if (c.request == 5 && bytes.size() > 12) bytes[12] = 1;  // one region
    const std::vector<int> fds(c.fds, fd.get());
    ASSERT_TRUE(socket.send_raw(bytes.data(), c.sent == SIZE_MAX ? 5 : bytes.size(), fds));
    if (c.sent != SIZE_MAX) expect_closed(socket);
    socket.close();
    ASSERT_TRUE(eventually([&] { return !bed.connected("vhost.0"); }));
    EXPECT_TRUE(eventually([&] { return open_descriptors() == before; })) << open_descriptors() << " not " << before;
  }
  expect_served();
}

TEST_F(VhostHostile, MemoryTablesThatLieAreRefused) {
  const UniqueFd fd = memory_file(1 << 20);
  const UniqueFd event(eventfd(0, EFD_CLOEXEC));
  struct Case {
    const char* what;
    std::vector<spec::VhostUserRegion> regions;
    int fd;
  };
  const Case cases[] = {
      {"no region", {}, fd.get()},
      {"past the end of its file", {{0, 2 << 20, 0x10000, 0}}, fd.get()},
      {"an offset past the end", {{0, 4096, 0x10000, 2 << 20}}, fd.get()},
      {"an offset that wraps", {{0, 8192, 0x10000, UINT64_MAX - 4095}}, fd.get()},
      {"empty", {{0, 0, 0x10000, 0}}, fd.get()},
      {"guest addresses that wrap", {{UINT64_MAX - 4095, 8192, 0x10000, 0}}, fd.get()},
      {"overlapping guest addresses", {{0, 8192, 0x10000, 0}, {4096, 8192, 0x20000, 0}}, fd.get()},
      {"overlapping user addresses", {{0, 8192, 0x10000, 0}, {0x100000, 8192, 0x11000, 0}}, fd.get()},
      {"not a file", {{0, 4096, 0x10000, 0}}, event.get()},
  };
  const size_t before = open_descriptors();
  for (const Case& c : cases) {
    SCOPED_TRACE(c.what);
    VhostSocket socket = open();
    ASSERT_TRUE(socket.send_u64(VhostUserRequest::set_protocol_features, 1 << spec::kVhostUserPReplyAck));
    spec::VhostUserMemory table{};
    table.regions = static_cast<uint32_t>(c.regions.size());
    std::copy(c.regions.begin(), c.regions.end(), table.region);
    const size_t bytes = 8 + c.regions.size() * sizeof table.region[0];
    const auto answer = socket.send_acknowledged(VhostUserRequest::set_mem_table, &table, bytes,
                                                 std::vector<int>(c.regions.size(), c.fd));
    ASSERT_FALSE(answer);
    EXPECT_EQ(answer.error().code(), Errc::invalid_argument) << answer.error().message();
    EXPECT_TRUE(socket.ask_u64(VhostUserRequest::get_features)) << "the connection lives on";
    socket.close();
    ASSERT_TRUE(eventually([&] { return !bed.connected("vhost.0"); }));
  }
  EXPECT_TRUE(eventually([&] { return open_descriptors() == before; }));
  expect_served();
}

TEST_F(VhostHostile, RingsThatLieAreRefused) {
  auto disk = connect();
  VhostSocket& socket = disk->socket();
  const auto refused = [&socket](VhostUserRequest request, auto payload, const std::vector<int>& fds = {}) {
    const auto answer = socket.send_acknowledged(request, &payload, sizeof payload, fds);
    return !answer && answer.error().code() == Errc::invalid_argument;
  };
  using State = spec::VhostUserVringState;
  EXPECT_TRUE(refused(VhostUserRequest::set_vring_num, State{64, 128})) << "no such queue";
  EXPECT_TRUE(refused(VhostUserRequest::set_vring_num, State{1, 100}));
  EXPECT_TRUE(refused(VhostUserRequest::set_vring_num, State{1, 2048}));
  EXPECT_TRUE(refused(VhostUserRequest::set_vring_num, State{1, 0}));
  EXPECT_TRUE(refused(VhostUserRequest::set_vring_num, State{0, 64})) << "it runs";
  EXPECT_TRUE(refused(VhostUserRequest::set_vring_base, State{1, 0x10000}));
  EXPECT_TRUE(refused(VhostUserRequest::set_vring_enable, State{1, 2}));
  EXPECT_TRUE(refused(VhostUserRequest::set_vring_enable, State{UINT32_MAX, 1}));
  EXPECT_TRUE(refused(VhostUserRequest::set_vring_addr, spec::VhostUserVringAddr{0, 0, 16, 32, 64, 0})) << "it runs";
  EXPECT_TRUE(refused(VhostUserRequest::set_vring_addr, spec::VhostUserVringAddr{1, 1, 0, 0, 0, 0})) << "dirty log";
  EXPECT_TRUE(refused(VhostUserRequest::set_vring_kick, uint64_t{1}, {disk->memory_fd()})) << "not an eventfd";
  EXPECT_TRUE(refused(VhostUserRequest::set_vring_call, uint64_t{0}, {socket.fd()})) << "not an eventfd";
  EXPECT_TRUE(refused(VhostUserRequest::set_log_base, uint64_t{0})) << "dirty log";
  EXPECT_TRUE(disk->run(0, {.data = disk->data(), .bytes = 512})) << "the queue that ran still does";
  disk.reset();
  expect_served();
}

TEST_F(VhostHostile, ARingOutsideGuestMemoryDoesNotStart) {
  auto disk = connect();
  ASSERT_TRUE(disk->stop());
  const auto inside = reinterpret_cast<uint64_t>(disk->memory());
  for (const uint64_t used :
       {uint64_t{0}, inside - 4096, inside + disk->memory_bytes() - 8, inside + 2, UINT64_MAX - 3}) {
    const spec::VhostUserVringAddr address{0, 0, inside, used, inside + 0x1000, 0};
    ASSERT_TRUE(disk->socket().send_acknowledged(VhostUserRequest::set_vring_addr, &address, sizeof address));
    const uint64_t queue = 0;
    EXPECT_FALSE(disk->socket().send_acknowledged(VhostUserRequest::set_vring_kick, &queue, sizeof queue,
                                                  {disk->queue(0).kick_fd()}))
        << std::hex << used;
  }
  disk.reset();
  expect_served();
}

TEST_F(VhostHostile, InFlightBuffersThatLieAreRefused) {
  auto disk = connect();
  ASSERT_TRUE(disk->stop());
  const UniqueFd fd = memory_file(4096);
  const auto refused = [&](spec::VhostUserInflight buffer) {
    return !disk->socket().send_acknowledged(VhostUserRequest::set_inflight_fd, &buffer, sizeof buffer, {fd.get()});
  };
  EXPECT_TRUE(refused({4096, 0, 0, 128, 0}));
  EXPECT_TRUE(refused({4096, 0, 65, 128, 0}));
  EXPECT_TRUE(refused({4096, 0, 1, 100, 0}));
  EXPECT_TRUE(refused({4096, 0, 2, 128, 0})) << "too small for two queues";
  EXPECT_TRUE(refused({uint64_t{1} << 40, 0, 2, 1024, 0})) << "longer than its file";
  EXPECT_TRUE(refused({4096, 8, 1, 128, 0})) << "unaligned";
  EXPECT_TRUE(refused({4096, UINT64_MAX - 63, 1, 128, 0}));
  EXPECT_FALSE(refused({4096, 0, 1, 128, 0}));
  disk.reset();
  expect_served();
}

TEST_F(VhostHostile, AJumpOfTheAvailableIndexStopsThatQueueOnly) {
  auto disk = connect();
  uint16_t* index = reinterpret_cast<uint16_t*>(disk->queue(0).avail() + 2);
  __atomic_store_n(index, 5000, __ATOMIC_SEQ_CST);
  const uint64_t one = 1;
  ASSERT_EQ(write(disk->queue(0).kick_fd(), &one, sizeof one), 8);
  EXPECT_TRUE(eventually([&] { return bed.queues("vhost.0")[0].broken; }));
  disk.reset();
  expect_served();
}

TEST_F(VhostHostile, RingsFullOfNonsenseAreSurvived) {
  const uint64_t seed = Random::from_system().next();
  SCOPED_TRACE(testing::Message() << "seed " << seed);
  Random random(seed);
  for (int round = 0; round < 20; ++round) {
    auto disk = connect();
    ASSERT_NE(disk, nullptr);
    auto& queue = disk->queue(0);
    uint64_t* words = reinterpret_cast<uint64_t*>(queue.desc());
    for (size_t i = 0; i < spec::vring_desc_bytes(queue.size()) / 8; i += 2) {
      words[i] = VhostFrontend::kGuestAddress + random.below(disk->memory_bytes() + 4096);
      words[i + 1] = random.below(8192) | random.below(8) << 32 | random.below(queue.size()) << 48;
    }
    for (uint16_t i = 0; i < queue.size(); ++i)
      reinterpret_cast<uint16_t*>(queue.avail())[2 + i] =
          static_cast<uint16_t>(random.chance(1, 50) ? random.next() : i);
    __atomic_store_n(reinterpret_cast<uint16_t*>(queue.avail() + 2), queue.size(), __ATOMIC_SEQ_CST);
    const uint64_t one = 1;
    ASSERT_EQ(write(queue.kick_fd(), &one, sizeof one), 8);
    std::this_thread::sleep_for(std::chrono::milliseconds(2));
  }
  expect_served();
}

TEST_F(VhostHostile, AFrontEndThatShrinksItsMemoryEndsOnlyItsOwnConnection) {
  bed.add_disk(disk_info("other"));
  ASSERT_TRUE(bed.create("vhost.1", "other"));
  VhostFrontend::Options options;
  options.socket_path = bed.path("vhost.1");
  auto other = VhostFrontend::connect(options);
  ASSERT_TRUE(other);
  auto disk = connect();
  disk->queue(0).submit({.data = disk->data(), .bytes = 1 << 20});
  disk->queue(0).kick();
  ASSERT_EQ(ftruncate(disk->memory_fd(), 0), 0);
  // Whatever it touches next is not there any more; a kick makes it look.
  const uint64_t one = 1;
  ASSERT_EQ(write(disk->queue(0).kick_fd(), &one, sizeof one), 8);
  EXPECT_TRUE(eventually([&] { return !bed.connected("vhost.0"); }));
  const auto status = (*other)->run(0, {.data = (*other)->data(), .bytes = 4096});
  ASSERT_TRUE(status) << status.error().message();
  EXPECT_EQ(*status, spec::kVirtioBlkOk);
  disk.reset();
  expect_served();
}

TEST_F(VhostHostile, AMemoryTableMayChangeUnderRunningQueues) {
  auto disk = connect();
  spec::VhostUserMemory table{};
  table.regions = 1;
  table.region[0] = {VhostFrontend::kGuestAddress, disk->memory_bytes(), reinterpret_cast<uint64_t>(disk->memory()), 0};
  const size_t bytes = 8 + sizeof table.region[0];
  for (int round = 0; round < 20; ++round) {
    for (uint32_t i = 0; i < 32; ++i) disk->queue(0).submit({.data = disk->data() + i * 4096, .bytes = 4096, .tag = i});
    disk->queue(0).kick();
    ASSERT_TRUE(disk->socket().send_acknowledged(VhostUserRequest::set_mem_table, &table, bytes, {disk->memory_fd()}));
    client::VhostCompletion done[32];
    while (disk->queue(0).outstanding() > 0) {
      ASSERT_TRUE(disk->queue(0).wait(kTimeoutMs));
      const unsigned count = disk->queue(0).reap(done);
      for (unsigned i = 0; i < count; ++i) EXPECT_EQ(done[i].status, spec::kVirtioBlkOk);
    }
  }
  const UniqueFd extra = memory_file(1 << 20);
  const spec::VhostUserSingleRegion region{0, {0x1000, 1 << 20, 0x1000, 0}};
  EXPECT_TRUE(disk->socket().send_acknowledged(VhostUserRequest::add_mem_reg, &region, sizeof region, {extra.get()}));
  EXPECT_FALSE(disk->socket().send_acknowledged(VhostUserRequest::add_mem_reg, &region, sizeof region, {extra.get()}))
      << "it overlaps itself";
  EXPECT_TRUE(disk->socket().send_acknowledged(VhostUserRequest::rem_mem_reg, &region, sizeof region));
  EXPECT_FALSE(disk->socket().send_acknowledged(VhostUserRequest::rem_mem_reg, &region, sizeof region)) << "it is gone";
  // Without the memory its ring is in, a queue stops.
  const spec::VhostUserSingleRegion all{0, table.region[0]};
  EXPECT_FALSE(disk->socket().send_acknowledged(VhostUserRequest::rem_mem_reg, &all, sizeof all));
  EXPECT_TRUE(bed.queues("vhost.0")[0].broken);
  disk.reset();
  expect_served();
}

}  // namespace
}  // namespace diskengine::vhost
