// Task<T>: a lazy coroutine for slow paths (connects, metadata, rebuild orchestration, RPC handlers). It starts when it
// is awaited or spawned, runs on one reactor, and is resumed only by that reactor's loop. T is usually a Result.
//
//   Task<Result<void>> connect(Reactor& reactor) {
//     co_await sleep_for(reactor, 1'000'000);
//     Result<int> fd = co_await open_socket();     // name every temporary before co_await (g++ 12)
//     CO_TRY(fd);
//     co_return {};
//   }
//   spawn(connect(reactor), [](Result<void> r) { ... });
//
// A coroutine must not be a capturing lambda: its captures die with the lambda object.
#pragma once

#include <coroutine>
#include <exception>
#include <functional>
#include <optional>
#include <utility>

#include "base/assert.h"
#include "runtime/reactor.h"

namespace diskengine {

template <typename T>
class [[nodiscard]] Task;

namespace detail {

class TaskPromiseBase {
 public:
  std::suspend_always initial_suspend() noexcept { return {}; }
  void unhandled_exception() noexcept { std::terminate(); }

  struct FinalAwaiter {
    bool await_ready() noexcept { return false; }
    template <typename Promise>
    std::coroutine_handle<> await_suspend(std::coroutine_handle<Promise> self) noexcept {
      std::coroutine_handle<> next = self.promise().continuation_;
      return next ? next : std::noop_coroutine();
    }
    void await_resume() noexcept {}
  };
  FinalAwaiter final_suspend() noexcept { return {}; }

  std::coroutine_handle<> continuation_;
};

template <typename T>
class TaskPromise : public TaskPromiseBase {
 public:
  Task<T> get_return_object() noexcept;
  template <typename U>
  void return_value(U&& value) {
    value_.emplace(std::forward<U>(value));
  }
  T take() {
    DE_ASSERT(value_.has_value());
    return std::move(*value_);
  }

 private:
  std::optional<T> value_;
};

template <>
class TaskPromise<void> : public TaskPromiseBase {
 public:
  Task<void> get_return_object() noexcept;
  void return_void() noexcept {}
  void take() noexcept {}
};

}  // namespace detail

template <typename T>
class [[nodiscard]] Task {
 public:
  using promise_type = detail::TaskPromise<T>;
  using Handle = std::coroutine_handle<promise_type>;

  explicit Task(Handle handle) noexcept : handle_(handle) {}
  Task(Task&& other) noexcept : handle_(std::exchange(other.handle_, nullptr)) {}
  Task& operator=(Task&& other) noexcept {
    std::swap(handle_, other.handle_);
    return *this;
  }
  ~Task() {
    if (handle_) handle_.destroy();
  }

  bool await_ready() const noexcept { return false; }
  std::coroutine_handle<> await_suspend(std::coroutine_handle<> awaiting) noexcept {
    handle_.promise().continuation_ = awaiting;
    return handle_;
  }
  T await_resume() { return handle_.promise().take(); }

 private:
  Handle handle_;
};

namespace detail {

template <typename T>
Task<T> TaskPromise<T>::get_return_object() noexcept {
  return Task<T>(std::coroutine_handle<TaskPromise<T>>::from_promise(*this));
}
inline Task<void> TaskPromise<void>::get_return_object() noexcept {
  return Task<void>(std::coroutine_handle<TaskPromise<void>>::from_promise(*this));
}

// The frame of a spawned task: starts at once and frees itself at its end.
struct Detached {
  struct promise_type {
    Detached get_return_object() noexcept { return {}; }
    std::suspend_never initial_suspend() noexcept { return {}; }
    std::suspend_never final_suspend() noexcept { return {}; }
    void return_void() noexcept {}
    void unhandled_exception() noexcept { std::terminate(); }
  };
};

template <typename T>
Detached run_detached(Task<T> task, std::function<void(T)> done) {
  T value = co_await task;
  if (done) done(std::move(value));
}
inline Detached run_detached(Task<void> task, std::function<void()> done) {
  co_await task;
  if (done) done();
}

}  // namespace detail

// Starts `task` now, on the current reactor; `done` runs with its value at its end. The caller makes sure (with a Gate)
// that what the task uses outlives it.
template <typename T>
void spawn(Task<T> task, std::function<void(T)> done = nullptr) {
  detail::run_detached<T>(std::move(task), std::move(done));
}
inline void spawn(Task<void> task, std::function<void()> done = nullptr) {
  detail::run_detached(std::move(task), std::move(done));
}

// One value handed from callback code to one awaiting coroutine, which is resumed through its reactor's deferred work
// (never inside set()). Lives in its owner or in the awaiting frame. Created, set and awaited on the same reactor.
template <typename T>
class OneShot final : private Deferred {
 public:
  explicit OneShot(Reactor& reactor) noexcept : reactor_(reactor) {}
  ~OneShot() {
    if (linked()) unlink();
  }

  void set(T value) {
    DE_ASSERT(!value_.has_value());
    value_.emplace(std::move(value));
    if (waiting_) reactor_.defer(*this);
  }
  bool is_set() const noexcept { return value_.has_value(); }

  bool await_ready() const noexcept { return value_.has_value(); }
  void await_suspend(std::coroutine_handle<> waiting) noexcept { waiting_ = waiting; }
  T await_resume() { return std::move(*value_); }

 private:
  void run() noexcept override { std::exchange(waiting_, nullptr).resume(); }

  Reactor& reactor_;
  std::optional<T> value_;
  std::coroutine_handle<> waiting_;
};

// Suspends the coroutine for `delay_ns` of the reactor's time.
class SleepAwaiter {
 public:
  SleepAwaiter(Reactor& reactor, uint64_t delay_ns)
      : reactor_(reactor), delay_ns_(delay_ns), timer_([this] { std::exchange(waiting_, nullptr).resume(); }) {}
  bool await_ready() const noexcept { return false; }
  void await_suspend(std::coroutine_handle<> waiting) {
    waiting_ = waiting;
    timer_.arm(reactor_, delay_ns_);
  }
  void await_resume() const noexcept {}

 private:
  Reactor& reactor_;
  uint64_t delay_ns_;
  Timer timer_;
  std::coroutine_handle<> waiting_;
};
inline SleepAwaiter sleep_for(Reactor& reactor, uint64_t delay_ns) { return SleepAwaiter(reactor, delay_ns); }

// Runs `work` on `target` and brings its value back to the awaiting coroutine on its own reactor.
template <typename T>
class CallOnAwaiter {
 public:
  CallOnAwaiter(Reactor& target, std::function<T()> work) : target_(target), work_(std::move(work)) {}
  bool await_ready() const noexcept { return false; }
  void await_suspend(std::coroutine_handle<> waiting) {
    Reactor* home = Reactor::current();
    DE_ASSERT(home != nullptr);
    target_.post([this, home, waiting] {
      value_.emplace(work_());
      home->post([waiting] { waiting.resume(); });
    });
  }
  T await_resume() { return std::move(*value_); }

 private:
  Reactor& target_;
  std::function<T()> work_;
  std::optional<T> value_;
};
template <typename T>
CallOnAwaiter<T> call_on(Reactor& target, std::function<T()> work) {
  return CallOnAwaiter<T>(target, std::move(work));
}

}  // namespace diskengine
