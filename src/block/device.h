// A block device (SPDK: bdev) and its per-reactor handle, the Channel: the one contract between all layers of the path.
//
//   Input object: Request, by Channel::submit(). Output: a layer's own Requests to the Channels below it, or I/O.
//   Completion: Channel::finish(), which runs Request::done.
//
// Threads: devices are created, changed and destroyed on the main reactor (reactor 0). A channel belongs to the reactor
// that opened it. Devices are held by shared_ptr: the registry holds one, and so does every user.
#pragma once

#include <array>
#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "base/histogram.h"
#include "base/list.h"
#include "base/result.h"
#include "base/uuid.h"
#include "block/request.h"
#include "runtime/reactor.h"
#include "runtime/task.h"

namespace diskengine {

class Device;

// What a device is and can do. During its life only size_blocks changes (announced to watchers), read_only to true, and
// the aliases, which only the main reactor reads (DeviceRegistry::replace_alias).
struct DeviceInfo {
  std::string name;
  std::vector<std::string> aliases;
  std::string product_name;  // as SPDK prints it: "Malloc disk", "URING bdev", "NVMe disk", "Raid Volume"
  Uuid uuid;
  uint32_t block_size = 512;  // bytes: 512 or 4096
  uint64_t size_blocks = 0;
  bool write_cache = false;  // completed writes may be lost in a power cut until flushed
  bool read_only = false;
  // Reads and writes always work. Flush works everywhere (where there is no cache it completes at once). FUA is
  // honoured by every device.
  bool can_unmap = false;
  bool can_write_zeroes = false;  // false: the submitter writes zeroes itself
  bool can_compare = false;
  uint32_t buffer_align = 1;         // payload alignment in bytes at which this device needs no copy
  uint32_t max_transfer_blocks = 0;  // longest read or write; 0: no limit. Longer ones fail with IoCode::invalid
  uint32_t optimal_blocks = 0;       // I/O is best split at multiples of this; 0: nothing known
  trace::Layer layer = trace::Layer::other;  // whose times its I/O counts to in traces

  uint64_t size_bytes() const noexcept { return size_blocks * block_size; }
};

struct OpStats {
  uint64_t count = 0;
  uint64_t bytes = 0;
  uint64_t errors = 0;
  uint64_t ticks = 0;  // total time from submit to completion
  uint64_t max_ticks = 0;
  uint64_t min_ticks = UINT64_MAX;
};

// What a collection of statistics sets back once it has read them.
enum class StatsReset { nothing, extremes, errors, everything };

// Counted by each channel on its own reactor, in the reactor's batch_ticks(), which requests of one batch share;
// Device::collect_stats adds them up.
struct IoStats {
  std::array<OpStats, kOps> ops;
  // Latency in ticks of reads, writes, and everything else.
  std::array<Histogram, 3> latency;
  void merge(const IoStats& other) noexcept;
  void reset(StatsReset what = StatsReset::everything) noexcept;
};

// What a channel has taken and not completed: how much, and the request that has waited longest.
struct Outstanding {
  unsigned reactor_id = 0;
  uint64_t count = 0;
  Op oldest_op = Op::read;
  uint64_t oldest_lba = 0;
  uint64_t oldest_blocks = 0;
  uint64_t oldest_age_ticks = 0;
};

struct DeviceStats {
  struct PerChannel {
    unsigned reactor_id;
    IoStats stats;
  };
  IoStats total;                     // all channels, past and present, over all reactors
  std::vector<PerChannel> channels;  // the open ones
};

class Channel : public ListHook {
 public:
  Channel(std::shared_ptr<Device> device, Reactor& reactor);
  // With nothing outstanding, on its own reactor.
  virtual ~Channel();
  Channel(const Channel&) = delete;
  Channel& operator=(const Channel&) = delete;

  // Takes the request; it completes later, never inside this call. Ranges, lengths, alignment of sizes and support for
  // the operation are checked here, so layers may assume them: a bad request completes with invalid or not_supported.
  void submit(Request& request) noexcept;

  Device& device() const noexcept { return *device_; }
  const std::shared_ptr<Device>& device_ref() const noexcept { return device_; }
  Reactor& reactor() const noexcept { return reactor_; }
  uint64_t outstanding() const noexcept { return outstanding_; }
  // The one that was submitted first of those outstanding, or nullptr. Own reactor.
  const Request* oldest() const noexcept { return oldest_; }
  const IoStats& stats() const noexcept { return stats_; }
  void reset_stats(StatsReset what) noexcept { stats_.reset(what); }
  // Runs `idle` once nothing was outstanding (at once if so): for closing. The closer submits nothing meanwhile.
  void when_idle(std::function<void()> idle);

 protected:
  // The layer's part: start the request; call finish() for it exactly once, now or later.
  virtual void start(Request& request) noexcept = 0;
  // Completes `request`. If called inside start() the completion is deferred to later in the turn.
  void finish(Request& request, IoStatus status) noexcept;

 private:
  struct Completer;
  IoStatus check(const Request& request) const noexcept;
  void enter(Request& request) const noexcept;
  void complete(Request& request) noexcept;
  void link(Request& request) noexcept;
  void unlink(Request& request) noexcept;

