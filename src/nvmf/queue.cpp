#include "nvmf/queue.h"

#include "nvmf/target.h"

namespace diskengine::nvmf {

using fabric::TargetCommand;
using spec::Status;

Queue::Queue(PollGroup& group, fabric::TargetQueue& transport)
    : group_(group), transport_(transport), cids_(65536 / 64, 0) {
  group_.queues.push_back(*this);
}

void Queue::on_command(TargetCommand& command) noexcept {
  ++lent_;
  if (!mark_cid(command.sqe.cid)) {
    // The identifier stays in use by the first command.
    set_status(command, Status::command_id_conflict);
    return send(command);
  }
  if (command.transport_status != Status::success)
    return fail(command, command.transport_status, command.transport_status != Status::transient_transport_error);
  if ((command.sqe.flags & spec::kSqePsdtMask) != spec::kSqeSgl || (command.sqe.flags & spec::kSqeFuseMask) != 0)
    return fail(command, Status::invalid_field);
  if (kind_ == Kind::io && command.sqe.opcode != spec::IoOp::fabrics) [[likely]]
    return start_io(command);
  pass_on(command);
}

bool Queue::mark_cid(uint16_t cid) noexcept {
  uint64_t& word = cids_[cid / 64];
  const uint64_t bit = uint64_t{1} << (cid % 64);
  if ((word & bit) != 0) return false;
  word |= bit;
  return true;
}

void Queue::pass_on(TargetCommand& command) noexcept {
  Target& target = group_.target;
  target.main_reactor().post([&target, this, &command] { target.on_command(*this, command); });
}

void Queue::fail(TargetCommand& command, Status status, bool do_not_retry) noexcept {
  set_status(command, status, do_not_retry);
  finish(command);
}

void Queue::finish(TargetCommand& command) noexcept {
  cids_[command.sqe.cid / 64] &= ~(uint64_t{1} << (command.sqe.cid % 64));
  send(command);
}

void Queue::send(TargetCommand& command) noexcept {
  command.cqe.cid = command.sqe.cid;
  if (flow_control_) {
    sq_head_ = sq_head_ + 1 == depth_ ? 0 : sq_head_ + 1;
    command.cqe.sq_head = static_cast<uint16_t>(sq_head_);
  } else {
    command.cqe.sq_head = 0xffff;
  }
  transport_.complete(command);
  DE_ASSERT(lent_ > 0);
  --lent_;
  end_if_empty();
}

void Queue::connected(uint16_t qid, uint32_t depth, bool flow_control, std::string host_nqn,
                      std::shared_ptr<NamespacePorts> ports) {
  qid_ = qid;
  host_nqn_ = std::move(host_nqn);
  kind_ = qid == 0 ? Kind::admin : Kind::io;
  (qid == 0 ? group_.admin_queues : group_.io_queues) += 1;
  (qid == 0 ? group_.current_admin_queues : group_.current_io_queues) += 1;
  depth_ = depth;
  flow_control_ = flow_control;
  ports_ = std::move(ports);
  if (!disconnected_) transport_.set_depth(depth, flow_control);
}

void Queue::on_disconnected() noexcept {
  disconnected_ = true;
  Target& target = group_.target;
  target.main_reactor().post([&target, this] { target.on_queue_closed(*this); });
}

void Queue::let_go() noexcept {
  let_go_ = true;
  end_if_empty();
}

void Queue::end_if_empty() noexcept {
  if (!let_go_ || lent_ > 0) return;
  if (kind_ != Kind::unconnected) (kind_ == Kind::admin ? group_.current_admin_queues : group_.current_io_queues) -= 1;
  transport_.release();
  unlink();
  Target& target = group_.target;
  target.main_reactor().post([&target, this] { target.on_queue_gone(this); });
  delete this;
}

}  // namespace diskengine::nvmf
