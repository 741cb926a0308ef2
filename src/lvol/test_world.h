// What tests of lvol stores share: a reactor polled by hand, tasks run to their end, blocking I/O, and data that says
// where it belongs.
#pragma once

#include <gtest/gtest.h>

#include <functional>
#include <optional>

#include "base/endian.h"
#include "lvol/lvol_device.h"
#include "lvol/test_disk.h"

namespace diskengine::lvol {

class TestWorld {
 public:
  Reactor& main() noexcept { return main_; }
  Reactor& other() noexcept { return other_; }
  void settle() {
    while (main_.turn() || other_.turn()) {
    }
  }
  // Turns both reactors until `done` holds.
  bool run_until(const std::function<bool()>& done) {
    return main_.run_until(
        [&] {
          other_.turn();
          return done();
        },
        60'000'000'000);
  }
  template <typename T>
  T run(Task<T> task) {
    std::optional<T> value;
    spawn<T>(std::move(task), [&](T result) { value.emplace(std::move(result)); });
    EXPECT_TRUE(run_until([&] { return value.has_value(); }));
    return std::move(*value);
  }
  void run(Task<void> task) {
    bool ended = false;
    spawn(std::move(task), [&] { ended = true; });
    EXPECT_TRUE(run_until([&] { return ended; }));
  }

  // One request to its end.
  IoStatus io(Channel& channel, Op op, uint64_t lba, uint64_t blocks, std::span<uint8_t> payload = {},
              bool may_unmap = false) {
    struct Waiting : Request {
      bool ended = false;
    } request;
    iovec piece{payload.data(), payload.size()};
    request.op = op;
    request.lba = lba;
    request.blocks = blocks;
    request.may_unmap = may_unmap;
    if (!payload.empty()) request.iov = {&piece, 1};
    request.done = [](Request& done) noexcept { static_cast<Waiting&>(done).ended = true; };
    channel.submit(request);
    EXPECT_TRUE(run_until([&] { return request.ended; }));
    return request.status;
  }
  IoStatus write(Channel& channel, uint64_t lba, uint64_t blocks, uint8_t value) {
    std::vector<uint8_t> data(blocks * channel.device().info().block_size, value);
    return io(channel, Op::write, lba, blocks, data);
  }
  std::vector<uint8_t> read(Channel& channel, uint64_t lba, uint64_t blocks) {
    std::vector<uint8_t> data(blocks * channel.device().info().block_size, 0xee);
    EXPECT_TRUE(io(channel, Op::read, lba, blocks, data).ok());
    return data;
  }
  // Whether all blocks read as `value`.
  bool holds(Channel& channel, uint64_t lba, uint64_t blocks, uint8_t value) {
    const std::vector<uint8_t> data = read(channel, lba, blocks);
    return std::all_of(data.begin(), data.end(), [&](uint8_t byte) { return byte == value; });
  }
  std::unique_ptr<Channel> open(const Store::Ptr& store, const Store::BlobPtr& blob) {
    return open_on(main_, store, blob);
  }
  std::unique_ptr<Channel> open_on(Reactor& reactor, const Store::Ptr& store, const Store::BlobPtr& blob) {
    std::shared_ptr<Device> device = blob->device.lock();
    if (device == nullptr) device = LvolDevice::make(store, blob);
    return device->open_channel(reactor).value();
  }

 private:
  Reactor main_{{.name = "main", .id = 0, .use_ring = false}};
  Reactor other_{{.name = "other", .id = 1, .use_ring = false}};
};

}  // namespace diskengine::lvol
