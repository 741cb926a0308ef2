// A disk for tests of lvol stores: bytes in memory with a volatile write cache in front of them, so that a test can ask
// what the disk would hold after a power cut at this moment. Requests complete within the turn, or when the test says
// so, in any order.
#pragma once

#include <algorithm>
#include <cstring>
#include <memory>
#include <string>
#include <vector>

#include "block/device.h"
#include "runtime/random.h"

namespace diskengine::lvol {

class TestDisk final : public Device {
 public:
  struct Options {
    std::string name = "disk";
    uint64_t bytes = 64 << 20;
    uint32_t block_size = 512;
    bool capable = true;  // unmap and write_zeroes
    bool write_cache = true;
  };

  bool holds = false;                 // requests stay outstanding until complete_some()
  bool dead = false;                  // everything fails
  uint64_t fails_after = UINT64_MAX;  // that many more writes succeed
  uint64_t reads = 0, writes = 0, flushes = 0, zeroings = 0, unmaps = 0;
  bool tracks = true;  // keeps what a power cut may lose

  static std::shared_ptr<TestDisk> make(Options options) {
    DeviceInfo info;
    info.name = options.name;
    info.product_name = "Test disk";
    info.block_size = options.block_size;
    info.size_blocks = options.bytes / options.block_size;
    info.write_cache = options.write_cache;
    info.can_unmap = info.can_write_zeroes = options.capable;
    info.uuid = Uuid::from_random(std::hash<std::string>()(options.name), 7);
    return std::make_shared<TestDisk>(std::move(info));
  }
  explicit TestDisk(DeviceInfo info) : Device(std::move(info)), bytes(this->info().size_bytes()), stable_(bytes) {}

  Result<std::unique_ptr<Channel>> open_channel(Reactor& reactor) override {
    return std::unique_ptr<Channel>(
        std::make_unique<TestChannel>(std::static_pointer_cast<TestDisk>(shared_from_this()), reactor));
  }

  // What the disk may hold after a power cut now: what was flushed, and of the rest any part, torn at 512 bytes.
  std::vector<uint8_t> after_power_cut(Random& random) const {
    std::vector<uint8_t> left = stable_;
    for (const Change& change : changes_) apply_part(left, change, random);
    for (const TestChannel* channel : open_)
      for (const Request* request : channel->outstanding_requests())
        if (request->op != Op::read && request->op != Op::flush) apply_part(left, change_of(*request), random);
    return left;
  }
  // As after a restart with these bytes.
  void load(std::vector<uint8_t> content) {
    bytes = std::move(content);
    stable_ = bytes;
    changes_.clear();
  }
  void grow(uint64_t to_bytes) {
    bytes.resize(to_bytes);
    stable_.resize(to_bytes);
    set_size_blocks(to_bytes / info().block_size);
  }

  unsigned complete_some(Reactor& reactor, Random& random, unsigned count) {
    unsigned completed = 0;
    while (completed < count) {
      std::vector<TestChannel*> busy;
      for (TestChannel* channel : open_)
        if (&channel->reactor() == &reactor && channel->waiting() > 0) busy.push_back(channel);
      if (busy.empty()) break;
      busy[random.below(busy.size())]->complete_one(random);
      ++completed;
    }
    return completed;
  }
  bool anything_waits() const {
    return std::any_of(open_.begin(), open_.end(), [](const TestChannel* channel) { return channel->waiting() > 0; });
  }

  std::vector<uint8_t> bytes;

 private:
  struct Change {
    uint64_t offset;
    uint64_t length;
    std::vector<uint8_t> data;  // empty: zeroes
    bool durable;
  };

  static void apply_to(std::vector<uint8_t>& content, const Change& change, uint64_t at, uint64_t length) {
    if (change.data.empty()) {
      std::memset(content.data() + change.offset + at, 0, length);
    } else {
      std::memcpy(content.data() + change.offset + at, change.data.data() + at, length);
    }
  }

