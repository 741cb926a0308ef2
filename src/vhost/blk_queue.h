// One virtqueue of a virtio block device: turns what the guest puts into its ring into block requests, in place in
// guest memory, and their completions into used elements, published and notified once a turn.
//
//   Input object: a descriptor chain. Output object: a Request to the device's Channel. Completion callback:
//   BlkQueue::on_done, which writes the status byte and returns the chain.
//
// Made and destroyed on the main reactor by its session. Everything from start() to the end of stop() is for the
// queue's own reactor, except what says otherwise.
#pragma once

#include <atomic>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "base/unique_fd.h"
#include "block/request.h"
#include "runtime/reactor.h"
#include "vhost/blk_request.h"
#include "vhost/device_handle.h"
#include "vhost/inflight.h"
#include "vhost/split_ring.h"

namespace diskengine::vhost {

// Interrupts are held back for up to delay_base_us times the excess of the rate over iops_threshold (at most 1 ms); 0:
// never.
struct Coalescing {
  uint32_t delay_base_us = 0;
  uint32_t iops_threshold = 60'000;
};

class BlkQueue final : public Source, private TurnEndHook {
 public:
  static constexpr uint16_t kBatchMax = 32;  // chains taken in one poll

  struct Options {
    std::string name;  // "vhost.0 queue 1", for the log
    SplitRing::Options ring;
    uint16_t base = 0;  // position in the available ring, as the front end told
    std::shared_ptr<const GuestMemory> memory;
    std::shared_ptr<const Mapping> inflight;  // with this queue's part of it, or null
    uint8_t* inflight_part = nullptr;
    UniqueFd kick;  // none: poll without pause
    UniqueFd call;  // none: the driver polls
    UniqueFd err;
    DeviceHandle* device = nullptr;
    std::string serial;  // what get_id answers, up to 20 bytes
    uint32_t block_size = 512;
    uint32_t max_transfer_blocks = 0;  // of the device; longer requests go in parts, one after the other
    bool read_only = false;
    bool write_through = false;  // the driver knows of no cache: every write is durable when it completes
    Coalescing coalescing;
    std::function<void()> on_memory_fault;  // on this reactor, once: the front end took guest memory away
  };

  explicit BlkQueue(Options options);
  ~BlkQueue();

  Reactor& home() const noexcept { return options_.device->reactor(); }

  // Attaches to the ring, replays what was in flight, and begins to poll. Errc::invalid_argument for a ring that is not
  // in guest memory.
  Result<void> start();
  // Takes nothing more; `drained` runs on this reactor, outside any completion, when all that was taken is returned.
  void stop(std::function<void(uint16_t position)> drained);
  // The process ends: from now on a request that fails is left where it is, taken and not returned, for the next
  // process to replay; the guest sees no error. Only with an in-flight buffer, without which that one could not know of
  // it. Any thread.
  void leave_failures() noexcept { leaves_failures_.store(true, std::memory_order_relaxed); }
  // On failure the queue is broken until it is stopped and made again.
  Result<void> set_memory(std::shared_ptr<const GuestMemory> memory);
  void set_call(UniqueFd call) { options_.call = std::move(call); }
  void set_err(UniqueFd err) { options_.err = std::move(err); }
  void set_coalescing(const Coalescing& coalescing) { options_.coalescing = coalescing; }

  // Any thread, a moment old.
  uint32_t outstanding() const noexcept { return shown_outstanding_.load(std::memory_order_relaxed); }
  uint64_t bad_requests() const noexcept { return bad_requests_.load(std::memory_order_relaxed); }
  bool broken() const noexcept { return broken_.load(std::memory_order_relaxed); }
  struct Progress {
    uint64_t completed = 0;   // requests returned to the driver
    uint64_t notified = 0;    // times it was notified of that
    uint64_t suppressed = 0;  // times it did not want to be
    uint16_t waiting = 0;     // requests in the ring that were not taken yet
    uint16_t unseen = 0;      // completions that the driver has not looked at (SplitRing::unseen)
  };
  // Posts a look at the ring to the queue's reactor; progress() then is as of that look. Main reactor.
  void refresh_progress();
  // Any thread.
  Progress progress() const noexcept;

 private:
  // A table of memory and how many requests point into it.
  struct MemoryUse {
    std::shared_ptr<const GuestMemory> memory;
    uint32_t requests = 0;
  };

  // One per head.
  struct Slot : Request {
    BlkQueue* queue = nullptr;
    MemoryUse* memory = nullptr;
    uint8_t* status_byte = nullptr;
    uint64_t blocks_left = 0;      // after the part under way
    std::span<iovec> pieces_left;  // from the last piece of the part under way on
    iovec rest{};                  // what of that piece comes after the part
    uint32_t used_bytes = 0;
    uint16_t head = 0;
    bool busy = false;
    trace::Visit* traced = nullptr;
    Chain chain;
  };

  int poll() noexcept override;
  bool arm() noexcept override;
  void disarm() noexcept override;
  void at_turn_end() noexcept override;

  void take(uint16_t head) noexcept;
  void execute(Slot& slot) noexcept;
  void execute_transfer(Slot& slot, const BlkRequest& request, bool write) noexcept;
  void execute_range(Slot& slot, const BlkRequest& request, bool discard) noexcept;
  void execute_get_id(Slot& slot, const BlkRequest& request) noexcept;
  void begin_trace(Slot& slot, uint64_t blocks) noexcept;
  void submit(Slot& slot) noexcept;
  void submit_part(Slot& slot) noexcept;
  static void on_done(Request& request) noexcept;
  void finish(Slot& slot, uint8_t status) noexcept;
  void reject(Slot& slot, const char* why, uint8_t status = spec::kVirtioBlkIoErr) noexcept;
  void return_chain(Slot& slot, uint32_t used_bytes) noexcept;
  void leave_in_flight(Slot& slot) noexcept;
  void let_memory_go(Slot& slot) noexcept;
  void count_bad(const char* why) noexcept;
  void fail(const char* why) noexcept;
  void signal_driver() noexcept;
  void notify_driver() noexcept;
  void look_at_ring() noexcept;
  void check_memory() noexcept;
  void end_stop();

  Options options_;
  SplitRing ring_;
  Inflight inflight_;
  std::vector<Slot> slots_;
  std::unique_ptr<iovec[]> overflow_;  // Chain::kPiecesMax per slot; pages are used only as far as chains are long
  std::vector<uint16_t> returned_;     // heads pushed and not published; room for all
  std::unique_ptr<MemoryUse> memory_;
  std::vector<std::unique_ptr<MemoryUse>> old_memory_;
  uint32_t outstanding_ = 0;  // taken and not published
  bool armed_ = false;
  bool memory_faulted_ = false;
  std::function<void(uint16_t)> drained_;

  Timer late_signal_;
  uint64_t next_signal_ns_ = 0;
  uint64_t signal_gap_ns_ = 0;
  uint64_t window_start_ns_ = 0;
  uint64_t window_requests_ = 0;

  std::atomic<uint32_t> shown_outstanding_{0};
  std::atomic<uint64_t> shown_completed_{0};
  std::atomic<uint64_t> notified_{0};
  std::atomic<uint64_t> suppressed_{0};
  std::atomic<uint16_t> shown_waiting_{0};
  std::atomic<uint16_t> shown_unseen_{0};
  std::atomic<uint64_t> bad_requests_{0};
  std::atomic<bool> broken_{false};
  std::atomic<bool> leaves_failures_{false};
};

}  // namespace diskengine::vhost
