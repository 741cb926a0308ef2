// For tests of the lvol stores: a machine with one disk, polled by hand, all of whose time and chance come from the
// test. Two reactors, so that I/O on the other one has to go to the store's; the disk is an image (crash_image.h), on
// request recorded (crash.h).
//
// Threads: the test's one thread plays both reactors.
#pragma once

#include <gtest/gtest.h>

#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "base/endian.h"
#include "base/log.h"
#include "block/decorators/crash.h"
#include "block/decorators/crash_image.h"
#include "block/registry.h"
#include "lvol/crash_model.h"
#include "lvol/manager.h"

namespace diskengine::lvol {

inline constexpr uint64_t kSectorBytes = 512;

// A request with its payload, whose every sector is one stamp, repeated. Owned by the test until it has finished.
struct StampedIo : Request {
  StampedIo(Op o, uint64_t first_block, uint64_t count, uint32_t block_bytes, uint64_t with_stamp)
      : stamp(with_stamp), buffer(o == Op::read || o == Op::write ? count * block_bytes : 0) {
    op = o;
    lba = first_block;
    blocks = count;
    if (op == Op::write)
      for (size_t at = 0; at < buffer.size(); at += 8) store_le(buffer.data() + at, stamp);
    const size_t cut = buffer.size() / kSectorBytes / 2 * kSectorBytes;
    pieces[0] = {buffer.data(), cut};
    pieces[1] = {buffer.data() + cut, buffer.size() - cut};
    if (!buffer.empty()) iov = cut == 0 ? std::span<const iovec>(pieces + 1, 1) : std::span<const iovec>(pieces, 2);
    done = [](Request& request) noexcept {
      auto& io = static_cast<StampedIo&>(request);
      io.finished = true;
      if (io.then) io.then(io);
    };
  }
  // The stamp that fills a sector of what was read; nullopt if it is not one stamp.
  std::optional<uint64_t> stamp_at(uint64_t sector) const {
    const uint8_t* at = buffer.data() + sector * kSectorBytes;
    const auto found = load_le<uint64_t>(at);
    for (size_t i = 8; i < kSectorBytes; i += 8)
      if (load_le<uint64_t>(at + i) != found) return std::nullopt;
    return found;
  }

  uint64_t stamp;
  std::vector<uint8_t> buffer;
  iovec pieces[2];
  bool finished = false;
  std::function<void(StampedIo&)> then;
};

class World {
 public:
  struct Options {
    uint32_t block_size = 512;
    uint64_t size_blocks = 0;  // of the disk; 0: the whole image
    bool write_cache = true;
    bool can_unmap = true;
    uint64_t seed = 0;  // of the disk's order of completion; 0: in order
    bool recorded = false;
    uint64_t payload_bytes = uint64_t{64} << 20;  // of a recording
  };

  World(std::shared_ptr<CrashImage> image, const Options& options) : options_(options) {
    disk_ = CrashImageDisk::make(std::move(image), {.name = "disk0",
                                                    .block_size = options.block_size,
                                                    .size_blocks = options.size_blocks,
                                                    .write_cache = options.write_cache,
                                                    .can_unmap = options.can_unmap,
                                                    .seed = options.seed});
    if (!options.recorded) {
      manager_ = std::make_unique<LvolManager>(registry_, options.seed + 1);
      EXPECT_TRUE(registry_.add(disk_));
      return;
    }
    // The manager is to see only the device that records.
    EXPECT_TRUE(registry_.add(disk_));
    CrashDisk::Options crash{.name = "crash0", .base_name = "disk0", .payload_bytes = options.payload_bytes};
    crash_ = CrashDisk::create(registry_, crash).value();
    EXPECT_TRUE(crash_->start());
    manager_ = std::make_unique<LvolManager>(registry_, options.seed + 1);
    EXPECT_TRUE(registry_.add(crash_));
  }
  ~World() {
    close_channels();
    bool stopped = false;
    on_main([&] { spawn(manager_->stop(), [&] { stopped = true; }); });
    EXPECT_TRUE(turn_until([&] { return stopped; })) << "the manager does not stop";
    manager_.reset();
    crash_.reset();
    turn_until([] { return false; }, 20);
  }
  World(const World&) = delete;
  World& operator=(const World&) = delete;

