#include "vhost/split_ring.h"

#include <gtest/gtest.h>

#include "vhost/blk_request.h"
#include "vhost/fake_guest.h"

namespace diskengine::vhost {
namespace {

constexpr uint64_t kData = FakeGuest::kDataAt;

struct RingTest : testing::Test {
  void SetUp() override {
    memory = guest.memory();
    ASSERT_TRUE(ring.attach(guest.ring_options(), *memory));
    chain.overflow = overflow.data();
  }
  ChainFault read(uint16_t head) { return ring.read_chain(head, chain); }

  FakeGuest guest{16};
  std::shared_ptr<const GuestMemory> memory;
  SplitRing ring;
  Chain chain;
  std::vector<iovec> overflow = std::vector<iovec>(Chain::kPiecesMax);
};

TEST_F(RingTest, AChainBecomesPiecesOfGuestMemoryInPlace) {
  guest.add_request(3, spec::VirtioBlkType::out, 7, 512, kData);
  ASSERT_EQ(ring.available(), 1);
  ASSERT_EQ(ring.peek(0), 3);
  ASSERT_EQ(read(3), ChainFault::none);
  ASSERT_EQ(chain.readable, 2);
  ASSERT_EQ(chain.writable, 1);
  EXPECT_EQ(chain.pieces[1].iov_base, guest.data(kData));
  EXPECT_EQ(chain.pieces[1].iov_len, 512u);
  EXPECT_EQ(chain.readable_bytes, 16u + 512);
  EXPECT_EQ(chain.writable_bytes, 1u);
}

TEST_F(RingTest, AnIndirectTableAtAnyAlignmentIsFollowed) {
  const uint64_t table = kData + 3;
  guest.put(table, spec::VringDesc{FakeGuest::address(kData + 0x100), 16, spec::kDescNext, 2});
  guest.put(table + 32, spec::VringDesc{FakeGuest::address(kData + 0x200), 1, spec::kDescWrite, 0});
  guest.set_desc(0, {FakeGuest::address(table), 48, spec::kDescIndirect, 0});
  ASSERT_EQ(read(0), ChainFault::none);
  EXPECT_EQ(chain.readable, 1);
  EXPECT_EQ(chain.pieces[1].iov_base, guest.at(kData + 0x200));
}

TEST_F(RingTest, LongChainsMoveToTheOverflowAndKeepTheirOrder) {
  for (uint16_t i = 0; i < 16; ++i)
    guest.set_desc(i, {FakeGuest::address(kData + i * 16), 16, static_cast<uint16_t>(i < 15 ? spec::kDescNext : 0),
                       static_cast<uint16_t>(i + 1)});
  ASSERT_EQ(read(0), ChainFault::none);
  ASSERT_EQ(chain.readable, 16);
  for (uint16_t i = 0; i < 16; ++i) EXPECT_EQ(chain.pieces[i].iov_base, guest.at(kData + i * 16));
}

TEST_F(RingTest, ALoopEndsWithAFault) {
  guest.set_desc(0, {FakeGuest::address(kData), 16, spec::kDescNext, 1});
  guest.set_desc(1, {FakeGuest::address(kData), 16, spec::kDescNext, 0});
  EXPECT_EQ(read(0), ChainFault::loop);
  EXPECT_EQ(chain.count(), 0);
}

TEST_F(RingTest, ALoopInAnIndirectTableEndsWithAFault) {
  guest.put(kData, spec::VringDesc{FakeGuest::address(kData), 16, spec::kDescNext, 0});
  guest.set_desc(0, {FakeGuest::address(kData), 16, spec::kDescIndirect, 0});
  EXPECT_EQ(read(0), ChainFault::loop);
}

TEST_F(RingTest, AddressesOutsideGuestMemoryAreRefused) {
  const uint64_t end = FakeGuest::kGuestBase + FakeGuest::kBytes;
  for (const auto& [addr, len] : std::vector<std::pair<uint64_t, uint32_t>>{
           {0, 16}, {FakeGuest::kGuestBase - 8, 16}, {end - 8, 16}, {end, 1}, {UINT64_MAX - 7, 16}, {UINT64_MAX, 1}}) {
    guest.set_desc(0, {addr, len, 0, 0});
    EXPECT_EQ(read(0), ChainFault::outside_memory) << std::hex << addr;
    guest.set_desc(0, {addr & ~uint64_t{15}, 32, spec::kDescIndirect, 0});
    EXPECT_EQ(read(0), ChainFault::outside_memory) << std::hex << addr;
  }
}

TEST_F(RingTest, ANextOutsideTheTableIsRefused) {
  guest.set_desc(0, {FakeGuest::address(kData), 16, spec::kDescNext, 16});
  EXPECT_EQ(read(0), ChainFault::outside_memory);
  guest.put(kData, spec::VringDesc{FakeGuest::address(kData), 16, spec::kDescNext, 1});
  guest.set_desc(0, {FakeGuest::address(kData), 16, spec::kDescIndirect, 0});
  EXPECT_EQ(read(0), ChainFault::outside_memory);
}

TEST_F(RingTest, BadIndirectTablesAreRefused) {
  guest.put(kData, spec::VringDesc{FakeGuest::address(kData), 16, spec::kDescIndirect, 0});
  guest.set_desc(0, {FakeGuest::address(kData), 16, spec::kDescIndirect, 0});
  EXPECT_EQ(read(0), ChainFault::bad_indirect) << "nested";
  guest.set_desc(0, {FakeGuest::address(kData), 0, spec::kDescIndirect, 0});
  EXPECT_EQ(read(0), ChainFault::bad_indirect) << "empty";
  guest.set_desc(0, {FakeGuest::address(kData), 24, spec::kDescIndirect, 0});
  EXPECT_EQ(read(0), ChainFault::bad_indirect) << "half a descriptor";
  guest.set_desc(0, {FakeGuest::address(kData), 16, spec::kDescIndirect | spec::kDescNext, 1});
  EXPECT_EQ(read(0), ChainFault::bad_indirect) << "with a next";
  SplitRing::Options options = guest.ring_options();
  options.indirect = false;
  ASSERT_TRUE(ring.attach(options, *memory));
  guest.set_desc(0, {FakeGuest::address(kData), 16, spec::kDescIndirect, 0});
  EXPECT_EQ(read(0), ChainFault::bad_indirect) << "not negotiated";
}

TEST_F(RingTest, BuffersInTheWrongOrderOrEmptyAreRefused) {
  guest.set_desc(0, {FakeGuest::address(kData), 16, spec::kDescWrite | spec::kDescNext, 1});
  guest.set_desc(1, {FakeGuest::address(kData), 16, 0, 0});
  EXPECT_EQ(read(0), ChainFault::wrong_order);
  guest.set_desc(0, {FakeGuest::address(kData), 0, 0, 0});
  EXPECT_EQ(read(0), ChainFault::empty_buffer);
}

TEST_F(RingTest, AChainOfMorePiecesThanThereIsRoomForIsRefused) {
  constexpr uint32_t kDescs = 1000;
  for (uint32_t i = 0; i < kDescs; ++i)
    guest.put(kData + i * 16,
              spec::VringDesc{FakeGuest::address(kData), 1, spec::kDescNext, static_cast<uint16_t>(i + 1)});
  guest.set_desc(0, {FakeGuest::address(kData), kDescs * 16, spec::kDescIndirect, 0});
  const ChainFault fault = read(0);
  EXPECT_TRUE(fault == ChainFault::too_long || fault == ChainFault::loop);
}

TEST_F(RingTest, AJumpOfTheAvailableIndexIsNoticed) {
  guest.set_avail_index(16);
  EXPECT_EQ(ring.available(), 16);
  guest.set_avail_index(17);
  EXPECT_EQ(ring.available(), SplitRing::kBroken);
  guest.set_avail_index(0xffff);
  EXPECT_EQ(ring.available(), SplitRing::kBroken);
}

TEST_F(RingTest, RingsOutsideMemoryOrUnalignedAreRefused) {
  for (uint64_t SplitRing::Options::*array :
       {&SplitRing::Options::desc, &SplitRing::Options::avail, &SplitRing::Options::used}) {
    for (const uint64_t where : {uint64_t{0}, FakeGuest::kUserBase + FakeGuest::kBytes - 16,
                                 FakeGuest::kUserBase - 4096, FakeGuest::kUserBase + 1, UINT64_MAX - 100}) {
      SplitRing::Options options = guest.ring_options();
      options.*array = where;
      SplitRing other;
      EXPECT_FALSE(other.attach(options, *memory)) << std::hex << where;
    }
  }
  for (const uint16_t size : {0, 3, 2048}) {
    SplitRing::Options options = guest.ring_options();
    options.size = size;
    SplitRing other;
    EXPECT_FALSE(other.attach(options, *memory)) << size;
  }
}

TEST_F(RingTest, UsedElementsAreShownTogetherAndTheDriverIsToldOnlyIfItAsked) {
  guest.set_used_event(1);  // tell me when the second one is there
  ring.push_used(5, 100);
  EXPECT_EQ(guest.used_index(), 0);
  EXPECT_FALSE(ring.publish());
  EXPECT_EQ(guest.used_index(), 1);
  EXPECT_EQ(guest.used(0).id, 5u);
  EXPECT_EQ(guest.used(0).len, 100u);
  ring.push_used(6, 1);
  ring.push_used(7, 1);
  EXPECT_TRUE(ring.publish());
  EXPECT_EQ(guest.used_index(), 3);
  ring.push_used(8, 1);
  EXPECT_FALSE(ring.publish());
}

TEST_F(RingTest, WithoutEventIndexTheFlagsDecide) {
  SplitRing::Options options = guest.ring_options();
  options.event_idx = false;
  ASSERT_TRUE(ring.attach(options, *memory));
  ring.push_used(1, 1);
  EXPECT_TRUE(ring.publish());
  guest.set_avail_flags(spec::kAvailNoInterrupt);
  ring.push_used(2, 1);
  EXPECT_FALSE(ring.publish());
  ring.disable_notifications();
  EXPECT_EQ(guest.used_flags(), spec::kUsedNoNotify);
  EXPECT_TRUE(ring.enable_notifications());
  EXPECT_EQ(guest.used_flags(), 0);
}

TEST_F(RingTest, NotificationsAreNotEnabledOverWaitingHeads) {
  EXPECT_TRUE(ring.enable_notifications());
  EXPECT_EQ(guest.avail_event(), 0);
  guest.make_available(0);
  EXPECT_FALSE(ring.enable_notifications());
  ring.advance(1);
  EXPECT_TRUE(ring.enable_notifications());
  EXPECT_EQ(guest.avail_event(), 1);
}

TEST(GuestMemoryTest, ABufferAcrossTwoRegionsBecomesTwoPieces) {
  FakeGuest guest(16);
  std::vector<uint8_t> second(4096);
  auto memory =
      GuestMemory::make({{FakeGuest::kGuestBase, FakeGuest::kBytes, FakeGuest::kUserBase, guest.at(0), nullptr},
                         {FakeGuest::kGuestBase + FakeGuest::kBytes, 4096, 0x1000, second.data(), nullptr}});
  ASSERT_TRUE(memory);
  SplitRing ring;
  ASSERT_TRUE(ring.attach(guest.ring_options(), **memory));
  guest.set_desc(0, {FakeGuest::address(FakeGuest::kBytes - 100), 300, 0, 0});
  Chain chain;
  ASSERT_EQ(ring.read_chain(0, chain), ChainFault::none);
  ASSERT_EQ(chain.readable, 2);
  EXPECT_EQ(chain.pieces[0].iov_len, 100u);
  EXPECT_EQ(chain.pieces[1].iov_base, second.data());
  EXPECT_EQ(chain.pieces[1].iov_len, 200u);
  EXPECT_EQ((*memory)->translate(FakeGuest::address(FakeGuest::kBytes - 100), 300), nullptr);
}

TEST(GuestMemoryTest, RegionsThatOverlapWrapOrAreEmptyAreRefused) {
  const auto made = [](std::vector<GuestMemory::Region> regions) {
    return GuestMemory::make(std::move(regions)).has_value();
  };
  EXPECT_TRUE(made({{0, 4096, 0x10000, nullptr, nullptr}, {4096, 4096, 0x20000, nullptr, nullptr}}));
  EXPECT_FALSE(made({{0, 4097, 0x10000, nullptr, nullptr}, {4096, 4096, 0x20000, nullptr, nullptr}}));
  EXPECT_FALSE(made({{0, 4096, 0x10000, nullptr, nullptr}, {4096, 4096, 0x10800, nullptr, nullptr}}));
  EXPECT_FALSE(made({{0, 0, 0x10000, nullptr, nullptr}}));
  EXPECT_FALSE(made({{UINT64_MAX - 100, 4096, 0x10000, nullptr, nullptr}}));
  EXPECT_FALSE(made({{0, 4096, UINT64_MAX - 100, nullptr, nullptr}}));
  std::vector<GuestMemory::Region> many;
  for (uint64_t i = 0; i <= GuestMemory::kRegionsMax; ++i) many.push_back({i << 20, 4096, i << 20, nullptr, nullptr});
  EXPECT_FALSE(made(many));
}

TEST(BlkRequestTest, HeaderAndStatusMayLieAnywhereInTheBuffers) {
  uint8_t bytes[64] = {};
  const spec::VirtioBlkHeader header{static_cast<uint32_t>(spec::VirtioBlkType::in), 0, 42};
  std::memcpy(bytes, &header, sizeof header);
  Chain chain;
  chain.clear();
  chain.push(bytes, 5, false);
  chain.push(bytes + 5, 11, false);
  chain.push(bytes + 20, 8, true);
  chain.push(bytes + 28, 5, true);
  const BlkRequest request = parse_blk_request(chain);
  ASSERT_TRUE(request.has_header);
  EXPECT_EQ(request.header.sector, 42u);
  EXPECT_EQ(request.to_device_bytes, 0u);
  EXPECT_TRUE(request.to_device.empty());
  EXPECT_EQ(request.from_device_bytes, 12u);
  EXPECT_EQ(request.from_device[1].iov_len, 4u);
  EXPECT_EQ(request.status, bytes + 32);
}

TEST(BlkRequestTest, ARequestWithoutRoomForHeaderOrStatusIsSeen) {
  uint8_t bytes[64] = {};
  Chain chain;
  chain.clear();
  chain.push(bytes, 16, false);
  EXPECT_EQ(parse_blk_request(chain).status, nullptr);
  chain.clear();
  chain.push(bytes, 15, false);
  chain.push(bytes + 20, 1, true);
  const BlkRequest request = parse_blk_request(chain);
  EXPECT_FALSE(request.has_header);
  EXPECT_EQ(request.status, bytes + 20);
  EXPECT_TRUE(request.from_device.empty());
}

}  // namespace
}  // namespace diskengine::vhost
