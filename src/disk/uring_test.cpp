#include "disk/uring.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <gtest/gtest.h>
#include <sys/file.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdlib>
#include <cstring>
#include <fstream>
#include <list>
#include <optional>

#include "runtime/random.h"

namespace diskengine {
namespace {

constexpr uint64_t kFileBytes = 4 * 1024 * 1024;

// A file that is gone after the test.
class ScratchFile {
 public:
  explicit ScratchFile(uint64_t bytes, const std::string& folder = "/tmp") : path_(folder + "/diskengine-XXXXXX") {
    fd_ = mkstemp(path_.data());
    EXPECT_GE(fd_, 0);
    resize(bytes);
  }
  ~ScratchFile() {
    close(fd_);
    unlink(path_.c_str());
  }
  void resize(uint64_t bytes) { EXPECT_EQ(ftruncate(fd_, static_cast<off_t>(bytes)), 0); }
  // What another process would read.
  std::vector<uint8_t> bytes() const {
    std::ifstream file(path_, std::ios::binary);
    return {std::istreambuf_iterator<char>(file), {}};
  }
  const std::string& path() const { return path_; }
  int fd() const { return fd_; }

 private:
  std::string path_;
  int fd_ = -1;
};

struct Io : Request {
  Io(Op o, uint64_t at, uint64_t count) {
    op = o;
    lba = at;
    blocks = count;
    done = [](Request& r) noexcept { static_cast<Io&>(r).completed = true; };
  }
  // A payload of `bytes`, cut into pieces of odd sizes at odd addresses if `rough`.
  void make_payload(size_t bytes, bool rough, Random& random) {
    memory = std::make_unique<uint8_t[]>(bytes + 8192);
    auto* at = memory.get();
    at += (4096 - reinterpret_cast<uintptr_t>(at) % 4096) + (rough ? random.below(64) : 0);
    payload = {at, bytes};
    while (bytes > 0) {
      const size_t part = rough ? std::min<size_t>(bytes, 1 + random.below(20'000)) : bytes;
      pieces.push_back({at, part});
      at += part;
      bytes -= part;
    }
    iov = pieces;
  }
  std::unique_ptr<uint8_t[]> memory;
  std::span<uint8_t> payload;
  std::vector<iovec> pieces;
  bool completed = false;
};

class UringDiskTest : public testing::Test {
 protected:
  void open(const std::string& path, uint32_t block_size = 512) {
    Result<std::shared_ptr<UringDisk>> made =
        UringDisk::create({.name = "disk", .path = path, .block_size = block_size});
    ASSERT_TRUE(made) << made.error().message();
    disk = *made;
    channel = disk->open_channel(reactor).value();
  }
  void open_scratch(uint32_t block_size = 512, uint64_t bytes = kFileBytes) {
    file = std::make_unique<ScratchFile>(bytes);
    open(file->path(), block_size);
  }
  IoCode run(Io& io) {
    channel->submit(io);
    EXPECT_FALSE(io.completed);
    EXPECT_TRUE(reactor.run_until([&] { return io.completed; }));
    return io.status.code;
  }
  IoCode run(Op op, uint64_t lba = 0, uint64_t blocks = 0) {
    Io io(op, lba, blocks);
    return run(io);
  }
  IoCode write(uint64_t lba, uint64_t blocks, uint8_t value, bool rough = false, bool fua = false) {
    Io io(Op::write, lba, blocks);
    io.fua = fua;
    io.make_payload(blocks * disk->info().block_size, rough, random);
    std::memset(io.payload.data(), value, io.payload.size());
    return run(io);
  }
  std::string refusal(const std::string& path, uint32_t block_size = 512) {
    Result<std::shared_ptr<UringDisk>> made =
        UringDisk::create({.name = "disk", .path = path, .block_size = block_size});
    EXPECT_FALSE(made);
    return made ? "" : made.error().message();
  }

  Reactor reactor{{}};
  Random random{7};
  std::unique_ptr<ScratchFile> file;
  std::shared_ptr<UringDisk> disk;
  std::unique_ptr<Channel> channel;
};

TEST_F(UringDiskTest, WhatWasWrittenAndFlushedIsInTheFileForAnotherReader) {
  open_scratch();
  EXPECT_TRUE(disk->info().write_cache);
  EXPECT_EQ(write(3, 8, 0xAB), IoCode::ok);
  EXPECT_EQ(run(Op::flush), IoCode::ok);
  EXPECT_EQ(write(20, 1, 0xCD, false, true), IoCode::ok);
  const std::vector<uint8_t> bytes = file->bytes();
  for (size_t i = 0; i < bytes.size(); ++i)
    ASSERT_EQ(bytes[i], i / 512 >= 3 && i / 512 < 11 ? 0xAB : i / 512 == 20 ? 0xCD : 0) << "at byte " << i;
}

// Reads, writes, zeroes, holes and comparisons at once, never two over the same blocks; a copy in memory is the judge.
class UringDiskRandomly : public UringDiskTest, public testing::WithParamInterface<std::pair<const char*, uint32_t>> {
 protected:
  Io& submit_one() {
    const uint32_t block_size = disk->info().block_size;
    const uint64_t slot_blocks = 512 * 1024 / block_size;
    const Op ops[] = {Op::read, Op::write, Op::write, Op::write_zeroes, Op::unmap, Op::compare};
    Op op = ops[random.below(std::size(ops))];
    const uint64_t lba = next_slot_++ * slot_blocks + random.below(slot_blocks / 2);
    Io& io = ios.emplace_back(op, lba, 1 + random.below(slot_blocks / 2));
    io.fua = random.chance(1, 4);
    io.may_unmap = random.chance(1, 2);
    uint8_t* model_at = model.data() + lba * block_size;
    const size_t bytes = io.blocks * block_size;
    if (op == Op::read || op == Op::write || op == Op::compare) io.make_payload(bytes, random.chance(2, 3), random);
    if (op == Op::write) {
      for (uint8_t& byte : io.payload) byte = static_cast<uint8_t>(random.next());
      std::memcpy(model_at, io.payload.data(), bytes);
    }
    if (op == Op::compare) std::memcpy(io.payload.data(), model_at, bytes);
    if (op == Op::write_zeroes || op == Op::unmap) std::memset(model_at, 0, bytes);
    channel->submit(io);
    return io;
  }
  void settle() {
    ASSERT_TRUE(reactor.run_until([&] { return channel->outstanding() == 0; }));
    for (Io& io : ios) {
      ASSERT_TRUE(io.completed);
      ASSERT_EQ(io.status.code, IoCode::ok) << name_of(io.op) << " at " << io.lba << ": " << io.status.os_errno;
      if (io.op == Op::read) {
        ASSERT_EQ(std::memcmp(io.payload.data(), model.data() + io.lba * disk->info().block_size, io.payload.size()),
                  0);
      }
    }
    ios.clear();
    next_slot_ = 0;
  }
  std::vector<uint8_t> model;
  std::list<Io> ios;
  uint64_t next_slot_ = 0;
};

TEST_P(UringDiskRandomly, KeepsWhatWasWrittenWhateverTheBuffersLookLike) {
  constexpr uint64_t kSlots = 32, kRounds = 12;
  const auto [folder, block_size] = GetParam();
  file = std::make_unique<ScratchFile>(kSlots * 512 * 1024, folder);
  open(file->path(), block_size);
  model.assign(kSlots * 512 * 1024, 0);
  const uint64_t seed = Random::from_system().next();
  SCOPED_TRACE(fmt::format("seed {}", seed));
  random = Random(seed);
  for (uint64_t round = 0; round < kRounds; ++round) {
    for (uint64_t i = 0; i < kSlots; ++i) submit_one();
    settle();
    if (HasFatalFailure()) return;
  }
  ASSERT_EQ(run(Op::flush), IoCode::ok);
  ASSERT_EQ(file->bytes(), model);
}

INSTANTIATE_TEST_SUITE_P(, UringDiskRandomly,
                         testing::Values(std::pair("/tmp", 512u), std::pair("/tmp", 4096u), std::pair("/dev/shm", 512u),
                                         std::pair("/dev/shm", 4096u)));

TEST_F(UringDiskTest, MoreRequestsThanTheQueueHoldsWaitInOrderAndAllComplete) {
  open_scratch(512, 16 * 1024 * 1024);
  std::list<Io> ios;
  for (uint64_t i = 0; i < 4 * UringDisk::kInFlightMax; ++i) {
    Io& io = ios.emplace_back(i % 5 == 0 ? Op::flush : Op::write, i * 4, 4);
    io.make_payload(2048, i % 2 == 0, random);
    channel->submit(io);
  }
  ASSERT_TRUE(reactor.run_until([&] { return channel->outstanding() == 0; }));
  for (Io& io : ios) EXPECT_TRUE(io.completed && io.status.ok());
}

TEST_F(UringDiskTest, MorePiecesThanOneSystemCallTakesStillArrive) {
  open_scratch();
  Io io(Op::write, 0, 3000);
  io.make_payload(3000 * 512, false, random);
  for (uint8_t& byte : io.payload) byte = static_cast<uint8_t>(random.next());
  io.pieces.clear();
  for (uint64_t i = 0; i < 3000; ++i) io.pieces.push_back({io.payload.data() + i * 512, 512});
  io.iov = io.pieces;
  EXPECT_EQ(run(io), IoCode::ok);
  EXPECT_EQ(std::memcmp(file->bytes().data(), io.payload.data(), io.payload.size()), 0);
}

TEST_F(UringDiskTest, CompareTellsADifference) {
  open_scratch();
  ASSERT_EQ(write(0, 8, 1), IoCode::ok);
  Io io(Op::compare, 0, 8);
  io.make_payload(4096, false, random);
  std::memset(io.payload.data(), 1, 4096);
  EXPECT_EQ(run(io), IoCode::ok);
  io.completed = false;
  io.payload[4095] = 2;
  EXPECT_EQ(run(io), IoCode::miscompare);
}

TEST_F(UringDiskTest, UnmapGivesTheFilesBlocksBack) {
  open_scratch();
  ASSERT_EQ(write(0, kFileBytes / 512, 1), IoCode::ok);
  ASSERT_EQ(run(Op::flush), IoCode::ok);
  const auto allocated = [&] {
    struct stat st {};
    EXPECT_EQ(fstat(file->fd(), &st), 0);
    return static_cast<uint64_t>(st.st_blocks) * 512;
  };
  EXPECT_GE(allocated(), kFileBytes);
  ASSERT_EQ(run(Op::unmap, 0, kFileBytes / 512), IoCode::ok);
  EXPECT_LT(allocated(), kFileBytes / 4);
}

TEST_F(UringDiskTest, AFileCutShortUnderTheDiskFailsItsReadsAndNothingHangs) {
  open_scratch();
  file->resize(4096);
  Io io(Op::read, 4096, 8);
  io.make_payload(4096, false, random);
  EXPECT_EQ(run(io), IoCode::io_error);
  Io across(Op::read, 0, 16);
  across.make_payload(8192, true, random);
  EXPECT_EQ(run(across), IoCode::io_error);
}

TEST_F(UringDiskTest, ADiskHeldByAnotherProcessIsRefusedAndTheHolderIsNamed) {
  ScratchFile scratch(kFileBytes);
  ASSERT_EQ(flock(scratch.fd(), LOCK_EX | LOCK_NB), 0);
  const std::string message = refusal(scratch.path());
  EXPECT_NE(message.find(fmt::format("process {}", getpid())), std::string::npos) << message;
  ASSERT_EQ(flock(scratch.fd(), LOCK_UN), 0);
  open(scratch.path());
  EXPECT_NE(refusal(scratch.path()).find("is held by"), std::string::npos);
}

TEST_F(UringDiskTest, ADiskWhoseHolderWasKilledIsWaitedForUntilTheKernelLetsGo) {
  // The lock of a process that has ended, kept by our copy of its descriptor, as the kernel keeps it for I/O in flight.
  ScratchFile scratch(kFileBytes);
  const pid_t child = fork();
  if (child == 0) _exit(flock(scratch.fd(), LOCK_EX | LOCK_NB) == 0 ? 0 : 1);
  int status = -1;
  ASSERT_EQ(waitpid(child, &status, 0), child);
  ASSERT_EQ(status, 0);
  EXPECT_NE(refusal(scratch.path()).find("was just killed"), std::string::npos);
  std::optional<Result<std::shared_ptr<UringDisk>>> opened;
  Timer let_go([&] { EXPECT_EQ(flock(scratch.fd(), LOCK_UN), 0); });
  reactor.post([&] {
    let_go.arm(reactor, 100'000'000);
    spawn<Result<std::shared_ptr<UringDisk>>>(
        UringDisk::create_when_let_go(reactor, {.name = "disk", .path = scratch.path()}),
        [&](Result<std::shared_ptr<UringDisk>> result) { opened = std::move(result); });
  });
  ASSERT_TRUE(reactor.run_until([&] { return opened.has_value(); }));
  EXPECT_TRUE(*opened) << opened->error().message();
  EXPECT_FALSE(let_go.armed());
}

TEST_F(UringDiskTest, WhatCannotBeADiskIsRefusedWithItsReason) {
  EXPECT_NE(refusal("/tmp/no-such-diskengine-file").find("No such file"), std::string::npos);
  EXPECT_NE(refusal("/tmp").find("is a directory"), std::string::npos);
  EXPECT_NE(refusal("/dev/null").find("special file"), std::string::npos);
  ScratchFile empty(0), odd(1000);
  EXPECT_NE(refusal(empty.path()).find("less than one block"), std::string::npos);
  EXPECT_NE(refusal(odd.path()).find("not a multiple"), std::string::npos);
  EXPECT_NE(refusal(odd.path(), 1024).find("not 512 or 4096"), std::string::npos);
}

TEST_F(UringDiskTest, ARescanTakesOverTheNewSize) {
  open_scratch();
  file->resize(2 * kFileBytes);
  ASSERT_EQ(run(Op::unmap, kFileBytes / 512, 8), IoCode::invalid);
  ASSERT_TRUE(disk->rescan());
  EXPECT_EQ(disk->size_blocks(), 2 * kFileBytes / 512);
  EXPECT_EQ(write(kFileBytes / 512, 8, 1), IoCode::ok);
  ASSERT_TRUE(disk->claim("raid_1"));
  file->resize(kFileBytes);
  EXPECT_EQ(disk->rescan().error().code(), Errc::busy);
  disk->release();
  EXPECT_TRUE(disk->rescan());
}

TEST_F(UringDiskTest, ItsCacheIsTheMachinesSoTheNextProcessFindsTheSameOneAndAnotherFileHasAnother) {
  open_scratch();
  const Uuid cache = disk->cache_instance();
  EXPECT_FALSE(cache.is_nil());
  const auto let_go = [&] {
    channel.reset();
    disk.reset();
  };
  let_go();
  open(file->path());
  EXPECT_EQ(disk->cache_instance(), cache) << "as opened by another process";
  let_go();
  file.reset();
  open_scratch();
  EXPECT_NE(disk->cache_instance(), cache) << "a file that may have got the number of the former one";
  let_go();
  disk = UringDisk::create({.name = "disk", .path = file->path(), .read_only = true}).value();
  EXPECT_EQ(disk->cache_instance(), kNothingCached);
}

TEST_F(UringDiskTest, AReadOnlyDiskIsNotWritten) {
  ScratchFile scratch(kFileBytes);
  disk = UringDisk::create({.name = "disk", .path = scratch.path(), .read_only = true}).value();
  channel = disk->open_channel(reactor).value();
  EXPECT_EQ(write(0, 1, 1), IoCode::read_only);
  Io io(Op::read, 0, 1);
  io.make_payload(512, false, random);
  EXPECT_EQ(run(io), IoCode::ok);
}

TEST_F(UringDiskTest, ABlockDeviceKeepsDataZeroesDiscardsAndIsHeldExclusively) {
  ScratchFile scratch(kFileBytes);
  const auto shell = [](const std::string& command) {
    std::string out(256, '\0');
    FILE* pipe = popen((command + " 2>/dev/null").c_str(), "r");
    out.resize(fread(out.data(), 1, out.size(), pipe));
    while (!out.empty() && out.back() == '\n') out.pop_back();
    return pclose(pipe) == 0 ? out : std::string();
  };
  const std::string loop = shell("losetup --find --show " + scratch.path());
  if (loop.empty()) GTEST_SKIP() << "no loop device to be had";
  open(loop);
  EXPECT_TRUE(disk->backing().is_block_device());
  EXPECT_TRUE(disk->backing().direct());
  EXPECT_NE(refusal(loop).find("is in use"), std::string::npos);
  EXPECT_EQ(write(0, 64, 7, true), IoCode::ok);
  EXPECT_EQ(run(Op::write_zeroes, 8, 8), IoCode::ok);
  if (disk->info().can_unmap) {
    EXPECT_EQ(run(Op::unmap, 32, 8), IoCode::ok);
  }
  EXPECT_EQ(run(Op::flush), IoCode::ok);
  const std::vector<uint8_t> bytes = scratch.bytes();
  for (size_t i = 0; i < 64 * 512; ++i) {
    const size_t block = i / 512;
    const bool gone = (block >= 8 && block < 16) || (disk->info().can_unmap && block >= 32 && block < 40);
    ASSERT_EQ(bytes[i], gone ? 0 : 7) << "block " << block;
  }
  channel.reset();
  disk.reset();
  shell("losetup --detach " + loop);
}

}  // namespace
}  // namespace diskengine
