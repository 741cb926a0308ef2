#include "fabric/rdma/target_queue.h"

#include <arpa/inet.h>
#include <fmt/format.h>

#include <algorithm>
#include <cstring>

#include "base/assert.h"
#include "base/endian.h"
#include "base/log.h"
#include "runtime/clock.h"

namespace diskengine::fabric::rdma {

using spec::Status;

Address address_of(const sockaddr* address) {
  std::array<char, INET6_ADDRSTRLEN> text{};
  if (address->sa_family == AF_INET6) {
    sockaddr_in6 in6;
    std::memcpy(&in6, address, sizeof in6);
    inet_ntop(AF_INET6, &in6.sin6_addr, text.data(), text.size());
    return {.type = "RDMA", .family = "IPv6", .address = text.data(), .service = std::to_string(ntohs(in6.sin6_port))};
  }
  sockaddr_in in;
  std::memcpy(&in, address, sizeof in);
  inet_ntop(AF_INET, &in.sin_addr, text.data(), text.size());
  return {.type = "RDMA", .family = "IPv4", .address = text.data(), .service = std::to_string(ntohs(in.sin_port))};
}

// --- Connecting -----------------------------------------------------------------------------------------------------

void RdmaTargetQueue::accept(const std::shared_ptr<TargetLane>& lane, const TargetRequest& request) {
  const auto refuse = [&](const std::string& why) {
    count(lane->counters.refused);
    LOG_WARN("fabric", "listener {}: a connection was refused: {}", request.listen_address.to_string(), why);
    refuse_request(lane->verbs, request.id, spec::RdmaCmStatus::no_resources);
  };
  if (lane->stopping) return refuse("the target stops");
  if (lane->queue_count >= RdmaTarget::kQueuesPerReactorMax) return refuse("the reactor has no room for more");
  Result<TargetDevice*> device = lane->device_of(request.id->verbs);
  if (!device) return refuse(device.error().message());
  // Owned by itself until release().
  auto* queue = new RdmaTargetQueue(lane, **device, request);
  if (Result<void> opened = queue->open(); !opened) {
    static_cast<void>(queue->id_.release());
    delete queue;
    refuse(opened.error().message());
  }
}

RdmaTargetQueue::RdmaTargetQueue(std::shared_ptr<TargetLane> lane, TargetDevice& device, const TargetRequest& request)
    : lane_(std::move(lane)),
      device_(device),
      id_(device.verbs(), request.id),
      listen_address_(request.listen_address),
      local_address_(address_of(&request.id->route.addr.src_addr)),
      peer_address_(address_of(&request.id->route.addr.dst_addr)),
      handshake_([this] { disconnect("no Connect command came in time"); }),
      drain_([this] { end(); }),
      commands_max_(request.wish.commands),
      reads_max_(std::min(request.reads, device.reads_max())) {}

Result<void> RdmaTargetQueue::open() {
  send_wrs_max_ = std::min(commands_max_ * (device_.transfer_wrs() + 1), device_.send_wrs_max());
  if (send_wrs_max_ < device_.transfer_wrs() + 1)
    return Error(Errc::not_supported, "the device's send queues are too short");
  TRY(device_.add_queue(id_.get(), *this, send_wrs_max_));
  opened_ = true;
  lane_->queues.push_back(*this);
  ++lane_->queue_count;
  count(lane_->counters.connections);
  handler_ = lane_->acceptor->on_connected(*this);
  spec::RdmaCmAccept data;
  data.controller_receive_size = static_cast<uint16_t>(std::min(commands_max_, 0xffffu));
  rdma_conn_param parameters{};
  parameters.private_data = &data;
  parameters.private_data_len = sizeof data;
  parameters.initiator_depth = static_cast<uint8_t>(reads_max_);
  parameters.flow_control = 1;
  parameters.rnr_retry_count = 7;  // without end: a host's receives are posted before its commands
  id_->context = static_cast<CmHandler*>(this);
  Result<void> accepted = handler_ == nullptr ? Result<void>(Error(Errc::busy, "the target takes no connections"))
                                              : device_.verbs().accept(id_.get(), &parameters);
  if (accepted) {
    handshake_.arm(reactor(), kHandshakeLimitNs);
    return {};
  }
  if (handler_ != nullptr) {  // it knows the queue: the usual end tells it
    disconnect("it could not be accepted");
    return {};
  }
  device_.remove_queue(id_.get(), *this);
  opened_ = false;
  return accepted;
}

RdmaTargetQueue::~RdmaTargetQueue() {
  if (opened_) device_.remove_queue(id_.get(), *this);
  if (BufferPool::Waiter::linked()) BufferPool::Waiter::unlink();
  if (Deferred::linked()) Deferred::unlink();
  if (TurnEndHook::linked()) TurnEndHook::unlink();
  if (LaneHook::linked()) {
    LaneHook::unlink();
    --lane_->queue_count;
  }
  id_.reset();
  lane_->drop_broken_devices();
  if (lane_->stopping && lane_->queues.empty() && lane_->on_empty) std::exchange(lane_->on_empty, nullptr)();
}

void RdmaTargetQueue::set_depth(uint32_t entries, bool) {
  handshake_.cancel();
  // The queue pair was made for what the connection request said.
  commands_max_ = std::min(commands_max_, entries);
}

void RdmaTargetQueue::on_cm_event(const CmEvent& event) noexcept {
  switch (event.type) {
    case RDMA_CM_EVENT_DISCONNECTED:
    case RDMA_CM_EVENT_TIMEWAIT_EXIT:
      return disconnect("the host closed it");
    case RDMA_CM_EVENT_DEVICE_REMOVAL:
      device_.leave();
      return disconnect("its RDMA device goes away");
    case RDMA_CM_EVENT_REJECTED:
    case RDMA_CM_EVENT_CONNECT_ERROR:
    case RDMA_CM_EVENT_UNREACHABLE:
      return disconnect("it was not established");
    default:
      return;
  }
}

// --- Commands -------------------------------------------------------------------------------------------------------

void RdmaTargetQueue::on_receive(TargetSlot& slot, uint32_t bytes) noexcept {
  slot.state = TargetSlot::State::lent;  // ours, whatever becomes of it
  slot.chunks = 0;
  slot.data = {};
  slot.data_bytes = 0;
  if (over_) return free_slot(slot);
  if (bytes < sizeof(spec::Sqe)) {
    free_slot(slot);
    return protocol_error(fmt::format("a capsule of {} bytes", bytes));
  }
  if (unanswered_ >= commands_max_) {
    free_slot(slot);
    return protocol_error("more commands than its queue holds");
  }
  ++unanswered_;
  slot.queue = this;
  slot.received_ticks = ticks();
  std::memcpy(static_cast<void*>(&slot.sqe), slot.command, sizeof slot.sqe);
  start(slot, bytes - static_cast<uint32_t>(sizeof(spec::Sqe)));
}

void RdmaTargetQueue::on_receive_error(ibv_wc_status status) noexcept {
  protocol_error(fmt::format("a capsule could not be received: {}", device_.verbs().wc_status_str(status)));
}

// Finds out where the command's data is or is to go.
void RdmaTargetQueue::start(TargetSlot& slot, uint32_t capsule_bytes) noexcept {
  using Kind = spec::RdmaDataPlace::Kind;
  slot.place = spec::place_rdma_data(slot.sqe, capsule_bytes, lane_->options.max_io_bytes);
  slot.transport_status = slot.place.status;
  if (slot.place.status != Status::success || slot.place.kind == Kind::none) return lend(slot);
  slot.data_bytes = slot.place.bytes;
  if (slot.place.kind == Kind::in_capsule) {
    slot.pieces[0] = {slot.own_buffer + slot.place.offset, slot.place.bytes};
    slot.data = std::span(slot.pieces).first(1);
    return lend(slot);
  }
  if (waiting_.empty() && take_buffers(slot)) return buffers_taken(slot);
  count(device_.counters()->waited_for_buffers);
  slot.state = TargetSlot::State::waiting;
  waiting_.push_back(slot);
  device_.pool().wait(*this);
}

bool RdmaTargetQueue::take_buffers(TargetSlot& slot) noexcept {
  BufferPool& pool = device_.pool();
  size_t pieces = 1;
  if (slot.data_bytes <= device_.own_buffer_bytes()) {
    slot.pieces[0] = {slot.own_buffer, slot.data_bytes};
  } else {
    pieces = pool.chunks_for(slot.data_bytes);
    if (pool_bytes_ + pieces * pool.chunk_bytes() > kPoolBytesPerQueueMax) return false;
    if (!pool.take(slot.data_bytes, slot.pieces.data())) return false;
    slot.chunks = pieces;
    pool_bytes_ += pieces * pool.chunk_bytes();
  }
  slot.data = std::span(slot.pieces).first(pieces);
  return true;
}

void RdmaTargetQueue::buffers_taken(TargetSlot& slot) noexcept {
  if (!slot.place.to_controller) return lend(slot);
  slot.answer_next = false;
  post_or_wait(slot);
}

void RdmaTargetQueue::on_chunks_free() noexcept { start_waiting(); }

void RdmaTargetQueue::start_waiting() noexcept {
  while (!waiting_.empty() && !over_) {
    auto& slot = static_cast<TargetSlot&>(waiting_.front());
    if (!take_buffers(slot)) return device_.pool().wait(*this);
    waiting_.pop_front();
    buffers_taken(slot);
  }
}

void RdmaTargetQueue::lend(TargetSlot& slot) noexcept {
  slot.state = TargetSlot::State::lent;
  handler_->on_command(slot);
}

void RdmaTargetQueue::complete(TargetCommand& command) noexcept {
  auto& slot = static_cast<TargetSlot&>(command);
  DE_ASSERT(slot.state == TargetSlot::State::lent && slot.owner == this);
  if (over_) {
    free_slot(slot);
    return end_if_drained();
  }
  slot.answer_next = true;
  post_or_wait(slot);
}

// --- Posting --------------------------------------------------------------------------------------------------------

void RdmaTargetQueue::post_or_wait(TargetSlot& slot) noexcept {
  if (blocked_.empty() && try_post(slot)) return;
  count(slot.answer_next ? device_.counters()->waited_for_send : device_.counters()->waited_for_read);
  slot.state = TargetSlot::State::blocked;
  blocked_.push_back(slot);
}

// Puts the slot's READs, or its WRITEs and answer, on the chain of this turn; false if the send queue has no room.
bool RdmaTargetQueue::try_post(TargetSlot& slot) noexcept {
  const bool read = !slot.answer_next;
  const bool moves = read || (slot.place.kind == spec::RdmaDataPlace::Kind::keyed && !slot.place.to_controller &&
                              slot.data_bytes > 0 && spec::status_of(slot.cqe.status) == Status::success);
  const uint32_t most = (moves ? device_.transfer_wrs() : 0) + (read ? 0 : 1);
  if (send_wrs_used_ + most > send_wrs_max_) return false;
  if (read && reads_ > 0 && reads_ + device_.transfer_wrs() > reads_max_) return false;
  uint32_t made = moves ? device_.make_transfers(slot, read) : 0;
  if (read) {
    reads_ += made;
    slot.state = TargetSlot::State::reading;
  } else {
    device_.make_answer(slot, made++);
    slot.state = TargetSlot::State::answering;
    --unanswered_;
  }
  slot.wrs_posted = made;
  send_wrs_used_ += made;
  count(device_.counters()->send_wrs, made);
  for (uint32_t i = 0; i < made; ++i) {
    *chain_end_ = &slot.wrs[i];
    chain_end_ = &slot.wrs[i].next;
  }
  reactor().at_turn_end(*this);
  return true;
}

void RdmaTargetQueue::start_blocked() noexcept {
  while (!blocked_.empty() && !over_) {
    auto& slot = static_cast<TargetSlot&>(blocked_.front());
    // It stays in line while it is tried: it must not be on two lists.
    if (!try_post(slot)) return;
    blocked_.pop_front();
  }
}

void RdmaTargetQueue::at_turn_end() noexcept {
  ibv_send_wr* const chain = std::exchange(chain_, nullptr);
  chain_end_ = &chain_;
  if (chain == nullptr) return;
  ibv_send_wr* bad = nullptr;
  count(device_.counters()->send_doorbells);
  const int error = device_.verbs().post_send(id_->qp, chain, &bad);
  if (error == 0) return;
  LOG_WARN("fabric", "NVMe/RDMA connection from {}: work requests cannot be posted: {}", peer_address_.to_string(),
           std::strerror(error));
  // From the bad one on nothing was posted, and nothing of it will complete. The slots are given back with the queue
  // pair, as their first work requests may be posted.
  disconnect("work requests could not be posted");
}

void RdmaTargetQueue::on_sent(TargetSlot& slot, WrKind kind, ibv_wc_status status) noexcept {
  if (status != IBV_WC_SUCCESS && status != IBV_WC_WR_FLUSH_ERR && !over_)
    protocol_error(fmt::format("{} failed: {}",
                               slot.state == TargetSlot::State::reading ? "an RDMA READ of its memory"
                               : kind == WrKind::part                   ? "an RDMA WRITE to its memory"
                                                                        : "the SEND of an answer",
                               device_.verbs().wc_status_str(status)));
  if (status != IBV_WC_SUCCESS && !over_) disconnect("its queue pair failed");
  if (kind == WrKind::part) return;
  send_wrs_used_ -= slot.wrs_posted;
  if (kind == WrKind::read_end) reads_ -= slot.wrs_posted;
  if (kind == WrKind::read_end && !over_) {
    lend(slot);
  } else {
    free_slot(slot);
  }
  if (over_) return end_if_drained();
  start_blocked();
}

void RdmaTargetQueue::free_slot(TargetSlot& slot) noexcept {
  const size_t chunks = std::exchange(slot.chunks, 0);
  device_.recycle(slot);
  if (chunks == 0) return;
  pool_bytes_ -= chunks * device_.pool().chunk_bytes();
  device_.pool().give_back(slot.pieces.data(), chunks);
  if (!over_) start_waiting();
}

void RdmaTargetQueue::abandon(TargetSlot& slot) noexcept {
  if (slot.linked()) slot.unlink();
  free_slot(slot);
}

// --- Ending ---------------------------------------------------------------------------------------------------------

void RdmaTargetQueue::protocol_error(const std::string& what) noexcept {
  if (over_) return;
  count(lane_->counters.protocol_errors);
  LOG_WARN("fabric", "NVMe/RDMA connection from {}: closed: {}", peer_address_.to_string(), what);
  disconnect("the host broke the protocol");
}

void RdmaTargetQueue::disconnect(const char* why) noexcept {
  if (over_) return;
  over_ = true;
  why_ = why;
  handshake_.cancel();
  device_.verbs().disconnect(id_.get());
  reactor().defer(*this);
}

// The connection is over: takes back what neither the handler nor the device has, and tells the handler.
void RdmaTargetQueue::run() noexcept {
  if (ended_) {
    delete this;
    return;
  }
  if (told_) return end_if_drained();
  told_ = true;
  LOG_DEBUG("fabric", "NVMe/RDMA connection from {} is over: {}", peer_address_.to_string(), why_);
  for (List<TargetCommand>* list : {&waiting_, &blocked_})
    while (!list->empty()) free_slot(static_cast<TargetSlot&>(list->pop_front()));
  drain_.arm(reactor(), kDrainLimitNs);
  handler_->on_disconnected();
}

void RdmaTargetQueue::release() noexcept {
  DE_ASSERT(told_ && !released_);
  released_ = true;
  reactor().defer(*this);
}

void RdmaTargetQueue::end_if_drained() noexcept {
  if (!released_ || send_wrs_used_ > 0 || lingered_) return;
  lingered_ = true;
  drain_.arm(reactor(), kLingerNs);
}

void RdmaTargetQueue::end() noexcept {
  if (!released_) {  // the handler still has commands
    drain_.arm(reactor(), kDrainLimitNs);
    return;
  }
  if (send_wrs_used_ > 0)
    LOG_DEBUG("fabric", "NVMe/RDMA connection from {}: {} work requests never completed", peer_address_.to_string(),
              send_wrs_used_);
  ended_ = true;
  reactor().defer(*this);
}

}  // namespace diskengine::fabric::rdma