  LvolManager& manager() noexcept { return *manager_; }
  std::vector<LvolInfo> lvols() const { return manager_->lvols().value(); }
  CrashDisk& crash() noexcept { return *crash_; }
  CrashImageDisk& disk() noexcept { return *disk_; }
  DeviceRegistry& registry() noexcept { return registry_; }
  const Options& options() const noexcept { return options_; }
  std::string base_name() const { return crash_ != nullptr ? "crash0" : "disk0"; }
  // Every call is later than the one before. What happens after a recording has not happened in it.
  Moment now() {
    if (crash_ != nullptr && !crash_->recording()) return kNotYet;
    return moment(crash_ != nullptr ? crash_->events() : 0, ++serial_);
  }

  // One turn of both reactors; time passes faster when there is nothing to do.
  void turn() {
    const bool main_busy = main_.turn();
    const bool busy = other_.turn() || main_busy;
    clock_.advance_ns(busy ? 5'000 : idle_ns_);
    idle_ns_ = busy ? 10'000 : std::min<uint64_t>(idle_ns_ * 2, 1'000'000);
  }
  bool turn_until(const std::function<bool()>& done, unsigned limit = 200'000) {
    for (unsigned i = 0; i < limit && !done(); ++i) turn();
    return done();
  }
  // Looks for stores on the device, as at the start of the program.
  bool examined() {
    turn_until([] { return false; }, 2);
    return turn_until([this] { return manager_->examining() == 0; });
  }
  // Runs in a turn of the main reactor, as every call of the manager has to.
  void on_main(const std::function<void()>& work) {
    bool ran = false;
    main_.post([&] {
      work();
      ran = true;
    });
    turn_until([&] { return ran; });
  }
  void post_to_main(std::function<void()> work) { main_.post(std::move(work)); }
  template <typename T>
  T run(Task<T> task) {
    std::optional<T> value;
    begin<T>(std::move(task), [&](T now) { value.emplace(std::move(now)); });
    EXPECT_TRUE(turn_until([&] { return value.has_value(); })) << "an operation of the manager does not end";
    return value.has_value() ? std::move(*value) : T(Error(Errc::timed_out, "it did not end"));
  }
  template <typename T>
  void begin(Task<T> task, std::function<void(T)> done) {
    auto shared = std::make_shared<Task<T>>(std::move(task));
    main_.post([shared, done] { spawn<T>(std::move(*shared), done); });
  }

  // A channel to a device, opened the first time it is asked for.
  Channel& channel(const std::string& device, bool on_other) {
    for (const auto& open : channels_)
      if (open->device().name() == device && (&open->reactor() == &other_) == on_other) return *open;
    Reactor& reactor = on_other ? other_ : main_;
    const std::shared_ptr<Device> found = registry_.find(device).value();
    std::unique_ptr<Channel> made;
    reactor.post([&] { made = found->open_channel(reactor).value(); });
    turn_until([&] { return made != nullptr; });
    channels_.push_back(std::move(made));
    return *channels_.back();
  }
  // With nothing in flight on them; `device` empty: all.
  void close_channels(const std::string& device = {}) {
    size_t closing = 0;
    for (auto& open : channels_) {
      if (!device.empty() && open->device().name() != device) continue;
      ++closing;
      Reactor& reactor = open->reactor();
      Channel* last = open.release();
      reactor.post([last, &closing] {
        delete last;
        --closing;
      });
    }
    turn_until([&] { return closing == 0; });
    std::erase(channels_, nullptr);
  }
  void submit(Channel& channel, StampedIo& io) {
    channel.reactor().post([&channel, &io] { channel.submit(io); });
  }
  // Starts an I/O and turns until it has finished.
  IoStatus run(Channel& channel, StampedIo& io) {
    submit(channel, io);
    EXPECT_TRUE(turn_until([&] { return io.finished; })) << "an I/O does not complete";
    return io.status;
  }

 private:
  Options options_;
  ManualClock clock_;
  uint64_t idle_ns_ = 10'000;
  uint64_t serial_ = 0;
  Reactor main_{{.name = "main", .id = 0, .clock = &clock_, .use_ring = false}};
  Reactor other_{{.name = "other", .id = 1, .clock = &clock_, .use_ring = false}};
  DeviceRegistry registry_{main_};
  std::shared_ptr<CrashImageDisk> disk_;
  std::shared_ptr<CrashDisk> crash_;
  std::unique_ptr<LvolManager> manager_;
  std::vector<std::unique_ptr<Channel>> channels_;
};

}  // namespace diskengine::lvol
