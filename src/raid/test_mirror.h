// What the tests of the mirror share: a request with its buffer, and a world of test disks with a manager on one
// reactor that is turned by hand.
#pragma once

#include <gtest/gtest.h>

#include "raid/manager.h"
#include "raid/mirror_channel.h"
#include "raid/rebuild.h"
#include "raid/test_disk.h"

namespace diskengine::raid {

struct Io : Request {
  Io(Op o, uint64_t at, uint64_t count, uint8_t fill = 0) : buffer(count * TestDisk::kBlockSize, fill) {
    piece = {buffer.data(), buffer.size()};
    op = o;
    lba = at;
    blocks = count;
    if (o == Op::read || o == Op::write || o == Op::compare) iov = {&piece, 1};
    done = [](Request& r) noexcept { static_cast<Io&>(r).completed = true; };
  }
  std::vector<uint8_t> buffer;
  iovec piece{};
  bool completed = false;
};

class MirrorTest : public testing::Test {
 protected:
  static constexpr uint64_t kBlocks = 4096;

  explicit MirrorTest(const std::vector<std::string>& names = {"a", "b", "c"}) {
    for (const std::string& name : names) add_disk(name);
  }
  ~MirrorTest() override {
    raid.reset();
    bool stopped = false;
    for (auto& disk : disks) disk->completes_at_once = true;
    drain();
    spawn(manager.stop(), [&] { stopped = true; });
    for (int i = 0; i < 1000 && !stopped; ++i) turn();
    EXPECT_TRUE(stopped);
    disks.clear();
  }

  std::shared_ptr<TestDisk> add_disk(const std::string& name, uint64_t blocks = kBlocks, bool capable = true,
                                     const std::vector<uint8_t>* content = nullptr) {
    auto disk = TestDisk::make(name, blocks, capable);
    disk->completes_at_once = true;
    if (content != nullptr) disk->bytes = *content;
    EXPECT_TRUE(registry.add(disk));
    disks.push_back(disk);
    for (int i = 0; i < 10; ++i) turn();  // examined
    return disk;
  }
  void turn() {
    clock.advance_ns(1'000'000);
    reactor.turn();
  }
  // Completes everything that is outstanding on the disks, second tries included.
  void drain() {
    for (int i = 0; i < 150; ++i) {
      for (auto& disk : disks) disk->complete_some(reactor, random, 1000);
      turn();
    }
  }
  Result<void> run(Task<Result<void>> task) {
    std::optional<Result<void>> result;
    spawn<Result<void>>(std::move(task), [&](Result<void> r) { result = std::move(r); });
    for (int i = 0; i < 10000 && !result; ++i) turn();
    EXPECT_TRUE(result.has_value());
    return result ? *result : Result<void>(Error(Errc::timed_out, "no answer"));
  }
  void create(bool superblock = false, std::vector<std::string> bases = {"a", "b"}) {
    const Result<void> made =
        run(manager.create({.name = "r", .uuid = {}, .base_bdevs = bases, .superblock = superblock}));
    ASSERT_TRUE(made) << made.error().message();
    device = registry.find("r").value().get();
    raid = device->open_channel(reactor).value();
  }
  IoCode submit(Io& io) {
    raid->submit(io);
    drain();
    EXPECT_TRUE(io.completed);
    return io.status.code;
  }
  RaidEvents::Batch events_after(uint64_t id) {
    RaidEvents::Batch batch;
    spawn<Result<RaidEvents::Batch>>(manager.events().wait(id, 0), [&](auto r) { batch = std::move(r).value(); });
    return batch;
  }
  Volume& volume() { return *manager.find("r"); }
  SlotRole role(unsigned slot) { return volume().slots()[slot]->role; }
  TestDisk& disk(unsigned i) { return *disks[i]; }

  ManualClock clock;
  Reactor reactor{{.clock = &clock, .use_ring = false}};
  DeviceRegistry registry{reactor};
  static inline Uuid machine = Uuid::from_name("a boot");
  RaidManager manager{registry, 1, machine};
  Random random{1};
  std::vector<std::shared_ptr<TestDisk>> disks;
  std::unique_ptr<Channel> raid;
  Device* device = nullptr;
};

}  // namespace diskengine::raid
