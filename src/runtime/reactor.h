// The event loop of one core. A reactor owns everything that was created on it; other threads reach it only by post().
//
// One turn: messages from other threads, due timers, io_uring completions, the hot sources, deferred work until there
// is none (so completions of this turn run in this turn), then the turn-end hooks (which send what the turn produced),
// then one system call for all new io_uring submissions. It spins while there was work within the last Options::spin_ns
// (less where that does not pay) and then blocks in io_uring until a timer, a completion, a message or a cold
// source's descriptor wakes it.
//
// Threads: everything is for the reactor's own thread, except post(), stop() and what says otherwise.
#pragma once

#include <sys/uio.h>

#include <array>
#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "base/list.h"
#include "runtime/clock.h"

struct io_uring;
struct io_uring_sqe;

namespace diskengine {

class Reactor;
namespace trace {
class Recorder;
}

// Receives the completion of one io_uring submission. Owned by the submitter, alive until the completion came (the last
// one, for multishot operations: the one without IORING_CQE_F_MORE).
class RingOp {
 public:
  virtual void on_completion(int result, uint32_t cqe_flags) noexcept = 0;

 protected:
  ~RingOp() = default;
};

// Work put off to later in the same turn. Owned by whoever defers it; may be deferred again from run().
class Deferred : public ListHook {
 public:
  virtual void run() noexcept = 0;

 protected:
  ~Deferred() = default;
};

// Runs once at the end of the turn in which it was scheduled, after all deferred work: to flush what piled up.
class TurnEndHook : public ListHook {
 public:
  virtual void at_turn_end() noexcept = 0;

 protected:
  ~TurnEndHook() = default;
};

// Something that is polled while it is busy and waited for while it is not: a socket, a virtqueue with its kick
// descriptor, a completion channel. Hot sources are polled every turn; a source without work for Options::spin_ns is
// armed (arm() switches notifications on) and goes cold until its descriptor is readable. Owned by its layer, which
// removes it from the reactor before destroying it or closing the descriptor.
class Source {
 public:
  // `name` is a literal that thread_get_pollers shows. `fd` may be set later but before the source first goes cold.
  explicit Source(const char* name, int fd = -1) noexcept : name_(name), fd_(fd) {}
  Source(const Source&) = delete;
  Source& operator=(const Source&) = delete;

  // Does what work there is, without blocking; returns how much (0: none). May remove this source from the reactor, but
  // must not destroy it.
  virtual int poll() noexcept = 0;
  // About to go cold. Returns false if work turned up meanwhile: the source then stays hot.
  virtual bool arm() noexcept { return true; }
  // Hot again after having been armed.
  virtual void disarm() noexcept {}

  const char* name() const noexcept { return name_; }
  int fd() const noexcept { return fd_; }
  void set_fd(int fd) noexcept { fd_ = fd; }
  // poll(2) events to wait for while cold; POLLIN unless changed.
  void set_events(short events) noexcept { events_ = events; }
  Reactor* reactor() const noexcept { return reactor_; }
  uint64_t polls() const noexcept { return polls_; }
  uint64_t busy_polls() const noexcept { return busy_polls_; }

 protected:
  ~Source();

 private:
  friend class Reactor;
  struct Watch;
  static constexpr size_t kCold = SIZE_MAX;
  const char* name_;
  int fd_;
  short events_ = 1;  // POLLIN
  Reactor* reactor_ = nullptr;
  size_t index_ = 0;          // in Reactor::sources_
  size_t hot_index_ = kCold;  // in Reactor::hot_
  Watch* watch_ = nullptr;    // waits for the descriptor while cold; owned by the reactor
  uint64_t last_work_ns_ = 0;
  uint64_t polls_ = 0;
  uint64_t busy_polls_ = 0;
};

// A one-shot timer owned by its user; destroying it cancels it.
class Timer {
 public:
  explicit Timer(std::function<void()> fire) : fire_(std::move(fire)) {}
  Timer(const Timer&) = delete;
  Timer& operator=(const Timer&) = delete;
  ~Timer() { cancel(); }

