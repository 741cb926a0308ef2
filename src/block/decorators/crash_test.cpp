// The crash device records truly and within its bounds; the replay makes the states a power cut could leave, and no
// others; and the two together catch clients that are wrong, which is what they are for.
#include "block/decorators/crash.h"

#include <gtest/gtest.h>

#include <cerrno>
#include <cstring>
#include <map>
#include <set>

#include "base/crc32c.h"
#include "base/endian.h"
#include "block/decorators/crash_replay.h"

namespace diskengine {
namespace {

constexpr uint64_t kBlocks = 256;
using What = CrashRecording::What;

struct Io : Request {
  Io(Op o, uint64_t at, uint64_t count, uint8_t fill = 0) : payload(count * 512, fill) {
    op = o;
    lba = at;
    blocks = count;
    const size_t half = payload.size() / 2;
    pieces[0] = {payload.data(), half};
    pieces[1] = {payload.data() + half, payload.size() - half};
    if (op == Op::read || op == Op::write) iov = pieces;
    done = [](Request& r) noexcept { static_cast<Io&>(r).completed = true; };
  }
  std::vector<uint8_t> payload;
  iovec pieces[2];
  bool completed = false;
};

// A crash device over an image, polled by hand.
class CrashTest : public testing::Test {
 protected:
  void open(CrashImageDisk::Options disk = {.name = "base"}, CrashDisk::Options crash = {}) {
    base = CrashImageDisk::make(image, std::move(disk));
    ASSERT_TRUE(registry.add(base));
    crash.name = "crash";
    crash.base_name = "base";
    device = CrashDisk::create(registry, crash).value();
    channel = device->open_channel(reactor).value();
  }
  void turns(int count = 4) {
    for (int i = 0; i < count; ++i) {
      clock.advance_ns(20'000);
      reactor.turn();
    }
  }
  IoStatus run(Op op, uint64_t lba = 0, uint64_t blocks = 1, uint8_t fill = 0, bool fua = false) {
    Io io(op, lba, blocks, fill);
    io.fua = fua;
    channel->submit(io);
    for (int i = 0; i < 1000 && !io.completed; ++i) turns(1);
    EXPECT_TRUE(io.completed);
    return io.status;
  }
  Io& submit(Op op, uint64_t lba = 0, uint64_t blocks = 1, uint8_t fill = 0) {
    ios.push_back(std::make_unique<Io>(op, lba, blocks, fill));
    channel->submit(*ios.back());
    return *ios.back();
  }
  // Every content that the replay gives to the first `blocks` blocks, as the first bytes of each.
  std::set<std::vector<uint8_t>> contents(const CrashRecording& recording, uint64_t blocks,
                                          CrashReplay::Options options = {}) {
    CrashImage before{std::vector<uint8_t>(kBlocks * 512)};
    std::set<std::vector<uint8_t>> found;
    CrashReplay(recording, before, options).run([&](const CrashReplay::State&) {
      std::vector<uint8_t> now;
      for (uint64_t i = 0; i < blocks; ++i) now.push_back(before.bytes()[i * 512]);
      found.insert(now);
      return true;
    });
    return found;
  }

  ManualClock clock;
  Reactor reactor{{.clock = &clock, .use_ring = false}};
  DeviceRegistry registry{reactor};
  std::shared_ptr<CrashImage> image = std::make_shared<CrashImage>(std::vector<uint8_t>(kBlocks * 512));
  std::shared_ptr<CrashImageDisk> base;
  std::shared_ptr<CrashDisk> device;
  std::vector<std::unique_ptr<Io>> ios;
  std::unique_ptr<Channel> channel;
};

TEST_F(CrashTest, WhatChangesTheDiskIsRecordedWithItsPayloadAndOrder) {
  open();
  ASSERT_TRUE(device->start());
  EXPECT_TRUE(run(Op::write, 2, 2, 0xaa).ok());
  EXPECT_TRUE(run(Op::read, 2, 1).ok());
  EXPECT_EQ(device->mark(77).value(), 2u);
  Io& unmap = submit(Op::unmap, 8, 4);
  Io& flush = submit(Op::flush);
  turns();
  EXPECT_TRUE(unmap.completed && flush.completed);
  EXPECT_EQ(device->events(), 7u);
  const CrashRecording recording = device->stop().value();
  ASSERT_EQ(recording.operations.size(), 3u);
  const CrashRecording::Operation& write = recording.operations[0];
  EXPECT_TRUE(write.op == Op::write && write.ok && write.offset == 1024 && write.length == 1024);
  EXPECT_EQ(std::vector<uint8_t>(write.payload, write.payload + write.length), std::vector<uint8_t>(1024, 0xaa));
  EXPECT_EQ(write.submitted, 0u);
  EXPECT_EQ(write.completed, 1u);
  EXPECT_EQ(recording.events[2].value, 77u);
  EXPECT_EQ(recording.operations[1].op, Op::unmap);
  EXPECT_EQ(recording.operations[1].submitted, 3u);
  EXPECT_EQ(recording.operations[2].submitted, 4u);
  EXPECT_EQ(recording.refused, 0u);
  EXPECT_EQ(image->bytes()[1024], 0xaa) << "the base has it too";
}

TEST_F(CrashTest, OnlyWhatLiesBetweenStartAndStopIsRecorded) {
  open({.name = "base", .seed = 3});
  EXPECT_EQ(device->stop().error().code(), Errc::not_found);
  EXPECT_EQ(device->mark(1).error().code(), Errc::not_found);
  submit(Op::write, 0, 1, 1);
  EXPECT_EQ(device->start().error().code(), Errc::busy) << "it would miss the write in flight";
  turns(50);
  ASSERT_TRUE(device->start());
  EXPECT_EQ(device->start().error().code(), Errc::busy);
  Io& open_end = submit(Op::write, 1, 1, 1);
  const CrashRecording first = device->stop().value();
  ASSERT_EQ(first.operations.size(), 1u);
  EXPECT_EQ(first.operations[0].completed, CrashRecording::kNever);
  turns(50);
  EXPECT_TRUE(open_end.completed);
  ASSERT_TRUE(device->start());
  EXPECT_TRUE(device->recording());
  EXPECT_TRUE(device->stop().value().events.empty());
}

TEST_F(CrashTest, AFullRecordingRefusesWritesWithoutLettingThemThrough) {
  open({.name = "base"}, {.name = "crash", .base_name = "base", .payload_bytes = 4096, .operations = 10});
  ASSERT_TRUE(device->start());
  for (unsigned i = 0; i < 8; ++i) EXPECT_TRUE(run(Op::write, i, 1, 1).ok());
  const IoStatus refused = run(Op::write, 8, 1, 1);
  EXPECT_EQ(refused.code, IoCode::io_error);
  EXPECT_EQ(refused.os_errno, ENOMEM);
  EXPECT_EQ(image->bytes()[8 * 512], 0);
  EXPECT_TRUE(run(Op::flush).ok());
  EXPECT_TRUE(run(Op::flush).ok());
  EXPECT_EQ(run(Op::flush).os_errno, ENOMEM) << "ten operations are enough";
  EXPECT_TRUE(run(Op::read, 0, 1).ok());
  size_t marks = 0;
  while (device->mark(0)) ++marks;
  EXPECT_EQ(marks, 10u);
  EXPECT_EQ(device->stop().value().refused, 2u);
  EXPECT_TRUE(run(Op::write, 8, 1, 1).ok()) << "without a recording there is nothing to bound";
  EXPECT_EQ(CrashDisk::create(registry, {.name = "c", .base_name = "base", .operations = 0}).error().code(),
            Errc::invalid_argument);
  EXPECT_EQ(CrashDisk::create(registry, {.name = "c", .base_name = "base"}).error().code(), Errc::busy);
}

TEST_F(CrashTest, TheImageDiskCompletesOutOfOrderAndEverything) {
  open({.name = "base", .seed = 5});
  ASSERT_TRUE(device->start());
  for (unsigned i = 0; i < 64; ++i) submit(Op::write, i, 1, static_cast<uint8_t>(i + 1));
  turns(200);
  const CrashRecording recording = device->stop().value();
  bool out_of_order = false;
  for (size_t i = 0; i < 64; ++i) {
    ASSERT_TRUE(ios[i]->completed);
    EXPECT_EQ(image->bytes()[i * 512], i + 1);
    out_of_order |= i > 0 && recording.operations[i].completed < recording.operations[i - 1].completed;
  }
  EXPECT_TRUE(out_of_order);
}

TEST_F(CrashTest, AnUnflushedWriteIsThereOrNotOrTornAndAFlushedOneIsThere) {
  open();
  ASSERT_TRUE(device->start());
  run(Op::write, 0, 2, 1);
  run(Op::flush);
  run(Op::write, 1, 2, 2);
  const CrashRecording recording = device->stop().value();
  using Blocks = std::vector<uint8_t>;
  const std::set<Blocks> expected = {{0, 0, 0}, {1, 0, 0}, {0, 1, 0}, {1, 1, 0},  // before the flush
                                     {1, 2, 0}, {1, 1, 2}, {1, 2, 2}};            // after it
  EXPECT_EQ(contents(recording, 3), expected);
}

TEST_F(CrashTest, WithoutACacheWhatCompletedIsThere) {
  open();
  ASSERT_TRUE(device->start());
  run(Op::write, 0, 1, 1);
  run(Op::write, 1, 1, 2);
  const CrashRecording recording = device->stop().value();
  EXPECT_EQ(contents(recording, 2, {.write_cache = false}), (std::set<std::vector<uint8_t>>{{0, 0}, {1, 0}, {1, 2}}));
  EXPECT_EQ(contents(recording, 2), (std::set<std::vector<uint8_t>>{{0, 0}, {1, 0}, {0, 2}, {1, 2}}));
}

TEST_F(CrashTest, AWriteWithFuaIsThereAndWhatItReplacedDoesNotComeBack) {
  open();
  ASSERT_TRUE(device->start());
  run(Op::write, 0, 3, 1);
  run(Op::write, 1, 1, 2, true);
  run(Op::flush);
  const CrashRecording recording = device->stop().value();
  std::set<std::vector<uint8_t>> found = contents(recording, 3);
  EXPECT_TRUE(found.contains({0, 2, 0}));
  EXPECT_TRUE(found.contains({1, 2, 0}));
  EXPECT_TRUE(found.contains({1, 1, 1})) << "before the second write was durable";
  // Only the end, after the flush: the replaced sector must not have been replayed over the newer one.
  CrashImage before{std::vector<uint8_t>(kBlocks * 512)};
  CrashReplay(recording, before, {.states = 1}).run([](const CrashReplay::State&) { return true; });
  EXPECT_EQ(before.bytes()[0], 1);
  EXPECT_EQ(before.bytes()[512], 2);
  EXPECT_EQ(before.bytes()[1024], 1);
}

TEST_F(CrashTest, AFlushCoversOnlyWhatHadCompletedWhenItWasSubmitted) {
  open({.name = "base", .seed = 11});
  ASSERT_TRUE(device->start());
  // The write and the flush are in flight together: whichever completes first, the write is not durable.
  Io& write = submit(Op::write, 0, 1, 1);
  Io& flush = submit(Op::flush);
  turns(100);
  ASSERT_TRUE(write.completed && flush.completed);
  const size_t end = device->mark(0).value();
  const CrashRecording recording = device->stop().value();
  CrashImage before{std::vector<uint8_t>(kBlocks * 512)};
  std::set<uint8_t> at_end;
  CrashReplay(recording, before, {}).run([&](const CrashReplay::State& state) {
    if (state.cut > end) at_end.insert(before.bytes()[0]);
    return true;
  });
  EXPECT_EQ(at_end, (std::set<uint8_t>{0, 1}));
}

TEST_F(CrashTest, UnmapAndWriteZeroesLeaveZeroesOrWhatWasThereAndMayKeepIt) {
  open();
  ASSERT_TRUE(device->start());
  run(Op::write, 0, 8, 1);
  run(Op::flush);
  run(Op::unmap, 0, 4);
  run(Op::write_zeroes, 4, 4);
  run(Op::flush);
  const CrashRecording recording = device->stop().value();
  for (const bool keep : {false, true}) {
    CrashImage before{std::vector<uint8_t>(kBlocks * 512)};
    CrashReplay(recording, before, {.seed = 2, .states = 200, .unmap_may_keep = keep})
        .run([](const CrashReplay::State&) { return true; });
    unsigned kept = 0;
    for (unsigned i = 0; i < 4; ++i) kept += before.bytes()[i * 512];
    EXPECT_EQ(kept > 0, keep);
    for (unsigned i = 4; i < 8; ++i) EXPECT_EQ(before.bytes()[i * 512], 0);
  }
}

TEST_F(CrashTest, StatesAreManyDifferentAndCanBeReplayedByTheirName) {
  open({.name = "base", .seed = 7});
  ASSERT_TRUE(device->start());
  for (unsigned i = 0; i < 40; ++i) submit(Op::write, i * 4, 8, static_cast<uint8_t>(i + 1));
  turns(100);
  run(Op::flush);
  const CrashRecording recording = device->stop().value();
  CrashImage before{std::vector<uint8_t>(kBlocks * 512)};
  std::set<CrashReplay::State> names;
  std::map<uint32_t, CrashReplay::State> sums;
  const auto totals = CrashReplay(recording, before, {.states = 5000}).run([&](const CrashReplay::State& state) {
    names.insert(state);
    sums.emplace(crc32c(before.bytes().data(), before.size()), state);
    return true;
  });
  EXPECT_EQ(totals.states, 5000u);
  EXPECT_EQ(names.size(), 5000u);
  EXPECT_GT(sums.size(), 4000u) << "different choices of one cut are different disks";
  EXPECT_EQ(totals.flushes, 1u);
  EXPECT_GT(totals.cuts, 40u);
  unsigned replayed = 0;
  for (const auto& entry : sums) {
    if (++replayed > 50) break;
    CrashImage again{std::vector<uint8_t>(kBlocks * 512)};
    const auto only = CrashReplay::State::parse(entry.second.to_string()).value();
    CrashReplay(recording, again, {.only = only}).run([&](const CrashReplay::State& now) {
      EXPECT_EQ(now, entry.second);
      EXPECT_EQ(crc32c(again.bytes().data(), again.size()), entry.first);
      return true;
    });
  }
  for (const char* bad : {"", "12", "12:", ":3", "1:2:3", "a:1", "1:99999999999999999999999"})
    EXPECT_FALSE(CrashReplay::State::parse(bad)) << bad;
}

TEST_F(CrashTest, WhatACheckChangesIsUndone) {
  open();
  ASSERT_TRUE(device->start());
  for (unsigned i = 0; i < 20; ++i) run(Op::write, i, 1, 9);
  const CrashRecording recording = device->stop().value();
  CrashImage before{std::vector<uint8_t>(kBlocks * 512)};
  const std::vector<uint8_t> scribble(3000, 0x55);
  const auto totals = CrashReplay(recording, before, {.states = 300}).run([&](const CrashReplay::State&) {
    EXPECT_FALSE(std::any_of(before.bytes().begin(), before.bytes().end(), [](uint8_t b) { return b == 0x55; }));
    before.write(700, scribble.data(), scribble.size());
    before.write(kBlocks * 512 - 3000, scribble.data(), scribble.size());
    return true;
  });
  EXPECT_GE(totals.states, 300u);
}

// A toy that keeps one value: a slot of eight sectors for the data, chosen in turn, and a pointer sector that names the
// slot and the data's checksum. Some of its kinds are wrong.
class Toy {
 public:
  enum class Kind : uint8_t {
    right,
    pointer_before_data,   // in one epoch: the pointer may be durable and the data not
    acknowledges_early,    // before the last flush
    torn_pointer,          // a pointer of two sectors, of which one names the slot and the other the checksum
    reuses_the_live_slot,  // overwrites what the durable pointer still names
  };
  static constexpr uint64_t kSlotBlocks = 8;

