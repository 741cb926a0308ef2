// A device that records what would matter in a power cut: every write, write_zeroes, unmap and flush with its payload,
// and in which order they were submitted and completed. From a recording, crash_replay.h makes the disks that a cut
// could have left behind.
//
//   Input object: Request. Output object: a child Request for the base. Completion callback: base_done(), which
//   records the completion.
//
// Threads: start() and stop() on the main reactor; mark() on any reactor's thread. Channels of all reactors record into
// one order, under a mutex: this device is for tests and drills, not for speed.
#pragma once

#include <cstdint>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "block/decorators/layered.h"
#include "runtime/dma_buffer.h"

namespace diskengine {

// What happened on a disk from one moment on, as a numbered list of events. Owned by whoever stopped the recording.
struct CrashRecording {
  static constexpr size_t kNever = SIZE_MAX;

  struct Operation {
    Op op = Op::write;  // write, write_zeroes, unmap or flush
    bool fua = false;
    bool ok = false;                   // completed without an error
    uint64_t offset = 0;               // in bytes
    uint64_t length = 0;               // in bytes; flush: 0
    const uint8_t* payload = nullptr;  // of a write: `length` bytes, as they were when it was submitted
    size_t submitted = 0;              // number of its event
    size_t completed = kNever;
  };

  enum class What : uint8_t { submitted, completed, mark };
  struct Event {
    What what = What::mark;
    uint64_t value = 0;  // index of the operation, or what mark() was given
  };

  std::vector<Operation> operations;  // in order of submission
  std::vector<Event> events;
  uint64_t refused = 0;  // writes that were failed because the recording was full
  DmaBuffer payloads;
};

class CrashDisk final : public LayeredDevice {
 public:
  static constexpr uint64_t kPayloadBytesMax = uint64_t{4} << 30;
  static constexpr size_t kOperationsMax = size_t{1} << 22;
  static constexpr size_t kEventsPerOperation = 3;  // its own two, and room for a mark

  struct Options {
    std::string name;
    std::string base_name;
    Uuid uuid{};
    // What one recording may hold; reserved at start(), used by the kernel page by page. A request beyond it fails with
    // ENOMEM and does not reach the base, so the recording stays true.
    uint64_t payload_bytes = uint64_t{256} << 20;
    size_t operations = size_t{1} << 16;
  };

  // Claims the base. Errors: no_device, busy, invalid_argument (a bound of 0 or over its maximum).
  static Result<std::shared_ptr<CrashDisk>> create(DeviceRegistry& registry, const Options& options);
  ~CrashDisk() override;

  Result<std::unique_ptr<Channel>> open_channel(Reactor& reactor) override;
  std::string driver_specific_json() const override;

  // Begins a recording: what the base holds now counts as durable. Errc::busy while one is under way or while writes
  // that it would miss are in flight; no_memory.
  Result<void> start();
  // Ends it and hands it over; what is in flight stays so in it. Errc::not_found if there is none.
  Result<CrashRecording> stop();
  bool recording() const;
  // Puts `value` into the order of events and returns the event's number; Errc::out_of_range when the recording is
  // full, not_found if there is none.
  Result<size_t> mark(uint64_t value);
  // How many events there are so far (0 without a recording): a moment to compare with the numbers of events.
  size_t events() const;

 private:
  class CrashChannel;
  // What a request remembers of its record: which recording, and which operation in it.
  struct Ticket {
    uint32_t recording = 0;  // 0: not recorded
    uint32_t operation = 0;
  };

  CrashDisk(DeviceInfo info, std::shared_ptr<Device> base, DeviceRegistry& registry, const Options& options);
  bool record_submit(const Request& request, Ticket& ticket) noexcept;
  void record_complete(Ticket ticket, IoStatus status) noexcept;

  const Options options_;
  mutable std::mutex mutex_;  // guards what follows
  std::unique_ptr<CrashRecording> recording_;
  uint32_t recordings_ = 0;  // begun so far
  uint64_t payload_used_ = 0;
  uint64_t in_flight_ = 0;  // writes and the like, recorded or not
};

}  // namespace diskengine
