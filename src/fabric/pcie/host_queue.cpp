#include "fabric/pcie/host_queue.h"

#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>

#include "base/assert.h"
#include "base/log.h"
#include "fabric/payload.h"
#include "fabric/pcie/data_pointer.h"

namespace diskengine::fabric::pcie {

using spec::DataDirection;
using spec::Status;

PcieQueue::PcieQueue(std::shared_ptr<PcieController> controller, Reactor& reactor, const HostQueueOptions& options,
                     HostQueueEvents& events)
    : Source(options.name),
      controller_(std::move(controller)),
      reactor_(reactor),
      options_(options),
      events_(events),
      reason_(Errc::internal, "open") {
  DE_ASSERT(options.depth > 1 && options.depth <= kQueueDepthMax);
}

PcieQueue::~PcieQueue() {
  DE_ASSERT(outstanding() == 0 && (state_ == State::closed || state_ == State::opening));
  if (Deferred::linked()) Deferred::unlink();
  if (TurnEndHook::linked()) TurnEndHook::unlink();
}

HostQueueStats PcieQueue::stats() const noexcept {
  HostQueueStats stats = stats_;
  if (rings_) stats.system_calls = rings_->doorbells();
  return stats;
}

// --- Setting up -----------------------------------------------------------------------------------------------------

Result<void> PcieQueue::make_rings(std::shared_ptr<Lane> lane, uint32_t depth) {
  const uint32_t entries = depth + 1;
  const size_t ring_bytes = QueuePair::bytes_for(entries);
  TRY_ASSIGN(DmaMemory memory, DmaMemory::make(controller_->device().domain(), ring_bytes + depth * kOwnBytes));
  lane_ = std::move(lane);
  memory_ = std::make_shared<DmaMemory>(std::move(memory));
  rings_ = std::make_unique<QueuePair>(controller_->device(), options_.queue_id, entries, controller_->stride(),
                                       memory_->data());
  slots_ = CommandSlots<Slot>(depth);
  for (uint32_t i = 0; i < depth; ++i) slots_[i].own = memory_->data() + ring_bytes + i * kOwnBytes;
  return {};
}

void PcieQueue::open(unsigned vector) {
  state_ = State::ready;
  vector_ = vector;
  busy_since_ns_ = reactor_.now_ns();
  set_fd(controller_->device().vector_fd(vector));
  reactor_.add(*this);
}

// --- Sending --------------------------------------------------------------------------------------------------------

void PcieQueue::submit(HostCommand& command) noexcept {
  DE_ASSERT(command.done != nullptr && state_ != State::closed && state_ != State::opening);
  DE_ASSERT((command.data_bytes == 0) == (command.direction == DataDirection::none));
  DE_ASSERT(command.data_bytes <= options_.transfer_bytes_max && command.iov.size() <= kCommandPiecesMax);
  if (state_ == State::ready && serve(command)) return;
  queue_command(command);
}

void PcieQueue::queue_command(HostCommand& command) noexcept {
  Slot& slot = slots_.take(command);
  ++stats_.submitted_requests;
  slot.sent = slot.bounced = false;
  slot.data = nullptr;
  command.sqe.flags = static_cast<uint8_t>(command.sqe.flags & ~spec::kSqePsdtMask);
  if (state_ != State::ready) return;  // completes as lost with the others
  if (waiting_.empty() && place(slot)) return send(slot);
  ++stats_.queued_requests;
  waiting_.push_back(slot);
}

// Says where the command's data is; false if it has to wait for memory.
bool PcieQueue::place(Slot& slot) noexcept {
  if (slot.command->data_bytes == 0) return true;
  if (name_in_place(slot)) {
    ++stats_.direct_requests;
    return true;
  }
  return bounce(slot);
}

bool PcieQueue::name_in_place(Slot& slot) noexcept {
  return name_by_pages(slot) || (SglBuilder::offered(options_.sgls) && name_by_sgl(slot));
}

bool PcieQueue::name_by_pages(Slot& slot) noexcept {
  PrpBuilder builder(reinterpret_cast<uint64_t*>(slot.own), iova_of(slot.own));
  if (!add_pieces(*slot.command, builder)) return false;
  spec::set_prps(slot.command->sqe, builder.pair());
  return true;
}

bool PcieQueue::name_by_sgl(Slot& slot) noexcept {
  SglBuilder builder(reinterpret_cast<spec::SglDescriptor*>(slot.own), iova_of(slot.own), options_.sgls);
  if (!add_pieces(*slot.command, builder)) return false;
  slot.command->sqe.data = builder.descriptor();
  slot.command->sqe.flags |= spec::kSqeSgl;
  return true;
}

// False if a piece is not reached by the controller or cannot be expressed.
template <typename Builder>
bool PcieQueue::add_pieces(const HostCommand& command, Builder& builder) noexcept {
  size_t offset = command.iov_offset;
  size_t left = command.data_bytes;
  for (const iovec& piece : command.iov) {
    if (left == 0) break;
    if (offset >= piece.iov_len) {
      offset -= piece.iov_len;
      continue;
    }
    const uint8_t* const at = static_cast<const uint8_t*>(piece.iov_base) + offset;
    const size_t length = std::min(left, piece.iov_len - offset);
    uint64_t iova = 0;
    if (!lane_->find(at, length, &iova) || !builder.add(iova, length)) return false;
    left -= length;
    offset = 0;
  }
  DE_ASSERT(left == 0);
  return true;
}

bool PcieQueue::bounce(Slot& slot) noexcept {
  HostCommand& command = *slot.command;
  const uint32_t bytes = command.data_bytes;
  slot.data = bytes <= kOwnBytes ? slot.own : lane_->pool().take(bytes, *this);
  if (slot.data == nullptr) return false;
  slot.bounced = true;
  PrpBuilder builder(reinterpret_cast<uint64_t*>(slot.own), iova_of(slot.own));
  const DmaMapping& mapping = slot.data == slot.own ? memory_->mapping() : lane_->pool_mapping();
  for (uint32_t at = 0; at < bytes;) {
    const auto run = static_cast<uint32_t>(std::min<uint64_t>(bytes - at, mapping.contiguous_at(slot.data + at)));
    const bool fits = builder.add(mapping.iova_of(slot.data + at), run);
    DE_ASSERT(fits);
    at += run;
  }
  spec::set_prps(command.sqe, builder.pair());
  if (command.direction == DataDirection::to_controller)
    copy_payload(command.iov, command.iov_offset, bytes, slot.data, false);
  return true;
}

void PcieQueue::on_memory_free() noexcept {
  while (!waiting_.empty() && state_ == State::ready) {
    Slot& slot = waiting_.front();
    if (!place(slot)) return;
    slot.unlink();
    send(slot);
  }
}

void PcieQueue::send(Slot& slot) noexcept {
  slot.sent = true;
  rings_->push(slot.command->sqe);
  reactor_.at_turn_end(*this);
  reactor_.heat(*this);
}

void PcieQueue::at_turn_end() noexcept {
  if (state_ == State::ready) rings_->ring_submissions();
}

// --- Completions ----------------------------------------------------------------------------------------------------

int PcieQueue::poll() noexcept {
  ++stats_.polls;
  int taken = 0;
  spec::Cqe cqe;
  while (taken < kPerPollMax && state_ == State::ready && rings_->pop(&cqe)) {
    ++taken;
    if (!take_completion(cqe)) return taken;
  }
  if (taken == 0) {
    ++stats_.idle_polls;
    return 0;
  }
  ++stats_.socket_completions;
  if (state_ == State::ready) rings_->ring_completions();
  if (interrupts_on_ && reactor_.now_ns() - busy_since_ns_ > kInterruptsOffNs)
    interrupts_on_ = !controller_->device().enable_vector(vector_, false);
  return taken;
}

// What completed before the interrupt was on does not interrupt: look once more.
bool PcieQueue::arm() noexcept {
  if (state_ != State::ready) return true;
  if (!interrupts_on_) interrupts_on_ = controller_->device().enable_vector(vector_, true);
  return interrupts_on_ && !rings_->pending();
}

void PcieQueue::disarm() noexcept {
  uint64_t events = 0;
  static_cast<void>(!read(fd(), &events, sizeof events));
  busy_since_ns_ = reactor_.now_ns();
}

bool PcieQueue::take_completion(spec::Cqe cqe) noexcept {
  Slot* const slot = slots_.find(cqe.cid);
  if (slot == nullptr || !slot->sent || cqe.sq_id != options_.queue_id || cqe.sq_head >= rings_->entries()) {
    end(Error(Errc::protocol, fmt::format("the controller at {} completed command {:#06x} of queue {}, which is not in "
                                          "flight in queue {}",
                                          controller_->address(), cqe.cid, cqe.sq_id, options_.queue_id)));
    return false;
  }
  HostCommand& command = *slot->command;
  cqe.status = static_cast<uint16_t>(cqe.status & ~spec::kCqePhase);
  command.cqe = cqe;
  if (slot->bounced && command.direction == DataDirection::from_controller &&
      spec::status_of(cqe.status) == Status::success)
    copy_payload(command.iov, command.iov_offset, command.data_bytes, slot->data, true);
  on_answer(command);
  complete(*slot, HostOutcome::answered);
  return true;
}

void PcieQueue::complete(Slot& slot, HostOutcome outcome) noexcept {
  HostCommand& command = *slot.command;
  uint8_t* const data = std::exchange(slot.data, nullptr);
  const uint32_t bytes = command.data_bytes;
  command.outcome = outcome;
  if (outcome == HostOutcome::answered) ++stats_.nvme_completions;
  slots_.give_back(slot);
  if (data != nullptr && data != slot.own) lane_->pool().give_back(data, bytes);
  command.done(command);
}

void PcieQueue::answer(HostCommand& command, Status status, uint64_t result) noexcept {
  ++answering_;
  command.cqe = {};
  command.cqe.status = spec::status_field(status);
  command.cqe.set_result(result);
  answered_.push_back(command);
  run_again();
}

void PcieQueue::complete_answered() noexcept {
  List<HostCommand> due;
  due.splice_back(answered_);
  while (!due.empty()) {
    HostCommand& command = due.pop_front();
    --answering_;
    command.outcome = HostOutcome::answered;
    command.done(command);
  }
}

// --- Ending ---------------------------------------------------------------------------------------------------------

void PcieQueue::disconnect() noexcept {
  end(Error(Errc::canceled,
            fmt::format("queue {} of the controller at {} was closed", options_.queue_id, controller_->address())));
}

void PcieQueue::end(Error reason) noexcept {
  if (state_ != State::opening && state_ != State::ready) return;
  state_ = State::ending;
  reason_ = std::move(reason);
  run_again();
}

void PcieQueue::run_again() noexcept {
  if (!Deferred::linked()) reactor_.defer(*this);
}

void PcieQueue::run() noexcept {
  complete_answered();
  if (state_ != State::ending || busy_opening_) return;
  state_ = State::retiring;
  if (reactor() != nullptr) reactor()->remove(*this);
  retire();
}

// The controller is past touching their memory: the commands are over.
void PcieQueue::retired() noexcept {
  DE_ASSERT(state_ == State::retiring);
  state_ = State::closed;
  complete_answered();
  if (BouncePool::Waiter::linked()) BouncePool::Waiter::unlink();
  slots_.for_each_in_flight([this](Slot& slot) { complete(slot, HostOutcome::lost); });
  let_go_of_memory();
  events_.on_disconnected(reason_);
}

void PcieQueue::let_go_of_memory() noexcept {
  rings_.reset();
  if (memory_ != nullptr) controller_->work().dispose(std::move(memory_));
  lane_.reset();
}

}  // namespace diskengine::fabric::pcie
