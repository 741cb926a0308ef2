#include "runtime/reactor.h"

#include <immintrin.h>
#include <liburing.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <utility>

#include "base/assert.h"
#include "base/log.h"

namespace diskengine {
namespace {

thread_local Reactor* current_reactor = nullptr;

// For the duration of a turn, the reactor that this thread is.
class CurrentScope {
 public:
  explicit CurrentScope(Reactor* reactor) : previous_(current_reactor) { current_reactor = reactor; }
  ~CurrentScope() { current_reactor = previous_; }

 private:
  Reactor* previous_;
};

// How long to spin before blocking. Spinning pays while what we wait for comes in time; where it does not (it comes
// rarely, or needs the core that we spin on) credit runs out and the reactor blocks early, but tries again now and
// then.
class SpinBudget {
 public:
  explicit SpinBudget(uint64_t longest_ns) : longest_ns_(longest_ns), shortest_ns_(std::min(kShortNs, longest_ns)) {}

  void found_work() noexcept {
    if (!spinning_) return;
    spinning_ = false;
    credit_ = std::min(kCreditMax, credit_ > 0 ? credit_ + 1 : (trying() ? kCreditMax / 2 : 0));
  }
  // No work for `idle_ns`: true if it is time to block.
  bool used_up(uint64_t idle_ns) noexcept {
    spinning_ = true;
    const bool full = credit_ > 0 || trying();
    if (idle_ns < (full ? longest_ns_ : shortest_ns_)) return false;
    spinning_ = false;
    ++blocks_;
    if (full) credit_ = credit_ > kFailureCost ? credit_ - kFailureCost : 0;
    return true;
  }

 private:
  static constexpr uint64_t kShortNs = 10'000;
  static constexpr unsigned kCreditMax = 16;
  static constexpr unsigned kFailureCost = 4;
  static constexpr unsigned kTryEvery = 32;

  bool trying() const noexcept { return blocks_ % kTryEvery == 0; }

  const uint64_t longest_ns_;
  const uint64_t shortest_ns_;
  unsigned credit_ = kCreditMax;
  unsigned blocks_ = 0;
  bool spinning_ = false;
};

class FunctionMessage final : public Message {
 public:
  explicit FunctionMessage(std::function<void()> work) : work_(std::move(work)) {}
  void deliver() noexcept override {
    std::function<void()> work = std::move(work_);
    delete this;
    work();
  }

