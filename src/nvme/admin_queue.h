// The admin queue of one controller: commands that coroutines await, the keep-alive, and asynchronous events.
//
//   Input object: a spec::Sqe with its data. Output object: fabric::HostCommand. Completion: the awaited Cqe.
//
// Threads: the main reactor. Owned by an Association; destroyed after close() came to its end.
#pragma once

#include <functional>
#include <memory>
#include <optional>
#include <span>

#include "fabric/host.h"
#include "nvme/options.h"
#include "runtime/gate.h"
#include "runtime/task.h"

namespace diskengine::nvme {

class AdminQueue final : private fabric::HostQueueEvents {
 public:
  static constexpr uint32_t kDepth = 32;
  // Of these, two are kept for the keep-alive and the asynchronous event request.
  static constexpr uint32_t kCommandsMax = kDepth - 2;

  // `lost` is told once that the queue is gone, unless close() was called before.
  AdminQueue(Reactor& reactor, std::function<void(const Error&)> lost);
  ~AdminQueue();

  // Brings the transport's connection up. Once.
  Task<Result<void>> open(fabric::HostTransport& transport, fabric::HostAddress address,
                          fabric::HostQueueOptions options);
  // Sends one command and waits for its answer. A command that takes longer than the limit takes the connection down
  // with it: only then is it certain that it is over. An answer with an error status is a value here.
  Task<Result<spec::Cqe>> command(spec::Sqe sqe, spec::DataDirection direction, std::span<uint8_t> data,
                                  uint64_t limit_us);
  // The same, with an error status turned into an Error that names `what`.
  Task<Result<spec::Cqe>> checked(std::string what, spec::Sqe sqe, spec::DataDirection direction,
                                  std::span<uint8_t> data, uint64_t limit_us);

  // Sends keep-alives so that the controller's timer of `timeout_ms` does not expire, and takes the connection down
  // when one is not answered within that time.
  void start_keep_alive(uint32_t timeout_ms);
  // Keeps one asynchronous event request at the controller; `handler` gets the cdw0 of each event.
  void start_events(std::function<void(uint32_t cdw0)> handler);

  bool usable() const noexcept { return state_ == State::open; }
  // Closes the connection at once and returns when nothing is outstanding any more.
  Task<void> close();
  // Ends the connection, and with it whatever waits for an answer; close() is still to follow.
  void cut() noexcept;
  fabric::HostQueueStats stats() const noexcept { return queue_ ? queue_->stats() : fabric::HostQueueStats{}; }

 private:
  enum class State : uint8_t { idle, opening, open, closed };
  struct Call;

  void on_connected() noexcept override;
  void on_disconnected(const Error& reason) noexcept override;
  void send_keep_alive();
  void send_event_request();
  void on_event(fabric::HostCommand& command);

  Reactor& reactor_;
  std::function<void(const Error&)> lost_;
  std::unique_ptr<fabric::HostQueue> queue_;
  State state_ = State::idle;
  bool closing_ = false;
  std::optional<Error> reason_;
  OneShot<bool> opened_;
  OneShot<bool> ended_;
  uint32_t calls_ = 0;
  Gate gate_;  // coroutines inside command()

  Timer keep_alive_timer_;
  uint64_t keep_alive_period_ns_ = 0;
  uint64_t keep_alive_limit_ns_ = 0;
  uint64_t keep_alive_sent_ns_ = 0;
  bool keep_alive_pending_ = false;
  fabric::HostCommand keep_alive_;

  fabric::HostCommand event_request_;
  bool event_pending_ = false;
  std::function<void(uint32_t)> event_handler_;
};

}  // namespace diskengine::nvme
