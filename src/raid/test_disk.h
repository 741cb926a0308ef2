// A disk for tests of the mirror: requests stay outstanding until the test completes them, in any order, and fail as
// the test says. A write reaches the bytes when it completes, so requests that overlap in flight are applied in the
// order of their completion. Channels on several reactors share the bytes.
#pragma once

#include <algorithm>
#include <cstring>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "block/device.h"
#include "runtime/random.h"

namespace diskengine::raid {

class TestDisk final : public Device {
 public:
  static constexpr uint32_t kBlockSize = 512;
  static constexpr uint64_t kFirstMiB = 1024 * 1024 / kBlockSize;

  // Makes its completions fail: all, or one in `failing_one_in` if that is not 0.
  bool dead = false;
  bool dead_for_writes = false;
  uint64_t failing_one_in = 0;
  uint64_t failing_next = 0;  // so many of its next requests
  IoCode failure = IoCode::io_error;
  bool completes_at_once = false;  // without complete_some()
  bool caches = false;             // what is not flushed can be lost
  Uuid cache;                      // cache_instance()
  unsigned holds = 0;              // somebody still has to take notice that it was
  uint64_t flushes = 0;
  uint64_t writes = 0;
  uint64_t zero_writes = 0;                           // write_zeroes and unmap requests
  uint64_t data_blocks = 0;                           // that changed behind the first MiB
  std::function<bool(const Request&)> fails;          // more of its requests
  std::function<void(const Request&)> before_change;  // of what is behind the first MiB

  class TestChannel final : public Channel {
   public:
    TestChannel(std::shared_ptr<TestDisk> disk, Reactor& reactor) : Channel(disk, reactor), disk_(*disk) {
      disk_.open.push_back(this);
    }
    ~TestChannel() override { std::erase(disk_.open, this); }
    // Completes one outstanding request, chosen at random. Runs in its reactor's turn.
    bool complete_one(Random& random) {
      if (waiting_.empty() || disk_.holds > 0) return false;
      const size_t index = random.below(waiting_.size());
      Request* request = waiting_[index];
      waiting_.erase(waiting_.begin() + static_cast<std::ptrdiff_t>(index));
      const bool fails =
          disk_.fails_now(*request) || (disk_.failing_one_in != 0 && random.chance(1, disk_.failing_one_in));
      const bool applied = !fails || random.chance(1, 2);  // a failed write may have reached the medium
      IoStatus status = applied ? disk_.apply(*request) : IoStatus{};
      if (fails) status = IoStatus::error(disk_.failure);
      finish(*request, status);
      return true;
    }
    size_t waiting() const noexcept { return waiting_.size(); }
    void apply_some(Random& random) {
      for (const Request* request : waiting_)
        if (request->op != Op::read && request->op != Op::compare && random.chance(1, 2)) disk_.apply(*request);
    }

   private:
    void start(Request& request) noexcept override {
      if (disk_.completes_at_once && disk_.holds == 0) {
        const IoStatus status = disk_.fails_now(request) ? IoStatus::error(disk_.failure) : disk_.apply(request);
        finish(request, status);
      } else {
        waiting_.push_back(&request);
      }
    }
    TestDisk& disk_;
    std::vector<Request*> waiting_;
  };

  // What was not flushed is gone, and whoever has the disk hears of it, before any more requests complete.
  void lose_cache() {
    bytes = durable;
    if (!cache.is_nil()) cache = Uuid::from_name(cache.to_string());
    ++holds;
    announce_cache_lost(std::shared_ptr<void>(&holds, [](void* count) { --*static_cast<unsigned*>(count); }));
  }
  void begin_to_cache() {
    caches = true;
    durable = bytes;
  }

  static std::shared_ptr<TestDisk> make(const std::string& name, uint64_t blocks, bool capable = true) {
    DeviceInfo info;
    info.name = name;
    info.product_name = "Test disk";
    info.block_size = kBlockSize;
    info.size_blocks = blocks;
    info.write_cache = true;
    info.can_unmap = info.can_write_zeroes = info.can_compare = capable;
    info.uuid = Uuid::from_random(std::hash<std::string>()(name), blocks);
    return std::make_shared<TestDisk>(std::move(info));
  }
  explicit TestDisk(DeviceInfo info) : Device(std::move(info)), bytes(this->info().size_bytes()) {}

  Result<std::unique_ptr<Channel>> open_channel(Reactor& reactor) override {
    return std::unique_ptr<Channel>(
        std::make_unique<TestChannel>(std::static_pointer_cast<TestDisk>(shared_from_this()), reactor));
  }
  Uuid cache_instance() const override { return cache; }
  // Completes up to `count` requests of channels on `reactor`.
  unsigned complete_some(Reactor& reactor, Random& random, unsigned count) {
    unsigned completed = 0;
    for (bool any = true; any && completed < count;) {
      any = false;
      const std::vector<TestChannel*> channels = open;
      for (TestChannel* channel : channels) {
        if (std::find(open.begin(), open.end(), channel) == open.end() || &channel->reactor() != &reactor) continue;
        if (completed < count && channel->complete_one(random)) {
          any = true;
          ++completed;
        }
      }
    }
    return completed;
  }

  // What a crash at this moment leaves: of what is under way some is on the medium and some is not.
  std::vector<uint8_t> after_crash(Random& random) {
    const std::vector<uint8_t> now = bytes;
    for (TestChannel* channel : open) channel->apply_some(random);
    std::vector<uint8_t> left = std::exchange(bytes, now);
    return left;
  }

  bool fails_now(const Request& request) {
    if (failing_next > 0) {
      --failing_next;
      return true;
    }
    if (fails && fails(request)) return true;
    return dead || (dead_for_writes && request.op != Op::read && request.op != Op::compare);
  }
  IoStatus apply(const Request& request) {
    uint8_t* at = bytes.data() + request.lba * kBlockSize;
    const bool changes = request.op != Op::read && request.op != Op::compare && request.op != Op::flush;
    if (changes && request.lba >= kFirstMiB) {
      data_blocks += request.blocks;
      if (before_change) before_change(request);
    }
    switch (request.op) {
      case Op::read:
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
        break;
      case Op::compare:
        for (const iovec& piece : request.iov) {
          if (std::memcmp(at, piece.iov_base, piece.iov_len) != 0) return IoStatus::error(IoCode::miscompare);
          at += piece.iov_len;
        }
        break;
      case Op::unmap:
      case Op::write_zeroes:
        ++zero_writes;
        std::memset(at, 0, request.blocks * kBlockSize);
        break;
      case Op::flush:
        ++flushes;
        if (caches) durable = bytes;
        break;
    }
    if (caches && request.fua) {
      const auto begin = static_cast<std::ptrdiff_t>(request.lba * kBlockSize);
      const auto length = static_cast<std::ptrdiff_t>(request.blocks * kBlockSize);
      std::copy_n(bytes.begin() + begin, length, durable.begin() + begin);
    }
    return IoStatus::success();
  }

  std::vector<uint8_t> bytes;
  std::vector<uint8_t> durable;
  std::vector<TestChannel*> open;
};

}  // namespace diskengine::raid