 private:
  std::function<void()> work_;
};

}  // namespace

// The one-shot poll on a source's descriptor. Lives as long as the kernel may complete it, which may be longer than the
// source.
struct Source::Watch final : RingOp {
  Watch(Reactor& r, Source* s) : reactor(r), source(s) {}
  void on_completion(int result, uint32_t) noexcept override {
    in_flight = false;
    if (source == nullptr) {
      reactor.release(*this);
      return;
    }
    if (result < 0 && result != -ECANCELED) LOG_ERROR("runtime", "source {}: poll failed: {}", source->name_, result);
    reactor.heat(*source);
  }
  Reactor& reactor;
  Source* source;
  bool in_flight = false;
  short events = 0;  // waited for
};

// The standing read of the descriptor that post() writes to while the reactor sleeps.
struct Reactor::WakeOp final : RingOp {
  explicit WakeOp(Reactor& r) : reactor(r) {}
  void arm() noexcept {
    io_uring_sqe* entry = reactor.sqe();
    io_uring_prep_read(entry, reactor.wake_fd_, &count, sizeof count, 0);
    reactor.submit(entry, *this);
  }
  void on_completion(int result, uint32_t) noexcept override {
    if (result != -ECANCELED) arm();
  }
  Reactor& reactor;
  uint64_t count = 0;
};

Source::~Source() { DE_ASSERT(reactor_ == nullptr); }

Reactor::Reactor(Options options)
    : options_(std::move(options)), clock_(options_.clock != nullptr ? options_.clock : &system_clock_) {
  DE_ASSERT(options_.ring_entries >= 64);
  now_ns_ = clock_->now_ns();
  last_work_ns_ = now_ns_;
  if (options_.use_ring) {
    wake_fd_ = eventfd(0, EFD_CLOEXEC);
    DE_ASSERT(wake_fd_ >= 0);
  }
}

Reactor::~Reactor() {
  DE_ASSERT(current_reactor != this);
  run_messages();
  for (Source* source : sources_) DE_ASSERT(source == nullptr);
  if (ring_) io_uring_queue_exit(ring_.get());
  if (wake_fd_ >= 0) close(wake_fd_);
  for (Timer* timer : timers_) timer->reactor_ = nullptr;
}

Reactor* Reactor::current() noexcept { return current_reactor; }

// SINGLE_ISSUER and DEFER_TASKRUN bind the ring to the thread that made it, so the loop's own thread does.
void Reactor::open_ring() {
  ring_ = std::make_unique<io_uring>();
  io_uring_params params{};
  params.flags = IORING_SETUP_SINGLE_ISSUER | IORING_SETUP_DEFER_TASKRUN | IORING_SETUP_TASKRUN_FLAG |
                 IORING_SETUP_CQSIZE | IORING_SETUP_CLAMP;
  params.cq_entries = options_.ring_entries * 4;
  const int rc = io_uring_queue_init_params(options_.ring_entries, ring_.get(), &params);
  if (rc < 0) {
    LOG_ERROR("runtime",
              "reactor {}: io_uring is not available: {}. Linux 6.1 or later with io_uring enabled "
              "(sysctl kernel.io_uring_disabled=0) is needed",
              options_.name, std::strerror(-rc));
    log_stop();
    std::exit(1);
  }
  wake_op_ = std::make_unique<WakeOp>(*this);
  wake_op_->arm();
}

void Reactor::run() {
  CurrentScope scope(this);
  pthread_setname_np(pthread_self(), options_.name.substr(0, 15).c_str());
  if (options_.cpu >= 0) {
    cpu_set_t set;
    CPU_ZERO(&set);
    CPU_SET(options_.cpu, &set);
    if (sched_setaffinity(0, sizeof set, &set) != 0)
      LOG_WARN("runtime", "reactor {}: cannot pin to core {}: {}", options_.name, options_.cpu, std::strerror(errno));
  }
  SpinBudget budget(options_.spin_ns);
  uint64_t start = ticks();
  while (!stopping_.load(std::memory_order_acquire)) {
    const bool worked = run_turn();
    const uint64_t end = ticks();
    (worked ? stats_.busy_ticks : stats_.idle_ticks) += end - start;
    start = end;
    if (worked) {
      budget.found_work();
      continue;
    }
    if (options_.use_ring && budget.used_up(now_ns_ - last_work_ns_)) {
      block_until_event();
      start = ticks();
    } else {
      _mm_pause();
    }
  }
}

void Reactor::stop() noexcept {
  stopping_.store(true, std::memory_order_release);
  wake();
}

bool Reactor::turn() {
  CurrentScope scope(this);
  return run_turn();
}

bool Reactor::run_until(const std::function<bool()>& done, uint64_t limit_ns) {
  const uint64_t deadline = system_clock_.now_ns() + limit_ns;
  while (!done()) {
    if (system_clock_.now_ns() > deadline) return false;
    turn();
  }
  return true;
}

bool Reactor::run_turn() {
  if (options_.use_ring && !ring_) open_ring();
  now_ns_ = clock_->now_ns();
  ++stats_.turns;
  unsigned work = run_messages();
  work += run_timers();
  work += run_completions();
  work += poll_sources();
  work += run_deferred();
  run_turn_end();
  work += run_deferred();
  submit_pending();
  batch_ticks_ = 0;
  if (work > 0) last_work_ns_ = now_ns_;
  return work > 0;
}

unsigned Reactor::run_messages() noexcept {
  if (inbox_.load(std::memory_order_relaxed) == nullptr) return 0;
  // The inbox is a stack, newest first: turn it over to deliver in order.
  Message* taken = inbox_.exchange(nullptr, std::memory_order_acquire);
  Message* ordered = nullptr;
  while (taken != nullptr) {
    Message* next = taken->next_;
    taken->next_ = ordered;
    ordered = taken;
    taken = next;
  }
  unsigned count = 0;
  while (ordered != nullptr) {
    Message* message = ordered;
    ordered = message->next_;
    message->next_ = nullptr;
    batch_ticks_ = 0;
    message->deliver();
    ++count;
  }
  return count;
}

unsigned Reactor::run_timers() {
  unsigned count = 0;
  const size_t most = timers_.size();
  while (!timers_.empty() && count < most && timers_.front()->deadline_ns_ <= now_ns_) {
    Timer* timer = timers_.front();
    timer->cancel();
    ++count;
    batch_ticks_ = 0;
    timer->fire_();  // may destroy the timer
  }
  return count;
}

unsigned Reactor::run_completions() noexcept {
  if (!ring_) return 0;
  const unsigned flags = __atomic_load_n(ring_->sq.kflags, __ATOMIC_RELAXED);
  if ((flags & (IORING_SQ_TASKRUN | IORING_SQ_CQ_OVERFLOW)) != 0) {
    ++stats_.enters;
    io_uring_get_events(ring_.get());
  }
  batch_ticks_ = 0;
  unsigned count = 0;
  io_uring_cqe* cqe = nullptr;
  while (count < kCompletionsPerTurnMax && io_uring_peek_cqe(ring_.get(), &cqe) == 0) {
    auto* op = static_cast<RingOp*>(io_uring_cqe_get_data(cqe));
    const int result = cqe->res;
    const uint32_t cqe_flags = cqe->flags;
    io_uring_cqe_seen(ring_.get(), cqe);
    ++count;
    if (op == nullptr) continue;  // a cancellation's own completion
    if ((cqe_flags & IORING_CQE_F_MORE) == 0) --ring_ops_;
    op->on_completion(result, cqe_flags);
  }
  return count;
}

unsigned Reactor::poll_sources() noexcept {
  unsigned work = 0;
  const size_t count = hot_.size();
  for (size_t i = 0; i < count; ++i) {
    Source* source = hot_[i];
    if (source == nullptr) continue;
    batch_ticks_ = 0;
    const int did = source->poll();
    if (source->reactor_ != this) continue;  // it removed itself
    ++source->polls_;
    if (did > 0) {
      ++source->busy_polls_;
      source->last_work_ns_ = now_ns_;
      work += static_cast<unsigned>(did);
    } else if (options_.use_ring && source->fd_ >= 0 && source->hot_index_ != Source::kCold &&
               now_ns_ - source->last_work_ns_ >= options_.spin_ns) {
      cool(*source);
    }
  }
  if (hot_has_holes_) fill_holes();
  return work;
}

unsigned Reactor::run_deferred() noexcept {
  unsigned count = 0;
  for (unsigned round = 0; round < kDeferredRoundsMax && !deferred_.empty(); ++round) {
    List<Deferred> due;
    due.splice_back(deferred_);
    batch_ticks_ = 0;
    while (!due.empty()) {
      due.pop_front().run();
      ++count;
    }
  }
  return count;
}

void Reactor::run_turn_end() noexcept {
  List<TurnEndHook> due;
  due.splice_back(turn_end_);
  batch_ticks_ = 0;
  while (!due.empty()) due.pop_front().at_turn_end();
}

void Reactor::submit_pending() noexcept {
  if (!ring_ || io_uring_sq_ready(ring_.get()) == 0) return;
  ++stats_.enters;
  const int rc = io_uring_submit_and_get_events(ring_.get());
  DE_ASSERT(rc >= 0 || rc == -EAGAIN || rc == -EBUSY || rc == -EINTR);
}

io_uring_sqe* Reactor::sqe() noexcept {
  DE_ASSERT(ring_ != nullptr || options_.use_ring);
  if (!ring_) open_ring();
  io_uring_sqe* entry = io_uring_get_sqe(ring_.get());
  while (entry == nullptr) {
    submit_pending();
    entry = io_uring_get_sqe(ring_.get());
  }
  return entry;
}

void Reactor::submit(io_uring_sqe* entry, RingOp& op) noexcept {
  io_uring_sqe_set_data(entry, &op);
  ++ring_ops_;
}

int Reactor::register_file(int fd) noexcept {
  if (!options_.use_ring) return -1;
  if (!ring_) open_ring();
  if (!file_table_tried_) {
    file_table_tried_ = true;
    if (io_uring_register_files_sparse(ring_.get(), kRegisteredFilesMax) == 0)
      for (int slot = kRegisteredFilesMax - 1; slot >= 0; --slot) free_file_slots_.push_back(slot);
  }
  if (free_file_slots_.empty()) return -1;
  const int slot = free_file_slots_.back();
  if (io_uring_register_files_update(ring_.get(), static_cast<unsigned>(slot), &fd, 1) != 1) return -1;
  free_file_slots_.pop_back();
  return slot;
}

void Reactor::unregister_file(int index) noexcept {
  if (index < 0) return;
  const int none = -1;
  const int updated = io_uring_register_files_update(ring_.get(), static_cast<unsigned>(index), &none, 1);
  DE_ASSERT(updated == 1);
  free_file_slots_.push_back(index);
}

// Nothing to do for a while: put every source to sleep, then wait for whichever event comes first.
void Reactor::block_until_event() {
  if (!cool_all()) {
    last_work_ns_ = now_ns_;
    return;
  }
  if (!deferred_.empty() || !turn_end_.empty()) return;
  sleeping_.store(true, std::memory_order_seq_cst);
  if (inbox_.load(std::memory_order_seq_cst) != nullptr || stopping_.load(std::memory_order_acquire)) {
    sleeping_.store(false, std::memory_order_relaxed);
    return;
  }
  const uint64_t start = ticks();
  __kernel_timespec limit{};
  __kernel_timespec* timeout = nullptr;
  if (!timers_.empty()) {
    const uint64_t now = clock_->now_ns();
    const uint64_t left = timers_.front()->deadline_ns_ > now ? timers_.front()->deadline_ns_ - now : 0;
    limit.tv_sec = static_cast<int64_t>(left / 1'000'000'000u);
    limit.tv_nsec = static_cast<long long>(left % 1'000'000'000u);
    timeout = &limit;
  }
  io_uring_cqe* cqe = nullptr;
  ++stats_.enters;
  ++stats_.sleeps;
  io_uring_submit_and_wait_timeout(ring_.get(), &cqe, 1, timeout, nullptr);
  sleeping_.store(false, std::memory_order_relaxed);
  stats_.sleep_ticks += ticks() - start;
}

bool Reactor::cool_all() noexcept {
  bool all = true;
  for (size_t i = 0; i < hot_.size(); ++i) {
    Source* source = hot_[i];
    if (source == nullptr) continue;
    if (source->fd_ < 0 || !cool(*source)) all = false;
  }
  fill_holes();
  return all;
}

// Switches the source's notifications on and waits for its descriptor in the ring; false if it found work instead.
bool Reactor::cool(Source& source) noexcept {
  if (!source.arm()) {
    source.disarm();
    source.last_work_ns_ = now_ns_;
    return false;
  }
  // A poll left over from an earlier cold time does not see what became interesting since.
  if (source.watch_ != nullptr && source.watch_->in_flight && source.watch_->events != source.events_)
    abandon_watch(source);
  if (source.watch_ == nullptr) {
    watches_.push_back(std::make_unique<Source::Watch>(*this, &source));
    source.watch_ = watches_.back().get();
  }
  if (!source.watch_->in_flight) {
    io_uring_sqe* entry = sqe();
    io_uring_prep_poll_add(entry, source.fd_, static_cast<unsigned>(source.events_));
    submit(entry, *source.watch_);
    source.watch_->in_flight = true;
    source.watch_->events = source.events_;
  }
  make_cold(source);
  return true;
}

void Reactor::make_hot(Source& source) noexcept {
  source.hot_index_ = hot_.size();
  hot_.push_back(&source);
  source.last_work_ns_ = now_ns_;
}

void Reactor::make_cold(Source& source) noexcept {
  hot_[source.hot_index_] = nullptr;
  source.hot_index_ = Source::kCold;
  hot_has_holes_ = true;
}

void Reactor::fill_holes() noexcept {
  size_t kept = 0;
  for (Source* source : hot_) {
    if (source == nullptr) continue;
    source->hot_index_ = kept;
    hot_[kept++] = source;
  }
  hot_.resize(kept);
  hot_has_holes_ = false;
}

void Reactor::add(Source& source) noexcept {
  DE_ASSERT(source.reactor_ == nullptr);
  DE_ASSERT(current_reactor == nullptr || current_reactor == this);
  source.reactor_ = this;
  source.index_ = sources_.size();
  sources_.push_back(&source);
  make_hot(source);
}

void Reactor::remove(Source& source) noexcept {
  DE_ASSERT(source.reactor_ == this);
  DE_ASSERT(current_reactor == nullptr || current_reactor == this);
  if (source.hot_index_ != Source::kCold) make_cold(source);
  sources_[source.index_] = sources_.back();
  sources_[source.index_]->index_ = source.index_;
  sources_.pop_back();
  source.reactor_ = nullptr;
  if (source.watch_ != nullptr) abandon_watch(source);
}

// Takes the source's watch from it; the watch goes once the kernel let go of it.
void Reactor::abandon_watch(Source& source) noexcept {
  Source::Watch* watch = std::exchange(source.watch_, nullptr);
  watch->source = nullptr;
  if (!watch->in_flight) {
    release(*watch);
  } else {
    io_uring_sqe* entry = sqe();
    io_uring_prep_cancel(entry, watch, 0);
    io_uring_sqe_set_data(entry, nullptr);
  }
}

void Reactor::heat(Source& source) noexcept {
  DE_ASSERT(source.reactor_ == this);
  source.last_work_ns_ = now_ns_;
  if (source.hot_index_ != Source::kCold) return;
  make_hot(source);
  source.disarm();
}

void Reactor::for_each_source(const std::function<void(const Source&)>& visit) {
  for (const Source* source : sources_) visit(*source);
}

void Reactor::release(Source::Watch& watch) noexcept {
  auto at = std::find_if(watches_.begin(), watches_.end(), [&](const auto& w) { return w.get() == &watch; });
  DE_ASSERT(at != watches_.end());
  std::swap(*at, watches_.back());
  watches_.pop_back();
}

void Reactor::post(std::function<void()> work) { post(*new FunctionMessage(std::move(work))); }

void Reactor::post(Message& message) noexcept {
  Message* head = inbox_.load(std::memory_order_relaxed);
  do {
    message.next_ = head;
  } while (!inbox_.compare_exchange_weak(head, &message, std::memory_order_seq_cst, std::memory_order_relaxed));
  wake();
}

void Reactor::wake() noexcept {
  if (!sleeping_.exchange(false, std::memory_order_seq_cst) || wake_fd_ < 0) return;
  const uint64_t one = 1;
  const ssize_t written = write(wake_fd_, &one, sizeof one);
  DE_ASSERT(written == sizeof one);
}

void Timer::arm(Reactor& reactor, uint64_t delay_ns) {
  cancel();
  reactor_ = &reactor;
  deadline_ns_ = reactor.clock().now_ns() + delay_ns;
  heap_index_ = reactor.timers_.size();
  reactor.timers_.push_back(this);
  reactor.heap_up(heap_index_);
}

void Timer::cancel() noexcept {
  if (reactor_ == nullptr) return;
  std::exchange(reactor_, nullptr)->heap_remove(heap_index_);
}

void Reactor::heap_remove(size_t at) noexcept {
  Timer* last = timers_.back();
  timers_.pop_back();
  if (at == timers_.size()) return;
  timers_[at] = last;
  last->heap_index_ = at;
  heap_up(at);
  heap_down(last->heap_index_);
}

void Reactor::heap_up(size_t at) noexcept {
  Timer* timer = timers_[at];
  while (at > 0) {
    const size_t parent = (at - 1) / 2;
    if (timers_[parent]->deadline_ns_ <= timer->deadline_ns_) break;
    timers_[at] = timers_[parent];
    timers_[at]->heap_index_ = at;
    at = parent;
  }
  timers_[at] = timer;
  timer->heap_index_ = at;
}

void Reactor::heap_down(size_t at) noexcept {
  Timer* timer = timers_[at];
  for (;;) {
    size_t child = 2 * at + 1;
    if (child >= timers_.size()) break;
    if (child + 1 < timers_.size() && timers_[child + 1]->deadline_ns_ < timers_[child]->deadline_ns_) ++child;
    if (timers_[child]->deadline_ns_ >= timer->deadline_ns_) break;
    timers_[at] = timers_[child];
    timers_[at]->heap_index_ = at;
    at = child;
  }
  timers_[at] = timer;
  timer->heap_index_ = at;
}

}  // namespace diskengine
