#include "fabric/rdma/completion_queue.h"

#include <utility>

namespace diskengine::fabric::rdma {

Result<std::unique_ptr<CompletionQueue>> CompletionQueue::make(Verbs& verbs, Reactor& reactor, ibv_context* context,
                                                               int entries, const char* name, Handler& handler) {
  TRY_ASSIGN(ibv_comp_channel* const channel, verbs.create_comp_channel(context));
  std::unique_ptr<CompletionQueue> queue(new CompletionQueue(verbs, OwnedCompChannel(verbs, channel), name, handler));
  TRY_ASSIGN(ibv_cq* const cq, verbs.create_cq(context, entries, channel));
  queue->cq_ = OwnedCq(verbs, cq);
  reactor.add(*queue);
  return queue;
}

CompletionQueue::CompletionQueue(Verbs& verbs, OwnedCompChannel channel, const char* name, Handler& handler)
    : Source(name, channel->fd), verbs_(verbs), handler_(handler), channel_(std::move(channel)) {}

CompletionQueue::~CompletionQueue() {
  if (reactor() != nullptr) reactor()->remove(*this);
  if (cq_) verbs_.drain_cq_events(channel_.get(), cq_.get());  // an unacknowledged event would keep the queue
}

int CompletionQueue::take() noexcept {
  if (broken_) return 0;
  const int taken = verbs_.poll_cq(cq_.get(), batch_);
  if (taken >= 0) return taken;
  broken();
  return 0;
}

void CompletionQueue::broken() noexcept {
  if (!std::exchange(broken_, true)) handler_.on_broken();
}

int CompletionQueue::poll() noexcept {
  ++stats_.polls;
  int total = 0;
  int taken = std::exchange(held_, 0);
  if (taken == 0) taken = take();
  while (taken > 0) {
    for (int i = 0; i < taken; ++i) handler_.on_completion(batch_[static_cast<size_t>(i)]);
    total += taken;
    if (static_cast<size_t>(taken) < kBatch || total >= kPerPollMax) break;
    taken = take();
  }
  if (total == 0) ++stats_.idle_polls;
  stats_.completions += static_cast<uint64_t>(total);
  return total;
}

// What completed before notifications were on does not notify: look once more.
bool CompletionQueue::arm() noexcept {
  if (broken_) return true;
  if (held_ > 0) return false;  // armed again before what was found is handed out
  if (!verbs_.req_notify_cq(cq_.get())) {
    broken();
    return true;
  }
  held_ = take();
  return held_ == 0;
}

void CompletionQueue::disarm() noexcept { verbs_.drain_cq_events(channel_.get(), cq_.get()); }

}  // namespace diskengine::fabric::rdma