  // Fires once `delay_ns` from now on `reactor`. Re-arming moves the deadline. May be called from its own callback.
  void arm(Reactor& reactor, uint64_t delay_ns);
  void cancel() noexcept;
  bool armed() const noexcept { return reactor_ != nullptr; }
  uint64_t deadline_ns() const noexcept { return deadline_ns_; }

 private:
  friend class Reactor;
  std::function<void()> fire_;
  Reactor* reactor_ = nullptr;
  uint64_t deadline_ns_ = 0;
  size_t heap_index_ = 0;
};

// A message to another reactor that carries its own hook, for the hot path; owned by the sender until it has run.
class Message {
 public:
  virtual void deliver() noexcept = 0;

 protected:
  ~Message() = default;

 private:
  friend class Reactor;
  Message* next_ = nullptr;
};

class Reactor {
 public:
  // How often one piece of deferred work may defer itself anew within a turn; then the other sources get their turn.
  static constexpr unsigned kDeferredRoundsMax = 8;
  static constexpr unsigned kCompletionsPerTurnMax = 1024;
  static constexpr unsigned kRegisteredFilesMax = 256;

  struct Options {
    std::string name = "reactor_0";
    unsigned id = 0;               // place in the list of reactors; reactor 0 is the main one
    int cpu = -1;                  // core to pin run()'s thread to; -1: none
    const Clock* clock = nullptr;  // nullptr: the machine's clock
    uint64_t spin_ns = 100'000;    // how long to spin without work before blocking, at most
    unsigned ring_entries = 1024;  // io_uring submission queue
    bool use_ring = true;          // false: no io_uring and no blocking, for worlds polled by hand
  };

  struct Stats {
    uint64_t turns = 0;
    uint64_t busy_ticks = 0;   // turns that did work
    uint64_t idle_ticks = 0;   // turns that spun without work
    uint64_t sleep_ticks = 0;  // blocked in the kernel
    uint64_t sleeps = 0;
    uint64_t enters = 0;  // io_uring_enter calls
  };

  explicit Reactor(Options options);
  ~Reactor();
  Reactor(const Reactor&) = delete;
  Reactor& operator=(const Reactor&) = delete;