  Toy(Kind kind, std::function<IoStatus(Op, uint64_t lba, const std::vector<uint8_t>&)> io)
      : kind_(kind), io_(std::move(io)) {}

  // Returns when the value would be acknowledged.
  void put(uint64_t value, const std::function<void()>& acknowledge) {
    std::vector<uint8_t> data(kSlotBlocks * 512);
    for (size_t at = 0; at < data.size(); at += 8) store_le(data.data() + at, value);
    if (kind_ != Kind::reuses_the_live_slot) slot_ = slot_ % 3 + 1;
    std::vector<uint8_t> pointer(kind_ == Kind::torn_pointer ? 1024 : 512);
    store_le(pointer.data(), slot_);
    store_le(pointer.data() + pointer.size() - 4, crc32c(data.data(), data.size()));
    EXPECT_TRUE(io_(Op::write, slot_ * kSlotBlocks, data).ok());
    if (kind_ != Kind::pointer_before_data) {
      EXPECT_TRUE(io_(Op::flush, 0, {}).ok());
    }
    EXPECT_TRUE(io_(Op::write, 0, pointer).ok());
    if (kind_ == Kind::acknowledges_early) acknowledge();
    EXPECT_TRUE(io_(Op::flush, 0, {}).ok());
    if (kind_ != Kind::acknowledges_early) acknowledge();
  }

