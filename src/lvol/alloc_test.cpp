// The path of I/O to allocated clusters does not allocate memory, nor do reads of what is not allocated.
#include "runtime/alloc_trap.h"

#include "lvol/test_world.h"

namespace diskengine::lvol {
namespace {

TEST(LvolChannelMemory, IoThatNeedsNoMetadataAllocatesNothing) {
  TestWorld world;
  const auto disk = TestDisk::make({.bytes = 16 << 20});
  CreateStore options;
  options.name = "lvs";
  options.cluster_bytes = 65536;
  options.uuid = Uuid::from_random(1, 1);
  auto store = world.run(Store::create(world.main(), disk, options)).value();
  Store::NewBlob wanted;
  wanted.name = "a";
  wanted.uuid = Uuid::from_random(2, 2);
  wanted.clusters = 16;
  wanted.thin = true;
  const auto blob = world.run(store->create_blob(wanted)).value();
  {
    const auto channel = world.open(store, blob);
    ASSERT_TRUE(world.write(*channel, 0, 4 * 128, 1).ok());
    disk->tracks = false;
    std::vector<uint8_t> data(3 * 65536);
    struct Waiting : Request {
      bool ended = false;
    } request;
    const iovec piece{data.data(), data.size()};
    request.done = [](Request& done) noexcept { static_cast<Waiting&>(done).ended = true; };
    const auto run = [&](Op op, uint64_t lba, uint64_t blocks) {
      const iovec part{piece.iov_base, blocks * 512};
      request.op = op;
      request.lba = lba;
      request.blocks = blocks;
      request.iov = op == Op::read || op == Op::write ? std::span<const iovec>(&part, 1) : std::span<const iovec>();
      request.ended = false;
      channel->submit(request);
      while (!request.ended) world.main().turn();
      ASSERT_TRUE(request.status.ok());
    };
    run(Op::write, 5, 8);
    AllocTrap trap;
    for (int round = 0; round < 100; ++round) {
      run(Op::write, 5, 8);
      run(Op::write, 100, 200);  // over three clusters
      run(Op::read, 100, 384);
      run(Op::read, 6 * 128, 256);  // not allocated
      run(Op::unmap, 10, 3);
      run(Op::flush, 0, 0);
    }
    EXPECT_EQ(trap.allocations(), 0u);
  }
  world.settle();
  EXPECT_TRUE(world.run(store->unload()));
  world.settle();
}

}  // namespace
}  // namespace diskengine::lvol
