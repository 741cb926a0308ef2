// A thread that discards ranges of one block device: BLKDISCARD blocks, and io_uring learned to discard only with Linux
// 6.12. One range at a time, in order.
//
//   Input object: DiscardJob. Completion callback: DiscardJob::deliver (a reactor message), on the job's reactor.
#pragma once

#include <condition_variable>
#include <cstdint>
#include <mutex>
#include <thread>

#include "runtime/reactor.h"

namespace diskengine {

// Owned by the submitter until deliver() ran.
class DiscardJob : public Message {
 public:
  Reactor* reactor = nullptr;
  uint64_t offset_bytes = 0;
  uint64_t length_bytes = 0;
  int positive_errno = 0;  // the outcome

 protected:
  ~DiscardJob() = default;

 private:
  friend class DiscardThread;
  DiscardJob* next_job_ = nullptr;
};

class DiscardThread {
 public:
  // `fd` stays open and owned by the caller.
  explicit DiscardThread(int fd);
  // With nothing outstanding.
  ~DiscardThread();
  DiscardThread(const DiscardThread&) = delete;
  DiscardThread& operator=(const DiscardThread&) = delete;

  // Any reactor's thread.
  void submit(DiscardJob& job) noexcept;

 private:
  void run() noexcept;

  const int fd_;
  std::mutex mutex_;
  std::condition_variable wake_;
  DiscardJob* first_ = nullptr;
  DiscardJob* last_ = nullptr;
  bool stopping_ = false;
  std::thread thread_;
};

}  // namespace diskengine