  // The value the disk holds, if it is whole; 0 if none was ever stored.
  static std::optional<uint64_t> load(Kind kind, std::span<const uint8_t> disk) {
    const size_t pointer_bytes = kind == Kind::torn_pointer ? 1024 : 512;
    const auto slot = load_le<uint64_t>(disk.data());
    const auto sum = load_le<uint32_t>(disk.data() + pointer_bytes - 4);
    if (slot == 0) return sum == 0 ? std::optional<uint64_t>(0) : std::nullopt;
    if (slot > 3) return std::nullopt;
    const uint8_t* data = disk.data() + slot * kSlotBlocks * 512;
    if (crc32c(data, kSlotBlocks * 512) != sum) return std::nullopt;
    return load_le<uint64_t>(data);
  }

 private:
  Kind kind_;
  std::function<IoStatus(Op, uint64_t, const std::vector<uint8_t>&)> io_;
  uint64_t slot_ = 1;
};

class ToyTest : public CrashTest, public testing::WithParamInterface<Toy::Kind> {
 protected:
  // How many states of a toy that stored a few values break its promise.
  uint64_t broken_states(Toy::Kind kind) {
    open({.name = "base", .seed = 21});
    EXPECT_TRUE(device->start());
    Toy toy(kind, [this](Op op, uint64_t lba, const std::vector<uint8_t>& bytes) {
      Io io(op, lba, bytes.size() / 512);
      io.payload = bytes;
      io.pieces[0] = {io.payload.data(), io.payload.size()};
      io.iov = op == Op::write ? std::span<const iovec>(io.pieces, 1) : std::span<const iovec>();
      channel->submit(io);
      for (int i = 0; i < 1000 && !io.completed; ++i) turns(1);
      return io.status;
    });
    std::vector<size_t> acknowledged;  // the event after which value i + 1 was
    for (uint64_t value = 1; value <= 6; ++value)
      toy.put(value, [&] { acknowledged.push_back(device->mark(value).value()); });
    const CrashRecording recording = device->stop().value();
    CrashImage before{std::vector<uint8_t>(kBlocks * 512)};
    uint64_t broken = 0;
    states = CrashReplay(recording, before, {.states = 2000})
                 .run([&](const CrashReplay::State& state) {
                   const std::optional<uint64_t> value = Toy::load(kind, before.bytes());
                   uint64_t least = 0;
                   for (const size_t mark : acknowledged) least += mark < state.cut ? 1 : 0;
                   broken += !value.has_value() || *value < least || *value > least + 1 ? 1 : 0;
                   return true;
                 })
                 .states;
    return broken;
  }
  uint64_t states = 0;
};

TEST_F(ToyTest, ARightClientPassesInEveryState) {
  EXPECT_EQ(broken_states(Toy::Kind::right), 0u);
  EXPECT_GT(states, 1000u);
}

TEST_P(ToyTest, AWrongClientIsCaught) { EXPECT_GT(broken_states(GetParam()), 0u); }

INSTANTIATE_TEST_SUITE_P(Kinds, ToyTest,
                         testing::Values(Toy::Kind::pointer_before_data, Toy::Kind::acknowledges_early,
                                         Toy::Kind::torn_pointer, Toy::Kind::reuses_the_live_slot));

}  // namespace
}  // namespace diskengine
