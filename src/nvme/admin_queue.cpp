#include "nvme/admin_queue.h"

#include <fmt/format.h>

#include "base/log.h"
#include "nvme/io_status.h"

namespace diskengine::nvme {

using fabric::HostCommand;
using fabric::HostOutcome;
using spec::DataDirection;

// One command that a coroutine waits for; lives in its frame.
struct AdminQueue::Call {
  Call(AdminQueue& q, uint64_t limit_ns) : queue(q), answered(q.reactor_), timeout([this] { expire(); }) {
    timeout.arm(q.reactor_, limit_ns);
    ++queue.calls_;
  }
  ~Call() { --queue.calls_; }
  void expire() {
    expired = true;
    queue.queue_->disconnect();
  }

  AdminQueue& queue;
  HostCommand command;
  iovec iov{};
  OneShot<bool> answered;
  Timer timeout;
  bool expired = false;
};

AdminQueue::AdminQueue(Reactor& reactor, std::function<void(const Error&)> lost)
    : reactor_(reactor), lost_(std::move(lost)), opened_(reactor), ended_(reactor), keep_alive_timer_([this] {
        send_keep_alive();
      }) {}

AdminQueue::~AdminQueue() { DE_ASSERT(state_ == State::idle || state_ == State::closed); }

Task<Result<void>> AdminQueue::open(fabric::HostTransport& transport, fabric::HostAddress address,
                                    fabric::HostQueueOptions options) {
  DE_ASSERT(state_ == State::idle);
  options.queue_id = 0;
  options.depth = kDepth;
  Result<std::unique_ptr<fabric::HostQueue>> made = transport.connect(reactor_, address, options, *this);
  CO_TRY(made);
  queue_ = std::move(made).value();
  state_ = State::opening;
  const bool up = co_await opened_;
  if (!up) co_return *reason_;
  co_return Result<void>{};
}

void AdminQueue::on_connected() noexcept {
  state_ = State::open;
  opened_.set(true);
}

void AdminQueue::on_disconnected(const Error& reason) noexcept {
  state_ = State::closed;
  reason_ = reason;
  keep_alive_timer_.cancel();
  if (!opened_.is_set()) opened_.set(false);
  ended_.set(true);
  if (!closing_ && lost_) lost_(reason);
}

Task<Result<spec::Cqe>> AdminQueue::command(spec::Sqe sqe, DataDirection direction, std::span<uint8_t> data,
                                            uint64_t limit_us) {
  if (state_ != State::open) co_return reason_.value_or(Error(Errc::unreachable, "the admin queue is not connected"));
  if (calls_ >= kCommandsMax)
    co_return Error(Errc::busy, fmt::format("{} admin commands are outstanding already", kCommandsMax));
  Gate::Pass pass(gate_);
  if (!pass) co_return Error(Errc::canceled, "the admin queue is closing");
  Call call(*this, limit_us * 1000);
  call.command.sqe = sqe;
  call.command.direction = direction;
  call.command.data_bytes = static_cast<uint32_t>(data.size());
  call.iov = {data.data(), data.size()};
  if (!data.empty()) call.command.iov = {&call.iov, 1};
  call.command.owner = &call;
  call.command.done = [](HostCommand& command) noexcept { static_cast<Call*>(command.owner)->answered.set(true); };
  queue_->submit(call.command);
  co_await call.answered;
  if (call.command.outcome == HostOutcome::answered) co_return call.command.cqe;
  if (call.expired)
    co_return Error(Errc::timed_out, fmt::format("admin command {:#04x} was not answered within {} ms; the connection "
                                                 "was closed",
                                                 sqe.opcode, limit_us / 1000));
  co_return reason_.value_or(Error(Errc::unreachable, "the connection was lost"));
}

Task<Result<spec::Cqe>> AdminQueue::checked(std::string what, spec::Sqe sqe, DataDirection direction,
                                            std::span<uint8_t> data, uint64_t limit_us) {
  Result<spec::Cqe> answer = co_await command(sqe, direction, data, limit_us);
  if (!answer) co_return answer.error().with_context(what);
  if (spec::status_of(answer->status) != spec::Status::success)
    co_return Error(Errc::io_error,
                    fmt::format("{}: the controller answered {}", what, describe_status(answer->status)));
  co_return answer;
}

void AdminQueue::start_keep_alive(uint32_t timeout_ms) {
  if (timeout_ms == 0) return;
  keep_alive_limit_ns_ = uint64_t{timeout_ms} * 1'000'000;
  keep_alive_period_ns_ = keep_alive_limit_ns_ / 2;
  keep_alive_timer_.arm(reactor_, keep_alive_period_ns_);
}

void AdminQueue::send_keep_alive() {
  if (state_ != State::open) return;
  keep_alive_timer_.arm(reactor_, keep_alive_period_ns_);
  if (keep_alive_pending_) {
    if (reactor_.now_ns() - keep_alive_sent_ns_ < keep_alive_limit_ns_) return;
    LOG_WARN("nvme", "a keep-alive was not answered within {} ms: the connection is given up",
             keep_alive_limit_ns_ / 1'000'000);
    queue_->disconnect();
    return;
  }
  keep_alive_.reset(spec::AdminOp::keep_alive);
  keep_alive_.owner = this;
  keep_alive_.done = [](HostCommand& command) noexcept {
    auto& self = *static_cast<AdminQueue*>(command.owner);
    self.keep_alive_pending_ = false;
  };
  keep_alive_pending_ = true;
  keep_alive_sent_ns_ = reactor_.now_ns();
  queue_->submit(keep_alive_);
}

void AdminQueue::start_events(std::function<void(uint32_t)> handler) {
  event_handler_ = std::move(handler);
  send_event_request();
}

void AdminQueue::send_event_request() {
  if (state_ != State::open || event_pending_) return;
  event_request_.reset(spec::AdminOp::async_event);
  event_request_.owner = this;
  event_request_.done = [](HostCommand& command) noexcept {
    static_cast<AdminQueue*>(command.owner)->on_event(command);
  };
  event_pending_ = true;
  queue_->submit(event_request_);
}

void AdminQueue::on_event(HostCommand& command) {
  event_pending_ = false;
  if (command.outcome != HostOutcome::answered) return;
  if (spec::status_of(command.cqe.status) != spec::Status::success) {
    LOG_WARN("nvme", "asynchronous event request refused: {}", describe_status(command.cqe.status));
    return;
  }
  const uint32_t cdw0 = command.cqe.cdw0;
  send_event_request();
  event_handler_(cdw0);
}

void AdminQueue::cut() noexcept {
  if (queue_ && (state_ == State::opening || state_ == State::open)) queue_->disconnect();
}

Task<void> AdminQueue::close() {
  closing_ = true;
  keep_alive_timer_.cancel();
  if (queue_ && state_ != State::closed) {
    queue_->disconnect();
    co_await ended_;
  }
  state_ = State::closed;
  // Awaiting coroutines resume through deferred work; they are gone a turn later.
  OneShot<bool> left(reactor_);
  gate_.close([&left] { left.set(true); });
  co_await left;
  queue_.reset();
}

}  // namespace diskengine::nvme