  // Turns until stop(). The calling thread becomes this reactor's thread.
  void run();
  // Any thread. run() returns after the turn under way.
  void stop() noexcept;
  // One turn that never blocks, for tests and worlds polled by hand; returns true if there was work.
  bool turn();
  // Turns until `done` holds or `limit_ns` of real time has passed; returns whether it held. For tests and start-up.
  bool run_until(const std::function<bool()>& done, uint64_t limit_ns = 10'000'000'000);

  // The reactor whose turn this thread is in, or nullptr.
  static Reactor* current() noexcept;
  bool is_current() const noexcept { return current() == this; }

  const std::string& name() const noexcept { return options_.name; }
  unsigned id() const noexcept { return options_.id; }
  int cpu() const noexcept { return options_.cpu; }
  const Clock& clock() const noexcept { return *clock_; }
  // Read once per turn.
  uint64_t now_ns() const noexcept { return now_ns_; }
  // The time-stamp counter for statistics, read at most once in each batch: a message, a timer, a poll of a source, a
  // round of deferred work, the completions of a turn. Reading it for each request would cost as much as copying its
  // data.
  uint64_t batch_ticks() noexcept {
    if (batch_ticks_ == 0) batch_ticks_ = ticks();
    return batch_ticks_;
  }
  const Stats& stats() const noexcept { return stats_; }
  // Who records what I/Os do that start on this reactor; nullptr: nobody. Set before run().
  trace::Recorder* recorder() const noexcept { return recorder_; }
  void set_recorder(trace::Recorder* recorder) noexcept { recorder_ = recorder; }

  // Any thread. Runs `work` on this reactor in one of its next turns; messages of one sender stay in order.
  void post(std::function<void()> work);
  void post(Message& message) noexcept;

  // Runs later in this turn, in order of deferral.
  void defer(Deferred& work) noexcept { deferred_.push_back(work); }
  void at_turn_end(TurnEndHook& hook) noexcept {
    if (!hook.linked()) turn_end_.push_back(hook);
  }

  // Adds a source, hot. A source without a descriptor stays hot, and keeps the reactor spinning, as long as it is
  // added.
  void add(Source& source) noexcept;
  void remove(Source& source) noexcept;
  // Makes a cold source hot: an answer is expected soon.
  void heat(Source& source) noexcept;
  // Whether it has an io_uring (Options::use_ring).
  bool has_ring() const noexcept { return options_.use_ring; }
  // All sources of this reactor, for thread_get_pollers.
  void for_each_source(const std::function<void(const Source&)>& visit);

  size_t timers_armed() const noexcept { return timers_.size(); }

  // A submission queue entry to prepare; hand it over with submit(). Never null: a full queue is submitted first.
  io_uring_sqe* sqe() noexcept;
  void submit(io_uring_sqe* entry, RingOp& op) noexcept;
  // Registers `fd` with the ring, so that its submissions need no look-up; the index to use with IOSQE_FIXED_FILE, or
  // -1 when kRegisteredFilesMax are registered or the kernel refuses: submissions then use the descriptor itself.
  int register_file(int fd) noexcept;
  // With nothing outstanding on it.
  void unregister_file(int index) noexcept;
  // io_uring operations submitted and not completed.
  unsigned ring_ops_in_flight() const noexcept { return ring_ops_; }

 private:
  friend class Timer;
  struct WakeOp;

  void open_ring();
  bool run_turn();
  unsigned run_messages() noexcept;
  unsigned run_timers();
  unsigned run_completions() noexcept;
  unsigned poll_sources() noexcept;
  unsigned run_deferred() noexcept;
  void run_turn_end() noexcept;
  void submit_pending() noexcept;
  void block_until_event();
  bool cool(Source& source) noexcept;
  bool cool_all() noexcept;
  void make_hot(Source& source) noexcept;
  void make_cold(Source& source) noexcept;
  void fill_holes() noexcept;
  void release(Source::Watch& watch) noexcept;
  void abandon_watch(Source& source) noexcept;
  void wake() noexcept;
  void heap_up(size_t at) noexcept;
  void heap_down(size_t at) noexcept;
  void heap_remove(size_t at) noexcept;
  friend struct Source::Watch;

  Options options_;
  SystemClock system_clock_;
  const Clock* clock_;
  uint64_t now_ns_ = 0;
  uint64_t last_work_ns_ = 0;
  trace::Recorder* recorder_ = nullptr;
  uint64_t batch_ticks_ = 0;  // 0: not read yet in this batch
  Stats stats_;

  std::unique_ptr<io_uring> ring_;
  unsigned ring_ops_ = 0;
  std::vector<int> free_file_slots_;
  bool file_table_tried_ = false;

  std::atomic<Message*> inbox_{nullptr};
  std::atomic<bool> sleeping_{false};
  std::atomic<bool> stopping_{false};
  int wake_fd_ = -1;
  std::unique_ptr<WakeOp> wake_op_;

  List<Deferred> deferred_;
  List<TurnEndHook> turn_end_;
  std::vector<Source*> sources_;  // all
  std::vector<Source*> hot_;      // removal leaves a hole until the end of the poll pass
  bool hot_has_holes_ = false;
  std::vector<std::unique_ptr<Source::Watch>> watches_;  // of sources_, and of removed ones until the kernel let go
  std::vector<Timer*> timers_;                           // binary heap by deadline
};

}  // namespace diskengine