  // All of it, some of its sectors, or nothing.
  static void apply_part(std::vector<uint8_t>& content, const Change& change, Random& random) {
    const uint64_t fate = change.durable ? 0 : random.below(4);
    if (fate == 1) return;
    for (uint64_t at = 0; at < change.length; at += 512) {
      if (fate == 2 && random.chance(1, 2)) continue;
      apply_to(content, change, at, std::min<uint64_t>(512, change.length - at));
    }
  }
  Change change_of(const Request& request) const {
    Change change{request.lba * info().block_size, request.blocks * info().block_size, {}, false};
    for (const iovec& piece : request.iov) {
      const auto* from = static_cast<const uint8_t*>(piece.iov_base);
      change.data.insert(change.data.end(), from, from + piece.iov_len);
    }
    return change;
  }

  class TestChannel final : public Channel {
   public:
    TestChannel(std::shared_ptr<TestDisk> disk, Reactor& reactor) : Channel(disk, reactor), disk_(*disk) {
      disk_.open_.push_back(this);
    }
    ~TestChannel() override { std::erase(disk_.open_, this); }
    size_t waiting() const noexcept { return waiting_.size(); }
    const std::vector<Request*>& outstanding_requests() const noexcept { return waiting_; }
    void complete_one(Random& random) {
      const size_t index = random.below(waiting_.size());
      Request* request = waiting_[index];
      waiting_.erase(waiting_.begin() + static_cast<std::ptrdiff_t>(index));
      finish(*request, disk_.apply(*request));
    }

   private:
    void start(Request& request) noexcept override {
      if (disk_.holds) {
        waiting_.push_back(&request);
      } else {
        finish(request, disk_.apply(request));
      }
    }
    TestDisk& disk_;
    std::vector<Request*> waiting_;
  };

  void note(uint64_t offset, uint64_t length, bool zeroes, bool durable) {
    if (!tracks) return;
    Change change{offset, length, {}, durable};
    if (!zeroes)
      change.data.assign(bytes.begin() + static_cast<std::ptrdiff_t>(offset),
                         bytes.begin() + static_cast<std::ptrdiff_t>(offset + length));
    changes_.push_back(std::move(change));
  }

  IoStatus apply(const Request& request) {
    if (dead) return IoStatus::error(IoCode::io_error);
    const bool changes = request.op != Op::read && request.op != Op::flush;
    if (changes && fails_after != UINT64_MAX) {
      if (fails_after == 0) return IoStatus::error(IoCode::io_error);
      --fails_after;
    }
    const uint64_t offset = request.lba * info().block_size;
    const uint64_t length = request.blocks * info().block_size;
    uint8_t* at = bytes.data() + offset;
    switch (request.op) {
      case Op::read:
        ++reads;
        for (const iovec& piece : request.iov) {
          std::memcpy(piece.iov_base, at, piece.iov_len);
          at += piece.iov_len;
        }
        break;
      case Op::write:
        ++writes;
        for (const iovec& piece : request.iov) {
          std::memcpy(at, piece.iov_base, piece.iov_len);
          at += piece.iov_len;
        }
        note(offset, length, false, request.fua || !info().write_cache);
        break;
      case Op::unmap:
      case Op::write_zeroes:
        ++(request.op == Op::unmap ? unmaps : zeroings);
        std::memset(at, 0, length);
        note(offset, length, true, !info().write_cache);
        break;
      case Op::flush:
        ++flushes;
        for (const Change& change : changes_) apply_to(stable_, change, 0, change.length);
        changes_.clear();
        break;
      case Op::compare:
        return IoStatus::error(IoCode::not_supported);
    }
    return IoStatus::success();
  }

  std::vector<uint8_t> stable_;
  std::vector<Change> changes_;
  std::vector<TestChannel*> open_;
};

}  // namespace diskengine::lvol
