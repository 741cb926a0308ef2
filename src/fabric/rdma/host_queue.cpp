#include "fabric/rdma/host_queue.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstring>

#include "base/assert.h"
#include "base/checked.h"
#include "base/endian.h"
#include "base/log.h"
#include "fabric/payload.h"

namespace diskengine::fabric::rdma {
namespace {

using spec::DataDirection;

constexpr size_t kCapsuleBytes = sizeof(spec::Sqe);
constexpr size_t kAnswerBytes = sizeof(spec::Cqe);
// Why a connection request was refused: by the controller itself, with its private data, or by nobody being there.
constexpr int kRejectedByPeer = 28;
constexpr int kRejectedNoListener = 8;

// wr_id: the high bit says SEND, the rest which slot or answer.
constexpr uint64_t kSendMark = uint64_t{1} << 63;

}  // namespace

RdmaHostQueue::RdmaHostQueue(std::shared_ptr<HostLane> lane, std::string peer, const HostQueueOptions& options,
                             HostQueueEvents& events)
    : lane_(std::move(lane)),
      events_(events),
      options_(options),
      peer_(std::move(peer)),
      entries_(options.queue_id == 0 ? options.depth : options.depth + 1),
      reason_(Errc::internal, "open"),
      setup_timer_([this] {
        end(Error(Errc::timed_out, fmt::format("{} did not complete the NVMe/RDMA connection within {} s", peer_,
                                               kSetupLimitNs / 1'000'000'000)));
      }) {
  DE_ASSERT(options.depth > 1 && options.depth <= kQueueDepthMax);
}

RdmaHostQueue::~RdmaHostQueue() {
  DE_ASSERT(outstanding() == 0);
  if (id_ && id_->qp != nullptr) lane_->verbs->destroy_qp(id_.get());
  if (BouncePool::Waiter::linked()) BouncePool::Waiter::unlink();
  if (Deferred::linked()) Deferred::unlink();
  if (TurnEndHook::linked()) TurnEndHook::unlink();
}

HostQueueStats RdmaHostQueue::stats() const noexcept {
  HostQueueStats stats = stats_;
  if (!cq_) return stats;
  stats.polls = cq_->stats().polls;
  stats.idle_polls = cq_->stats().idle_polls;
  stats.socket_completions = stats.polls - stats.idle_polls;
  return stats;
}

// --- Setting up -----------------------------------------------------------------------------------------------------

Result<void> RdmaHostQueue::begin(const SocketAddress& to, const SocketAddress* from) {
  TRY_ASSIGN(rdma_cm_id* const id, lane_->verbs->create_id(lane_->channel->get(), static_cast<CmHandler*>(this)));
  id_ = OwnedId(*lane_->verbs, id);
  const auto* source = from == nullptr ? nullptr : reinterpret_cast<const sockaddr*>(&from->storage);
  Result<void> begun =
      lane_->verbs->resolve_addr(id, source, reinterpret_cast<const sockaddr*>(&to.storage), kResolveLimitMs);
  if (!begun) return begun.error().with_context(peer_);
  setup_timer_.arm(lane_->reactor, kSetupLimitNs);
  return {};
}

void RdmaHostQueue::on_cm_event(const CmEvent& event) noexcept {
  if (state_ == State::ending || state_ == State::closed) return;
  const auto go_on = [this](State next, Result<void> done) {
    state_ = next;
    if (!done) end(done.error().with_context(peer_));
  };
  switch (event.type) {
    case RDMA_CM_EVENT_ADDR_RESOLVED: {
      Result<void> made = make_queue_pair();
      if (made) made = lane_->verbs->resolve_route(id_.get(), kResolveLimitMs);
      return go_on(State::resolving_route, std::move(made));
    }
    case RDMA_CM_EVENT_ROUTE_RESOLVED:
      return go_on(State::connecting, connect());
    case RDMA_CM_EVENT_ESTABLISHED:
      if (state_ != State::connecting) return;
      setup_timer_.cancel();
      state_ = State::ready;
      return events_.on_connected();
    case RDMA_CM_EVENT_ADDR_ERROR:
      return end(Error(Errc::unreachable, fmt::format("no RDMA device of this machine reaches {}: {}", peer_,
                                                      describe_cm_status(event.status))));
    case RDMA_CM_EVENT_ROUTE_ERROR:
      return end(Error(Errc::unreachable,
                       fmt::format("there is no RDMA route to {}: {}", peer_, describe_cm_status(event.status))));
    case RDMA_CM_EVENT_UNREACHABLE:
    case RDMA_CM_EVENT_CONNECT_ERROR:
      return end(Error(Errc::unreachable, fmt::format("{} does not answer the RDMA connection request: {}", peer_,
                                                      describe_cm_status(event.status))));
    case RDMA_CM_EVENT_REJECTED:
      return end(refusal(event));
    case RDMA_CM_EVENT_DISCONNECTED:
      return end(Error(Errc::unreachable, fmt::format("{} closed the connection", peer_)));
    case RDMA_CM_EVENT_DEVICE_REMOVAL:
      return end(Error(Errc::no_device, fmt::format("the RDMA device towards {} goes away", peer_)));
    default:
      return;
  }
}

Error RdmaHostQueue::refusal(const CmEvent& event) const {
  if (event.status == kRejectedNoListener)
    return Error(Errc::unreachable, fmt::format("nothing listens for RDMA connections on {}", peer_));
  if (event.status != kRejectedByPeer)
    return Error(Errc::unreachable, fmt::format("{} refused the RDMA connection (reason {} of the connection manager)",
                                                peer_, event.status));
  return Error(Errc::unreachable, fmt::format("{} refused the RDMA connection: {}", peer_,
                                              spec::name_of(spec::read_rdma_reject(event.data()))));
}

Result<void> RdmaHostQueue::make_queue_pair() {
  TRY_ASSIGN(device_, lane_->device_of(id_->verbs));
  TRY_ASSIGN(cq_, CompletionQueue::make(*lane_->verbs, lane_->reactor, id_->verbs, static_cast<int>(2 * entries_),
                                        options_.name, *this));
  TRY_ASSIGN(memory_, DmaBuffer::allocate(round_up(entries_ * (kCapsuleBytes + kAnswerBytes), kOwnBytes) +
                                          options_.depth * kOwnBytes));
  TRY_ASSIGN(ibv_mr* const mr,
             lane_->verbs->reg_mr(device_->pd(), memory_.data(), memory_.size(),
                                  IBV_ACCESS_LOCAL_WRITE | IBV_ACCESS_REMOTE_READ | IBV_ACCESS_REMOTE_WRITE));
  mr_ = OwnedMr(*lane_->verbs, mr);
  ibv_qp_init_attr attributes{};
  attributes.qp_type = IBV_QPT_RC;
  attributes.send_cq = attributes.recv_cq = cq_->get();
  attributes.cap.max_send_wr = entries_;
  attributes.cap.max_recv_wr = entries_;
  attributes.cap.max_send_sge = 2;
  attributes.cap.max_recv_sge = 1;
  TRY(lane_->verbs->create_qp(id_.get(), device_->pd(), &attributes));
  make_slots();
  return {};
}

void RdmaHostQueue::make_slots() {
  uint8_t* const answers = memory_.data() + entries_ * kCapsuleBytes;
  uint8_t* const pages = memory_.data() + round_up(entries_ * (kCapsuleBytes + kAnswerBytes), kOwnBytes);
  slots_ = CommandSlots<Slot>(options_.depth);
  for (uint32_t i = 0; i < options_.depth; ++i) {
    slots_[i].capsule = memory_.data() + i * kCapsuleBytes;
    slots_[i].own = pages + i * kOwnBytes;
  }
  answers_.resize(entries_);
  for (uint32_t i = 0; i < entries_; ++i) {
    Answer& answer = answers_[i];
    answer.sge = {reinterpret_cast<uint64_t>(answers + i * kAnswerBytes), kAnswerBytes, mr_->lkey};
    answer.wr.wr_id = i;
    answer.wr.sg_list = &answer.sge;
    answer.wr.num_sge = 1;
    post_answer_room(answer);
  }
  at_turn_end();  // before the controller can answer
}

Result<void> RdmaHostQueue::connect() {
  spec::RdmaCmRequest request;
  request.queue_id = options_.queue_id;
  request.host_receive_size = static_cast<uint16_t>(entries_);
  request.host_send_size = static_cast<uint16_t>(entries_ - 1);
  rdma_conn_param parameters{};
  parameters.private_data = &request;
  parameters.private_data_len = sizeof request;
  parameters.responder_resources = static_cast<uint8_t>(std::clamp(device_->attributes().max_qp_rd_atom, 1, kReadsMax));
  parameters.flow_control = 1;
  parameters.retry_count = 7;
  parameters.rnr_retry_count = 7;  // without end: a controller's shared receives may run out for a while
  return lane_->verbs->connect(id_.get(), &parameters);
}

// --- Sending --------------------------------------------------------------------------------------------------------

void RdmaHostQueue::submit(HostCommand& command) noexcept {
  DE_ASSERT(command.done != nullptr && state_ != State::closed);
  DE_ASSERT((command.data_bytes == 0) == (command.direction == DataDirection::none));
  DE_ASSERT(command.data_bytes <= options_.transfer_bytes_max && command.iov.size() <= kCommandPiecesMax);
  Slot& slot = slots_.take(command);
  ++stats_.submitted_requests;
  slot.answered = slot.sending = false;
  slot.data = nullptr;
  command.sqe.flags = spec::kSqeSgl;
  if (state_ != State::ready) return;  // completes as lost with the others
  if (waiting_.empty() && take_memory(slot)) return send(slot);
  ++stats_.queued_requests;
  waiting_.push_back(slot);
}

// Finds registered memory for the command's data; false if it has to wait.
bool RdmaHostQueue::take_memory(Slot& slot) noexcept {
  const uint32_t bytes = slot.command->data_bytes;
  if (bytes > 0 && reach_directly(slot)) return true;
  slot.direct = false;
  slot.data = bytes <= kOwnBytes ? slot.own : device_->pool().take(bytes, *this);
  slot.key = slot.data == slot.own ? mr_->rkey : device_->remote_key();
  return slot.data != nullptr;
}

// One key and one address can name the data if it lies in one registered piece. A write that fits into its capsule is
// copied into it: that is less work for both sides than a READ.
bool RdmaHostQueue::reach_directly(Slot& slot) noexcept {
  const HostCommand& command = *slot.command;
  const bool out = command.direction == DataDirection::to_controller;
  if (out && command.data_bytes <= std::min<size_t>(kOwnBytes, options_.capsule_data_bytes)) return false;
  size_t offset = command.iov_offset;
  auto piece = command.iov.begin();
  while (offset >= piece->iov_len) {
    offset -= piece->iov_len;
    ++piece;
  }
  uint8_t* const start = static_cast<uint8_t*>(piece->iov_base) + offset;
  size_t have = piece->iov_len - offset;
  for (++piece; have < command.data_bytes; ++piece) {
    if (piece->iov_base != start + have) return false;
    have += piece->iov_len;
  }
  const ibv_mr* const mr = device_->map().find(start, command.data_bytes);
  if (mr == nullptr) return false;
  slot.data = start;
  slot.direct = true;
  ++stats_.direct_requests;
  slot.key = mr->rkey;
  return true;
}

void RdmaHostQueue::on_memory_free() noexcept {
  while (!waiting_.empty() && state_ == State::ready) {
    Slot& slot = waiting_.front();
    if (!take_memory(slot)) return;
    slot.unlink();
    send(slot);
  }
}

void RdmaHostQueue::send(Slot& slot) noexcept {
  HostCommand& command = *slot.command;
  const bool own = slot.data == slot.own;
  const bool out = command.direction == DataDirection::to_controller;
  // Controllers need not take data in the capsules of an admin queue.
  const bool in_capsule = out && own && options_.queue_id != 0 && command.data_bytes <= options_.capsule_data_bytes;
  if (out && !slot.direct) copy_payload(command.iov, command.iov_offset, command.data_bytes, slot.data, false);
  if (in_capsule) {
    command.sqe.data = {};
    command.sqe.data.length = command.data_bytes;
    command.sqe.data.type = spec::SglType::in_capsule;
  } else {
    // Without data a keyed descriptor of no length.
    const bool data = command.data_bytes > 0;
    command.sqe.data = spec::make_keyed_sgl({.address = data ? reinterpret_cast<uint64_t>(slot.data) : 0,
                                             .length = command.data_bytes,
                                             .key = data ? slot.key : 0});
  }
  std::memcpy(slot.capsule, &command.sqe, kCapsuleBytes);
  slot.sges[0] = {reinterpret_cast<uint64_t>(slot.capsule), kCapsuleBytes, mr_->lkey};
  slot.sges[1] = {reinterpret_cast<uint64_t>(slot.data), command.data_bytes, mr_->lkey};
  slot.wr = {};
  slot.wr.wr_id = kSendMark | slots_.index_of(slot);
  slot.wr.opcode = IBV_WR_SEND;
  slot.wr.send_flags = IBV_SEND_SIGNALED;
  slot.wr.sg_list = slot.sges;
  slot.wr.num_sge = in_capsule ? 2 : 1;
  slot.sending = true;
  *send_end_ = &slot.wr;
  send_end_ = &slot.wr.next;
  lane_->reactor.at_turn_end(*this);
}

void RdmaHostQueue::post_answer_room(Answer& answer) noexcept {
  answer.wr.next = nullptr;
  *recv_end_ = &answer.wr;
  recv_end_ = &answer.wr.next;
  lane_->reactor.at_turn_end(*this);
}

// Room for answers first, then what they will answer.
void RdmaHostQueue::at_turn_end() noexcept {
  ibv_recv_wr* const room = std::exchange(recv_chain_, nullptr);
  recv_end_ = &recv_chain_;
  ibv_send_wr* const capsules = std::exchange(send_chain_, nullptr);
  send_end_ = &send_chain_;
  if (state_ == State::ending || state_ == State::closed) return;
  ibv_recv_wr* bad_room = nullptr;
  ibv_send_wr* bad_capsule = nullptr;
  int error = room == nullptr ? 0 : lane_->verbs->post_recv(id_->qp, room, &bad_room);
  if (error == 0 && capsules != nullptr) error = lane_->verbs->post_send(id_->qp, capsules, &bad_capsule);
  if (room != nullptr) ++stats_.system_calls;
  if (capsules != nullptr) ++stats_.system_calls;
  if (error != 0)
    end(Error(Errc::io_error, fmt::format("cannot post to the queue pair of {}: {}", peer_, std::strerror(error))));
}

// --- Receiving ------------------------------------------------------------------------------------------------------

void RdmaHostQueue::on_completion(const ibv_wc& completion) noexcept {
  if (state_ == State::ending || state_ == State::closed) return;
  if (completion.status != IBV_WC_SUCCESS)
    return end(Error(Errc::unreachable, fmt::format("lost the RDMA connection to {}: {}", peer_,
                                                    lane_->verbs->wc_status_str(completion.status))));
  const uint64_t index = completion.wr_id & ~kSendMark;
  if ((completion.wr_id & kSendMark) == 0) return on_answer(answers_.at(index), completion.byte_len);
  Slot& slot = slots_[static_cast<uint32_t>(index)];
  DE_ASSERT(slot.sending);
  slot.sending = false;
  finish_if_over(slot);
}

void RdmaHostQueue::on_answer(Answer& answer, uint32_t bytes) noexcept {
  if (bytes != kAnswerBytes) return protocol_error(fmt::format("an answer of {} bytes", bytes));
  const auto cqe = load_le<spec::Cqe>(reinterpret_cast<const void*>(answer.sge.addr));
  Slot* const slot = slots_.find(cqe.cid);
  // What waits for memory was not sent, and cannot be answered.
  if (slot == nullptr || slot->answered || slot->linked() || slot->data == nullptr)
    return protocol_error(fmt::format("an answer to command {:#06x}, which is not in flight", cqe.cid));
  slot->command->cqe = cqe;
  slot->answered = true;
  post_answer_room(answer);
  finish_if_over(*slot);
}

void RdmaHostQueue::finish_if_over(Slot& slot) noexcept {
  if (slot.sending || !slot.answered) return;
  HostCommand& command = *slot.command;
  if (command.direction == DataDirection::from_controller && !slot.direct &&
      spec::status_of(command.cqe.status) == spec::Status::success)
    copy_payload(command.iov, command.iov_offset, command.data_bytes, slot.data, true);
  complete(slot, HostOutcome::answered);
}

void RdmaHostQueue::complete(Slot& slot, HostOutcome outcome) noexcept {
  HostCommand& command = *slot.command;
  uint8_t* const data = std::exchange(slot.data, nullptr);
  const uint32_t bytes = command.data_bytes;
  command.outcome = outcome;
  if (outcome == HostOutcome::answered) ++stats_.nvme_completions;
  slots_.give_back(slot);
  if (data != nullptr && data != slot.own && !slot.direct) device_->pool().give_back(data, bytes);
  command.done(command);
}

// --- Ending ---------------------------------------------------------------------------------------------------------

void RdmaHostQueue::on_broken() noexcept {
  end(Error(Errc::no_device, fmt::format("the RDMA device towards {} does not answer any more", peer_)));
}

void RdmaHostQueue::protocol_error(const std::string& what) noexcept {
  end(Error(Errc::protocol, fmt::format("{} broke the NVMe/RDMA protocol: {}", peer_, what)));
}

void RdmaHostQueue::disconnect() noexcept {
  end(Error(Errc::canceled, fmt::format("the queue to {} was disconnected", peer_)));
}

// From here on nothing leaves or arrives: the queue pair is in the error state.
void RdmaHostQueue::end(Error reason) noexcept {
  if (state_ == State::ending || state_ == State::closed) return;
  const bool connected = state_ == State::connecting || state_ == State::ready;
  state_ = State::ending;
  reason_ = std::move(reason);
  setup_timer_.cancel();
  if (connected) lane_->verbs->disconnect(id_.get());
  lane_->reactor.defer(*this);
}

// The queue pair goes before its commands complete: the device must not touch memory that is no longer theirs.
void RdmaHostQueue::run() noexcept {
  state_ = State::closed;
  if (id_ && id_->qp != nullptr) lane_->verbs->destroy_qp(id_.get());
  if (BouncePool::Waiter::linked()) BouncePool::Waiter::unlink();
  slots_.for_each_in_flight([this](Slot& slot) { complete(slot, HostOutcome::lost); });
  events_.on_disconnected(reason_);
}

}  // namespace diskengine::fabric::rdma
