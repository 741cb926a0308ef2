// Several I/Os at once, awaited together; the first error counts. Lives in the frame of a coroutine that awaits it.
#pragma once

#include "block/io_status.h"
#include "runtime/task.h"

namespace diskengine::lvol {

class IoJoin {
 public:
  explicit IoJoin(Reactor& reactor) : all_(reactor) {}
  ~IoJoin() { DE_ASSERT(pending_ == 0); }
  // Starts `task`.
  void add(Task<IoStatus> task) {
    ++pending_;
    spawn<IoStatus>(std::move(task), [this](IoStatus status) { ended(status); });
  }
  // After the last add(), once.
  OneShot<IoStatus>& wait() {
    ended(IoStatus::success());
    return all_;
  }

 private:
  void ended(IoStatus status) {
    if (first_.ok()) first_ = status;
    if (--pending_ == 0) all_.set(first_);
  }
  OneShot<IoStatus> all_;
  unsigned pending_ = 1;  // wait() itself
  IoStatus first_;
};

}  // namespace diskengine::lvol
