#include "disk/discard_thread.h"

#include <linux/fs.h>
#include <pthread.h>
#include <sys/ioctl.h>

#include <cerrno>
#include <utility>

#include "base/assert.h"

namespace diskengine {

DiscardThread::DiscardThread(int fd) : fd_(fd), thread_([this] { run(); }) {}

DiscardThread::~DiscardThread() {
  {
    std::lock_guard lock(mutex_);
    stopping_ = true;
  }
  wake_.notify_one();
  thread_.join();
  DE_ASSERT(first_ == nullptr);
}

void DiscardThread::submit(DiscardJob& job) noexcept {
  job.next_job_ = nullptr;
  {
    std::lock_guard lock(mutex_);
    (first_ == nullptr ? first_ : last_->next_job_) = &job;
    last_ = &job;
  }
  wake_.notify_one();
}

void DiscardThread::run() noexcept {
  pthread_setname_np(pthread_self(), "discard");
  for (;;) {
    DiscardJob* job = nullptr;
    {
      std::unique_lock lock(mutex_);
      wake_.wait(lock, [this] { return first_ != nullptr || stopping_; });
      if (first_ == nullptr) return;
      job = first_;
      first_ = job->next_job_;
    }
    uint64_t range[2] = {job->offset_bytes, job->length_bytes};
    job->positive_errno = ioctl(fd_, BLKDISCARD, range) == 0 ? 0 : errno;
    job->reactor->post(*job);
  }
}

}  // namespace diskengine
