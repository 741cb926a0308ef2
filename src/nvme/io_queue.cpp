#include "nvme/io_queue.h"

#include <fmt/format.h>

#include "base/endian.h"
#include "nvme/io_status.h"

namespace diskengine::nvme {

using fabric::HostCommand;
using fabric::HostOutcome;

IoQueue::IoQueue(Reactor& reactor, const QueueParams& params, Owner& owner)
    : reactor_(reactor),
      owner_(&owner),
      epoch_(params.epoch),
      queue_id_(params.queue_id),
      name_(fmt::format("{} queue {}", params.controller.name, params.queue_id)),
      connect_timer_([this] {
        reason_ = std::make_unique<Error>(
            Errc::timed_out,
            fmt::format("{}: the fabrics connect was not answered within {} ms", name_, connect_limit_ns_ / 1'000'000));
        queue_->disconnect();
      }) {}

IoQueue* IoQueue::make(Reactor& reactor, const QueueParams& params, uint32_t depth, Owner& owner) {
  auto* queue = new IoQueue(reactor, params, owner);
  queue->begin(params, depth);
  return queue;
}

void IoQueue::begin(const QueueParams& params, uint32_t depth) {
  fill_connect_data(&connect_data_, params.controller, params.limits.controller_id);
  sq_entries_ = depth + 1;
  connect_limit_ns_ =
      (params.controller.connect_timeout_us != 0 ? params.controller.connect_timeout_us : kAdminLimitUs) * 1000;
  fabric::HostQueueOptions options;
  options.name = "nvme_io";
  options.queue_id = queue_id_;
  options.depth = depth;
  options.capsule_data_bytes = params.limits.capsule_data_bytes;
  options.transfer_bytes_max = std::max<uint32_t>(params.limits.transfer_bytes_max, sizeof connect_data_);
  options.header_digest = params.controller.header_digest;
  options.data_digest = params.controller.data_digest;
  options.sgls = params.limits.sgls;
  options.shadow_doorbells = params.limits.shadow_doorbells;
  Result<std::unique_ptr<fabric::HostQueue>> made =
      params.transport->connect(reactor_, params.controller.address, options, *this);
  if (made) {
    queue_ = std::move(made).value();
  } else {
    reactor_.post([this, error = std::move(made).error()] { finish(error); });
  }
}

void IoQueue::on_connected() noexcept {
  if (owner_ == nullptr) return;
  spec::FabricsConnect connect;
  connect.queue_id = queue_id_;
  connect.queue_size = static_cast<uint16_t>(sq_entries_ - 1);
  connect_.reset(spec::AdminOp::fabrics);
  connect_.sqe = load_le<spec::Sqe>(&connect);
  connect_.direction = spec::DataDirection::to_controller;
  connect_.data_bytes = sizeof connect_data_;
  connect_iov_ = {&connect_data_, sizeof connect_data_};
  connect_.iov = {&connect_iov_, 1};
  connect_.owner = this;
  connect_.done = [](HostCommand& command) noexcept { static_cast<IoQueue*>(command.owner)->on_connect_answer(); };
  connect_timer_.arm(reactor_, connect_limit_ns_);
  queue_->submit(connect_);
}

void IoQueue::on_connect_answer() noexcept {
  connect_timer_.cancel();
  if (connect_.outcome == HostOutcome::lost || owner_ == nullptr) return;  // on_disconnected follows or followed
  if (spec::status_of(connect_.cqe.status) == spec::Status::success) {
    owner_->on_queue_ready();
    return;
  }
  reason_ = std::make_unique<Error>(Errc::io_error, fmt::format("{}: the controller refused the connect: {}", name_,
                                                                describe_status(connect_.cqe.status)));
  queue_->disconnect();
}

void IoQueue::on_disconnected(const Error& reason) noexcept {
  connect_timer_.cancel();
  if (owner_ != nullptr) owner_->on_queue_lost();
  // The transport's queue must not be destroyed inside this call.
  reactor_.post([this, error = reason_ ? *reason_ : reason] { finish(error); });
}

void IoQueue::finish(Error reason) {
  Owner* owner = owner_;
  std::function<void()> abandoned = std::move(abandoned_);
  delete this;
  if (owner != nullptr) owner->on_queue_closed(reason);
  if (abandoned) abandoned();
}

void IoQueue::close() noexcept {
  if (queue_) queue_->disconnect();
}

void IoQueue::abandon(std::function<void()> closed) {
  owner_ = nullptr;
  abandoned_ = std::move(closed);
  close();
}

}  // namespace diskengine::nvme
