#include "nvme/channel.h"

#include <fmt/format.h>

#include <algorithm>
#include <utility>

#include "base/log.h"
#include "nvme/controller.h"
#include "nvme/io_status.h"
#include "trace/probes.h"

namespace diskengine::nvme {

using fabric::HostCommand;
using fabric::HostOutcome;
using spec::DataDirection;

namespace {

constexpr uint64_t kDsmBlocksMax = UINT32_MAX;
constexpr int32_t kTransientRetriesMax = 3;

}  // namespace

NvmeChannel::NvmeChannel(std::shared_ptr<Device> device, Reactor& reactor, std::shared_ptr<Controller> controller,
                         uint32_t nsid)
    : Channel(std::move(device), reactor),
      controller_(std::move(controller)),
      link_(std::make_shared<QueueLink>(reactor)),
      nsid_(nsid),
      block_size_(this->device().info().block_size),
      timeout_timer_([this] { check_timeouts(); }) {
  link_->channel = this;
  link_->nsid = nsid;
  link_->device_name = this->device().name();
  controller_->open_link(link_);
}

NvmeChannel::~NvmeChannel() {
  link_->channel = nullptr;
  auto leave = [controller = std::move(controller_), link = link_, closed = std::move(closed_)] {
    for (const auto& tell : closed) tell();
    controller->close_link(link);
  };
  if (queue_ != nullptr) {
    queue_->abandon(std::move(leave));
  } else {
    leave();
  }
}

// --- The connection -------------------------------------------------------------------------------------------------

void NvmeChannel::connect(const QueueParams& params) {
  DE_ASSERT(queue_ == nullptr);
  limits_ = params.limits;
  host_ = params.host;
  epoch_ = params.epoch;
  transfer_blocks_max_ = std::clamp<uint32_t>(limits_.transfer_bytes_max / block_size_, 1, spec::kRwBlocksMax);
  timeout_ns_ = host_.action_on_timeout == TimeoutAction::none ? 0 : host_.timeout_us * 1000;
  // One entry of a submission queue always stays free.
  const uint32_t most = std::min(fabric::kQueueDepthMax, std::max(limits_.queue_entries_max, 2u) - 1);
  if (depth_ == 0) allocate_commands(std::clamp(host_.io_queue_requests, 1u, most));
  if (depth_ > most) {
    const Error reason(Errc::not_supported, fmt::format("{}: the controller now takes {} commands, and {} are in use",
                                                        device().name(), most, depth_));
    controller_->link_lost(link_, epoch_, reason);
    return;
  }
  mode_ = Mode::holding;
  queue_ = IoQueue::make(reactor(), params, depth_, *this);
}

void NvmeChannel::allocate_commands(uint32_t depth) {
  depth_ = depth;
  commands_ = std::make_unique<Command[]>(depth);
  free_.reserve(depth);
  for (uint32_t i = depth; i > 0; --i) {
    commands_[i - 1].owner = this;
    commands_[i - 1].done = on_done;
    free_.push_back(&commands_[i - 1]);
  }
}

void NvmeChannel::on_queue_ready() noexcept {
  mode_ = Mode::ready;
  if (timeout_ns_ != 0) timeout_timer_.arm(reactor(), timeout_ns_ / 4);
  controller_->link_connected(link_, epoch_);
  while (!resend_.empty()) send(static_cast<Command&>(resend_.pop_front()));
  pump();
}

void NvmeChannel::disconnect(std::function<void()> closed) {
  if (mode_ == Mode::ready) mode_ = Mode::holding;
  if (queue_ == nullptr) {
    closed();
    return;
  }
  closed_.push_back(std::move(closed));
  queue_->close();
}

void NvmeChannel::on_queue_lost() noexcept {
  if (mode_ == Mode::ready) mode_ = Mode::holding;
}

void NvmeChannel::on_queue_closed(const Error& reason) noexcept {
  queue_ = nullptr;
  timeout_timer_.cancel();
  if (mode_ == Mode::ready) mode_ = Mode::holding;
  if (closed_.empty()) {
    controller_->link_lost(link_, epoch_, reason);
  } else {
    std::vector<std::function<void()>> closed = std::move(closed_);
    closed_.clear();
    for (const auto& tell : closed) tell();
  }
  if (mode_ == Mode::failing) fail_held();
}

void NvmeChannel::set_failing(bool failing) {
  if (!failing) {
    if (mode_ == Mode::failing) mode_ = Mode::holding;
    return;
  }
  if (mode_ == Mode::ready) return;  // connected meanwhile
  mode_ = Mode::failing;
  fail_held();
}

void NvmeChannel::fail_overdue(uint64_t limit_ns) {
  const uint64_t now_ns = reactor().now_ns();
  bool overdue = mode_ == Mode::holding && (!pending_.empty() || !resend_.empty());
  for (uint32_t i = 0; i < depth_ && !overdue; ++i)
    overdue = commands_[i].sent_ns != 0 && now_ns - commands_[i].sent_ns >= limit_ns;
  if (!overdue) return;
  LOG_WARN("nvme", "{}: the process ends, and its controller does not answer: the connection is closed",
           device().name());
  mode_ = Mode::failing;
  if (queue_ != nullptr) queue_->close();
  fail_held();
}

// The last completion may destroy this channel, so what is to fail is taken off first.
void NvmeChannel::fail_held() noexcept {
  List<HostCommand> unsent;
  unsent.splice_back(resend_);
  List<Request> held;
  held.splice_back(pending_);
  held_ = 0;
  while (!unsent.empty()) {
    auto& command = static_cast<Command&>(unsent.pop_front());
    free_.push_back(&command);
    piece_done(*command.request, IoStatus::error(IoCode::disconnected));
  }
  while (!held.empty()) {
    Request& request = held.pop_front();
    auto& progress = request.context<Progress>();
    progress.queued = false;
    progress.cut = true;
    ++progress.in_flight;
    piece_done(request, IoStatus::error(IoCode::disconnected));
  }
}

fabric::HostQueueStats NvmeChannel::queue_stats() const {
  return queue_ != nullptr ? queue_->stats() : fabric::HostQueueStats{};
}

// --- Requests into commands -----------------------------------------------------------------------------------------

void NvmeChannel::start(Request& request) noexcept {
  auto& progress = request.make_context<Progress>();
  progress.lba = request.lba;
  progress.blocks = request.blocks;
  if (mode_ == Mode::failing || held_ >= kHeldRequestsMax) {
    finish(request, IoStatus::error(IoCode::disconnected));
    return;
  }
  if (request.op == Op::flush) progress.blocks = 1;  // one command
  if (mode_ == Mode::ready && pending_.empty() && cut(request)) return;
  progress.queued = true;
  ++held_;
  pending_.push_back(request);
}

void NvmeChannel::pump() noexcept {
  while (mode_ == Mode::ready && !pending_.empty() && !free_.empty()) {
    Request& request = pending_.pop_front();
    auto& progress = request.context<Progress>();
    progress.queued = false;
    --held_;
    if (cut(request)) continue;
    progress.queued = true;
    ++held_;
    pending_.push_front(request);
    return;
  }
}

// Sends as much of the request as there are commands for; false if some is left. The request may be finished after it.
bool NvmeChannel::cut(Request& request) noexcept {
  auto& progress = request.context<Progress>();
  ++progress.in_flight;  // keeps the request until all of it is cut
  while (progress.blocks > 0 && progress.status.ok()) {
    if (free_.empty() || mode_ != Mode::ready) {
      --progress.in_flight;
      return false;
    }
    Command& command = *free_.back();
    if (!build(command, request, progress)) {
      progress.status = IoStatus::error(IoCode::invalid);
      break;
    }
    free_.pop_back();
    command.request = &request;
    ++progress.in_flight;
    send(command);
  }
  progress.cut = true;
  piece_done(request, IoStatus::success());
  return true;
}

// Makes the command for the next piece; false if the request cannot be expressed.
bool NvmeChannel::build(Command& command, Request& request, Progress& progress) noexcept {
  uint64_t blocks = progress.blocks;
  command.reset(spec::IoOp::flush);
  command.sqe.nsid = nsid_;
  command.sqe.set_slba(progress.lba);
  switch (request.op) {
    case Op::read:
    case Op::write:
    case Op::compare:
      blocks = std::min<uint64_t>(blocks, transfer_blocks_max_);
      if (!take_payload(command, request, progress.lba - request.lba, &blocks)) return false;
      command.sqe.opcode = request.op == Op::read    ? spec::IoOp::read
                           : request.op == Op::write ? spec::IoOp::write
                                                     : spec::IoOp::compare;
      command.sqe.cdw12 = static_cast<uint32_t>(blocks - 1) | (request.fua ? spec::kRwFua : 0);
      break;
    case Op::write_zeroes:
      blocks = std::min<uint64_t>(blocks, spec::kRwBlocksMax);
      command.sqe.opcode = spec::IoOp::write_zeroes;
      command.sqe.cdw12 = static_cast<uint32_t>(blocks - 1) | (request.fua ? spec::kRwFua : 0) |
                          (request.may_unmap ? spec::kRwDeallocate : 0);
      break;
    case Op::unmap:
      blocks = std::min(blocks, kDsmBlocksMax);
      command.range = {0, static_cast<uint32_t>(blocks), progress.lba};
      command.range_iov = {&command.range, sizeof command.range};
      command.iov = {&command.range_iov, 1};
      command.data_bytes = sizeof command.range;
      command.direction = DataDirection::to_controller;
      command.sqe.opcode = spec::IoOp::dataset_management;
      command.sqe.cdw10 = 0;  // one range
      command.sqe.cdw11 = spec::kDsmDeallocate;
      break;
    case Op::flush:
      command.sqe.set_slba(0);
      break;
  }
  progress.lba += blocks;
  progress.blocks -= blocks;
  return true;
}

// The memory of `*blocks` blocks from `first_block` of the request on; fewer if they lie in too many pieces, false if
// even one block does.
bool NvmeChannel::take_payload(Command& command, const Request& request, uint64_t first_block,
                               uint64_t* blocks) noexcept {
  command.direction = request.op == Op::read ? DataDirection::from_controller : DataDirection::to_controller;
  size_t offset = first_block * block_size_;
  std::span<const iovec> iov = request.iov;
  if (iov.size() > fabric::kCommandPiecesMax) {
    while (offset >= iov.front().iov_len) {
      offset -= iov.front().iov_len;
      iov = iov.subspan(1);
    }
    if (iov.size() > fabric::kCommandPiecesMax) iov = iov.first(fabric::kCommandPiecesMax);
    uint64_t bytes = 0;
    for (const iovec& piece : iov) bytes += piece.iov_len;
    *blocks = std::min(*blocks, (bytes - offset) / block_size_);
    if (*blocks == 0) return false;
  }
  command.iov = iov;
  command.iov_offset = offset;
  command.data_bytes = static_cast<uint32_t>(*blocks * block_size_);
  return true;
}

void NvmeChannel::send(Command& command) noexcept {
  command.sent_ns = reactor().now_ns();
  command.abort_sent = false;
  queue_->submit(command);
  DE_PROBE3(nvme_sent, command.request, queue_->queue_id(), command.sqe.cid);
  if (trace::Visit* visit = command.request->visit; visit != nullptr) [[unlikely]] {
    visit->sent = ticks();
    visit->queue_id = queue_->queue_id();
    visit->command_id = command.sqe.cid;
  }
}

void NvmeChannel::on_done(HostCommand& command) noexcept {
  static_cast<NvmeChannel*>(command.owner)->answered(static_cast<Command&>(command));
}

void NvmeChannel::answered(Command& command) noexcept {
  Request& request = *command.request;
  command.sent_ns = 0;
  DE_PROBE2(nvme_answered, &request, command.cqe.status);
  if (request.visit != nullptr) [[unlikely]]
    request.visit->answered = ticks();
  IoStatus status;
  if (command.outcome == HostOutcome::lost) [[unlikely]] {
    if (mode_ == Mode::ready) mode_ = Mode::holding;
    if (retry(command, host_.retries)) return;
    status = IoStatus::error(IoCode::disconnected);
  } else if (command.cqe.status != 0) [[unlikely]] {
    // Without a limit a controller that always says so would keep this core busy for good.
    const int32_t limit = host_.retries < 0 ? kTransientRetriesMax : host_.retries;
    if (is_transient(command.cqe.status) && retry(command, limit)) return;
    status = io_status_of(command.cqe.status);
  }
  free_.push_back(&command);
  if (!pending_.empty()) pump();
  piece_done(request, status);  // may destroy this channel
}

// Keeps the command to be sent again; false if it was tried `limit` times (-1: no limit) or there is no use.
bool NvmeChannel::retry(Command& command, int32_t limit) noexcept {
  auto& progress = command.request->context<Progress>();
  if (mode_ == Mode::failing) return false;
  if (limit >= 0 && progress.retries >= limit) return false;
  ++progress.retries;
  trace::note(command.request->visit, trace::Note::retried);
  if (mode_ == Mode::ready) {
    send(command);
  } else {
    resend_.push_back(command);
  }
  return true;
}

void NvmeChannel::piece_done(Request& request, IoStatus status) noexcept {
  auto& progress = request.context<Progress>();
  if (!status.ok() && progress.status.ok()) progress.status = status;
  DE_ASSERT(progress.in_flight > 0);
  if (--progress.in_flight > 0) return;
  if (!progress.cut) {
    // More is to be cut, unless it failed: what was not sent is not sent any more.
    if (progress.status.ok()) return;
    if (progress.queued) {
      request.unlink();
      --held_;
    }
  }
  finish(request, progress.status);
}

// --- Overdue commands -----------------------------------------------------------------------------------------------

void NvmeChannel::check_timeouts() {
  if (mode_ != Mode::ready) return;
  timeout_timer_.arm(reactor(), timeout_ns_ / 4);
  const uint64_t now_ns = reactor().now_ns();
  for (uint32_t i = 0; i < depth_; ++i) {
    Command& command = commands_[i];
    if (command.sent_ns == 0 || now_ns - command.sent_ns < timeout_ns_) continue;
    const uint64_t waited_ns = now_ns - command.sent_ns;
    if (host_.action_on_timeout == TimeoutAction::abort && waited_ns < 2 * timeout_ns_) {
      if (!std::exchange(command.abort_sent, true))
        controller_->abort_command(epoch_, queue_->queue_id(), command.sqe.cid);
      continue;
    }
    LOG_WARN("nvme", "{}: command {:#04x} was not answered within {} ms: the connection is closed", device().name(),
             command.sqe.opcode, waited_ns / 1'000'000);
    mode_ = Mode::holding;
    queue_->close();
    return;
  }
}

}  // namespace diskengine::nvme
