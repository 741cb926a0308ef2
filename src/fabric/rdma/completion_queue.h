// A completion queue on a reactor: polled while it is busy, its completion channel armed while it is idle.
//
//   Input object: ibv_wc. Completion: Handler::on_completion, out of poll().
//
// Threads: one reactor. Destroyed outside of its handler's calls.
#pragma once

#include <array>
#include <memory>

#include "fabric/rdma/verbs.h"
#include "runtime/reactor.h"

namespace diskengine::fabric::rdma {

class CompletionQueue final : private Source {
 public:
  static constexpr size_t kBatch = 64;
  // In one poll; then the other sources get their turn.
  static constexpr int kPerPollMax = 1024;

  class Handler {
   public:
    virtual void on_completion(const ibv_wc& completion) noexcept = 0;
    // The device does not answer any more. Told once.
    virtual void on_broken() noexcept = 0;

   protected:
    ~Handler() = default;
  };

  struct Stats {
    uint64_t polls = 0;
    uint64_t idle_polls = 0;
    uint64_t completions = 0;
  };

  // On the reactor. `name` is a literal; `entries` bounds what can be outstanding on the queue.
  static Result<std::unique_ptr<CompletionQueue>> make(Verbs& verbs, Reactor& reactor, ibv_context* context,
                                                       int entries, const char* name, Handler& handler);
  ~CompletionQueue();

  ibv_cq* get() const noexcept { return cq_.get(); }
  const Stats& stats() const noexcept { return stats_; }

 private:
  CompletionQueue(Verbs& verbs, OwnedCompChannel channel, const char* name, Handler& handler);
  int poll() noexcept override;
  bool arm() noexcept override;
  void disarm() noexcept override;
  int take() noexcept;
  void broken() noexcept;

  Verbs& verbs_;
  Handler& handler_;
  OwnedCompChannel channel_;
  OwnedCq cq_;
  std::array<ibv_wc, kBatch> batch_;
  int held_ = 0;  // of batch_, found while arming
  bool broken_ = false;
  Stats stats_;
};

}  // namespace diskengine::fabric::rdma
