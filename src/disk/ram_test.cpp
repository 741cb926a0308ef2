#include "disk/ram.h"

#include <gtest/gtest.h>

#include <array>
#include <cstring>
#include <memory>
#include <vector>

#include "runtime/reactor.h"

namespace diskengine {
namespace {

constexpr size_t kBytes = 4096;

struct RamDiskTest : ::testing::Test {
  RamDiskTest() {
    disk = *RamDisk::create({.name = "ram", .block_size = 512, .size_blocks = 64});
    channel = *disk->open_channel(reactor);
    buffer.fill(0xee);
    request.op = Op::read;
    request.lba = 8;
    request.blocks = kBytes / 512;
    request.iov = {&piece, 1};
    request.done = [](Request& done) noexcept { done.owner = nullptr; };
    request.owner = this;
    std::memset(disk->bytes() + 8 * 512, 0x5a, kBytes);
  }
  void run() {
    reactor.post([&] { channel->submit(request); });
    for (int turn = 0; turn < 10; ++turn) reactor.turn();
    ASSERT_EQ(request.owner, nullptr) << "the request did not complete";
    ASSERT_TRUE(request.status.ok());
  }

  Reactor reactor{Reactor::Options{.use_ring = false}};
  std::shared_ptr<RamDisk> disk;
  std::unique_ptr<Channel> channel;
  std::array<uint8_t, kBytes> buffer;
  iovec piece{buffer.data(), kBytes};
  Request request;
};

TEST_F(RamDiskTest, CopiesWhatIsReadUnlessItMayLendIt) {
  run();
  EXPECT_EQ(request.loan, nullptr);
  EXPECT_EQ(buffer.front(), 0x5a);
  EXPECT_EQ(buffer.back(), 0x5a);
}

TEST_F(RamDiskTest, WhatItLendsOutlivesTheDisk) {
  request.may_lend = true;
  run();
  ASSERT_NE(request.loan, nullptr);
  EXPECT_EQ(request.loan.get(), disk->bytes() + 8 * 512);
  EXPECT_EQ(buffer.front(), 0xee) << "the buffer was filled as well";
  channel.reset();
  std::weak_ptr<RamDisk> gone = disk;
  disk.reset();
  ASSERT_TRUE(gone.expired());
  EXPECT_EQ(request.loan.get()[kBytes - 1], 0x5a);
}

}  // namespace
}  // namespace diskengine