  std::shared_ptr<Device> device_;
  Reactor& reactor_;
  uint64_t outstanding_ = 0;
  Request* oldest_ = nullptr;
  Request* newest_ = nullptr;
  bool starting_ = false;
  List<Request> finished_;  // completed inside start(), waiting for the deferred run
  std::unique_ptr<Completer> completer_;
  std::vector<std::function<void()>> idle_waiters_;
  IoStats stats_;
};

// Device::cache_instance() of a device that has everything on stable media when it completes a write.
inline constexpr Uuid kNothingCached{
    {0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff}};
// Of a device over two others: nil if either is, else another one whenever one of them changes.
Uuid join_cache_instances(const Uuid& one, const Uuid& other);

// Told of a device's events, on the main reactor. Must outlive its registration.
class DeviceWatcher : public ListHook {
 public:
  // The device is going away: finish your I/O, close your channels and drop your reference, soon.
  virtual void on_removed(Device& device) = 0;
  virtual void on_resized(Device& device) { static_cast<void>(device); }
  // What the device had completed and not flushed may be gone, and it comes back: the process or machine behind it was
  // started anew. It does no I/O, not even what is under way, before nobody has `hold` any more; who keeps it waits for
  // no I/O of the device meanwhile.
  virtual void on_cache_lost(Device& device, const std::shared_ptr<void>& hold) {
    static_cast<void>(device);
    static_cast<void>(hold);
  }

 protected:
  ~DeviceWatcher() = default;
};

class Device : public std::enable_shared_from_this<Device> {
 public:
  explicit Device(DeviceInfo info);
  virtual ~Device();
  Device(const Device&) = delete;
  Device& operator=(const Device&) = delete;

  const DeviceInfo& info() const noexcept { return info_; }
  const std::string& name() const noexcept { return info_.name; }
  // Any reactor's thread, once it has been set up there. Read by channels of all reactors.
  uint64_t size_blocks() const noexcept { return size_blocks_.load(std::memory_order_relaxed); }
  // As size_blocks().
  bool read_only() const noexcept { return read_only_.load(std::memory_order_relaxed); }

  // Opens a handle on the current reactor. Cheap and never blocks; a device that must connect queues requests till
  // then.
  virtual Result<std::unique_ptr<Channel>> open_channel(Reactor& reactor) = 0;

  // The exclusive right to write, for one owner above ("raid_1", "nvmf nqn.…", "vhost.0"); fails with Errc::busy and
  // the holder's name. Released by release(). SPDK calls this a claim.
  Result<void> claim(const std::string& owner);
  void release() noexcept { claimed_by_.clear(); }
  const std::string& claimed_by() const noexcept { return claimed_by_; }

  void watch(DeviceWatcher& watcher) noexcept { watchers_.push_back(watcher); }
  void unwatch(DeviceWatcher& watcher) noexcept { watchers_.remove(watcher); }
  bool removed() const noexcept { return removed_; }

  // Visits all channels on their reactors, then calls `done` on the calling reactor.
  void collect_stats(StatsReset reset, std::function<void(DeviceStats)> done);
  // The same for what is outstanding: one entry for each channel that has something.
  void collect_outstanding(std::function<void(std::vector<Outstanding>)> done);

  // What goes under "driver_specific" in bdev_get_bdevs, as JSON text ("{}" by default). Main reactor.
  virtual std::string driver_specific_json() const { return "{}"; }
  // The RPC call that makes this device again, as one JSON object text {"method":…,"params":…}; empty: none (made by
  // another object's call). Main reactor.
  virtual std::string config_json() const { return {}; }
  // The highest epoch of those who were let write here, kept with the data; 0: none, or this device keeps none. A
  // target refuses hosts of lower ones (nvmf/subsystem.h). Main reactor.
  virtual uint64_t writer_epoch() const noexcept { return 0; }
  // Durable when it returns. Errc::not_supported: this device keeps none; conflict: it has a higher one. Main reactor.
  virtual Task<Result<void>> set_writer_epoch(uint64_t epoch);
  // Names what holds the writes that were completed and not flushed. Whoever saw the same name before, from this
  // process or another one that had the device, knows that none of them was lost in between. Nil: they end with this
  // process, as everything does that a device has in its memory, or nobody knows. Main reactor.
  virtual Uuid cache_instance() const { return {}; }
  // Called by the registry once, when removal begins: stop taking new work. Watchers are told after it.
  virtual void on_remove() {}

 protected:
  // Main reactor. Announces the new size.
  void set_size_blocks(uint64_t size_blocks);
  // Main reactor. Tells the watchers; the caller begins with I/O again when the last of them has let go of `hold`.
  void announce_cache_lost(const std::shared_ptr<void>& hold);
  // Main reactor. For good: writes that come from now on are refused.
  void set_read_only() noexcept { read_only_.store(true, std::memory_order_relaxed); }
  DeviceInfo& mutable_info() noexcept { return info_; }

 private:
  friend class Channel;
  friend class DeviceRegistry;
  void attach_channel(Channel& channel);
  void detach_channel(Channel& channel);
  void announce_removed();

  DeviceInfo info_;
  std::atomic<uint64_t> size_blocks_{info_.size_blocks};
  std::atomic<bool> read_only_{info_.read_only};
  std::string claimed_by_;
  List<DeviceWatcher> watchers_;
  bool removed_ = false;
  struct ChannelSet;
  std::shared_ptr<ChannelSet> channels_;
};

}  // namespace diskengine
