// One coroutine at a time, first come first served. One reactor owns a mutex and everyone who waits for it.
#pragma once

#include <deque>

#include "runtime/task.h"

namespace diskengine {

class TaskMutex {
 public:
  explicit TaskMutex(Reactor& reactor) : reactor_(reactor) {}
  TaskMutex(const TaskMutex&) = delete;
  TaskMutex& operator=(const TaskMutex&) = delete;
  ~TaskMutex() { DE_ASSERT(!held_); }

  Task<void> lock() {
    if (!held_) {
      held_ = true;
      co_return;
    }
    OneShot<bool> turn(reactor_);
    waiters_.push_back(&turn);
    co_await turn;
  }
  void unlock() {
    DE_ASSERT(held_);
    if (waiters_.empty()) {
      held_ = false;
      return;
    }
    OneShot<bool>* next = waiters_.front();
    waiters_.pop_front();
    next->set(true);
  }
  bool held() const noexcept { return held_; }

 private:
  Reactor& reactor_;
  bool held_ = false;
  std::deque<OneShot<bool>*> waiters_;
};

}  // namespace diskengine
