#include "fabric/rdma/target_device.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstring>

#include "base/assert.h"
#include "base/checked.h"
#include "base/log.h"
#include "fabric/rdma/target_queue.h"

namespace diskengine::fabric::rdma {
namespace {

constexpr size_t kAnswerBytes = sizeof(spec::Cqe);
constexpr size_t kCommandBytes = sizeof(spec::Sqe);
// Hosts send up to a page of data with admin commands, and a page is what most commands move.
constexpr size_t kOwnBufferBytesMin = 4096;

size_t own_bytes(const TargetOptions& options) noexcept {
  return round_up(std::max<size_t>(options.in_capsule_bytes, kOwnBufferBytesMin), DmaBuffer::kAlignment);
}

size_t pieces_max(const TargetOptions& options) noexcept {
  return (options.max_io_bytes + options.buffer_bytes - 1) / options.buffer_bytes;
}

uint32_t pieces_per_wr(const ibv_device_attr& attributes) noexcept {
  return static_cast<uint32_t>(std::clamp<int>(attributes.max_sge, 1, static_cast<int>(TargetCommand::kPiecesMax)));
}

uint32_t wrs_for(size_t pieces, uint32_t per_wr) noexcept {
  return static_cast<uint32_t>((pieces + per_wr - 1) / per_wr);
}

// wr_id: kind (8), generation (8), slot (32).
uint64_t wr_id_of(WrKind kind, const TargetSlot& slot) noexcept {
  return static_cast<uint64_t>(kind) << 56 | uint64_t{slot.generation} << 48 | slot.index;
}

}  // namespace

Result<std::unique_ptr<TargetDevice>> TargetDevice::make(Verbs& verbs, Reactor& reactor, ibv_context* context,
                                                         const TargetOptions& options, DmaRegions* regions) {
  TRY_ASSIGN(const ibv_device_attr attributes, verbs.query_device(context));
  const uint32_t transfers = wrs_for(pieces_max(options), pieces_per_wr(attributes));
  if (transfers > TargetSlot::kTransfersMax || attributes.max_srq <= 0 || attributes.max_srq_sge < 2)
    return Error(
        Errc::not_supported,
        fmt::format("RDMA device {} takes {} pieces of memory in a transfer and {} in a shared receive, and has "
                    "{} shared receive queues: too few for this target",
                    verbs.device_name(context), attributes.max_sge, attributes.max_srq_sge, attributes.max_srq));
  // Each slot has one receive, or its transfers, or its transfers and its answer outstanding.
  const uint32_t per_slot = transfers + 2;
  const uint32_t slots = std::min({options.srq_entries, static_cast<uint32_t>(attributes.max_srq_wr),
                                   static_cast<uint32_t>(attributes.max_cqe) / per_slot});
  if (slots < options.srq_entries)
    LOG_INFO("fabric", "RDMA device {} allows {} commands at once, not {}", verbs.device_name(context), slots,
             options.srq_entries);
  std::unique_ptr<TargetDevice> device(new TargetDevice(verbs, reactor, context, attributes, options, slots, regions));
  TRY(device->open(slots));
  return device;
}

TargetDevice::TargetDevice(Verbs& verbs, Reactor& reactor, ibv_context* context, const ibv_device_attr& attributes,
                           const TargetOptions& options, uint32_t slots, DmaRegions* regions)
    : verbs_(verbs),
      reactor_(reactor),
      context_(context),
      attributes_(attributes),
      own_buffer_bytes_(own_bytes(options)),
      pieces_per_wr_(pieces_per_wr(attributes)),
      transfer_wrs_(wrs_for(pieces_max(options), pieces_per_wr_)),
      counters_(std::make_shared<TargetDeviceCounters>()),
      pool_(options.buffer_bytes, options.buffers, regions),
      own_buffers_(slots * own_buffer_bytes_),
      headers_(slots * (kCommandBytes + kAnswerBytes)),
      slots_(slots) {
  if (regions != nullptr) listed_ = regions->list(own_buffers_.data(), own_buffers_.size());
  counters_->name = verbs.device_name(context);
}

TargetDevice::~TargetDevice() {
  DE_ASSERT(queues_.empty());
  if (TurnEndHook::linked()) TurnEndHook::unlink();
}

Result<void> TargetDevice::open(uint32_t slots) {
  TRY_ASSIGN(ibv_pd* const pd, verbs_.alloc_pd(context_));
  pd_ = OwnedPd(verbs_, pd);
  const std::span<uint8_t> pool = pool_.memory();
  TRY_ASSIGN(ibv_mr* const pool_mr, verbs_.reg_mr(pd, pool.data(), pool.size(), IBV_ACCESS_LOCAL_WRITE));
  pool_mr_ = OwnedMr(verbs_, pool_mr);
  TRY_ASSIGN(ibv_mr* const own_mr, verbs_.reg_mr(pd, own_buffers_.data(), own_buffers_.size(), IBV_ACCESS_LOCAL_WRITE));
  own_mr_ = OwnedMr(verbs_, own_mr);
  TRY_ASSIGN(ibv_mr* const header_mr, verbs_.reg_mr(pd, headers_.data(), headers_.size(), IBV_ACCESS_LOCAL_WRITE));
  header_mr_ = OwnedMr(verbs_, header_mr);
  ibv_srq_init_attr attributes{};
  attributes.attr.max_wr = slots;
  attributes.attr.max_sge = 2;
  TRY_ASSIGN(ibv_srq* const srq, verbs_.create_srq(pd, &attributes));
  srq_ = OwnedSrq(verbs_, srq);
  TRY_ASSIGN(cq_, CompletionQueue::make(verbs_, reactor_, context_, static_cast<int>(slots * (transfer_wrs_ + 2)),
                                        "nvmf_rdma", *this));
  make_slots(slots);
  return {};
}

void TargetDevice::make_slots(uint32_t slots) {
  for (uint32_t i = 0; i < slots; ++i) {
    TargetSlot& slot = slots_[i];
    slot.index = i;
    slot.own_buffer = own_buffers_.data() + i * own_buffer_bytes_;
    slot.command = headers_.data() + i * kCommandBytes;
    slot.answer = headers_.data() + slots * kCommandBytes + i * kAnswerBytes;
    slot.recv_sges[0] = {reinterpret_cast<uint64_t>(slot.command), kCommandBytes, header_mr_->lkey};
    slot.recv_sges[1] = {reinterpret_cast<uint64_t>(slot.own_buffer), static_cast<uint32_t>(own_buffer_bytes_),
                         own_mr_->lkey};
    slot.recv.wr_id = wr_id_of(WrKind::receive, slot);
    slot.recv.sg_list = slot.recv_sges.data();
    slot.recv.num_sge = static_cast<int>(slot.recv_sges.size());
    recycle(slot);
  }
  at_turn_end();
  if (TurnEndHook::linked()) TurnEndHook::unlink();
}

Result<void> TargetDevice::add_queue(rdma_cm_id* id, RdmaTargetQueue& queue, uint32_t send_wrs) {
  ibv_qp_init_attr attributes{};
  attributes.qp_type = IBV_QPT_RC;
  attributes.send_cq = cq_->get();
  attributes.recv_cq = cq_->get();
  attributes.srq = srq_.get();
  attributes.cap.max_send_wr = send_wrs;
  attributes.cap.max_send_sge = pieces_per_wr_;
  TRY(verbs_.create_qp(id, pd_.get(), &attributes));
  queues_.emplace(id->qp->qp_num, &queue);
  return {};
}

void TargetDevice::remove_queue(rdma_cm_id* id, RdmaTargetQueue& queue) {
  queues_.erase(id->qp->qp_num);
  verbs_.destroy_qp(id);
  // Those whose completions did not come: the device can not touch their memory any more.
  for (TargetSlot& slot : slots_)
    if (slot.owner == &queue) queue.abandon(slot);
}

void TargetDevice::recycle(TargetSlot& slot) noexcept {
  slot.owner = nullptr;
  slot.state = TargetSlot::State::posted;
  ++slot.generation;
  ++free_slots_;
  slot.recv.wr_id = wr_id_of(WrKind::receive, slot);
  slot.recv.next = nullptr;
  *recv_end_ = &slot.recv;
  recv_end_ = &slot.recv.next;
  count(counters_->recv_wrs);
  reactor_.at_turn_end(*this);
}

void TargetDevice::at_turn_end() noexcept {
  publish();
  ibv_recv_wr* const chain = std::exchange(recv_chain_, nullptr);
  recv_end_ = &recv_chain_;
  if (chain == nullptr || broken_) return;
  ibv_recv_wr* bad = nullptr;
  count(counters_->recv_doorbells);
  const int error = verbs_.post_srq_recv(srq_.get(), chain, &bad);
  if (error == 0) return;
  LOG_ERROR("fabric", "RDMA device {}: receives cannot be posted: {}", counters_->name, std::strerror(error));
  on_broken();
}

void TargetDevice::publish() noexcept {
  if (!cq_) return;
  const CompletionQueue::Stats& stats = cq_->stats();
  counters_->polls.store(stats.polls, std::memory_order_relaxed);
  counters_->idle_polls.store(stats.idle_polls, std::memory_order_relaxed);
  counters_->completions.store(stats.completions, std::memory_order_relaxed);
}

void TargetDevice::on_completion(const ibv_wc& completion) noexcept {
  const auto kind = static_cast<WrKind>(completion.wr_id >> 56);
  const auto index = static_cast<uint32_t>(completion.wr_id);
  DE_ASSERT(index < slots_.size());
  TargetSlot& slot = slots_[index];
  if (slot.generation != static_cast<uint8_t>(completion.wr_id >> 48)) return;  // of a queue pair that is gone
  if (kind == WrKind::receive) return on_receive(slot, completion);
  if (slot.owner != nullptr) slot.owner->on_sent(slot, kind, completion.status);
}

void TargetDevice::on_receive(TargetSlot& slot, const ibv_wc& completion) noexcept {
  DE_ASSERT(slot.state == TargetSlot::State::posted && free_slots_ > 0);
  --free_slots_;
  const auto at = queues_.find(completion.qp_num);
  if (completion.status != IBV_WC_SUCCESS || at == queues_.end()) {
    recycle(slot);
    if (at != queues_.end() && completion.status != IBV_WC_WR_FLUSH_ERR)
      at->second->on_receive_error(completion.status);
    return;
  }
  slot.owner = at->second;
  count(counters_->requests);
  at->second->on_receive(slot, completion.byte_len);
}

void TargetDevice::on_broken() noexcept {
  if (std::exchange(broken_, true)) return;
  LOG_ERROR("fabric", "RDMA device {} does not answer any more: its connections are closed", counters_->name);
  for (const auto& [number, queue] : queues_) queue->disconnect("the RDMA device failed");
}

ibv_sge TargetDevice::sge_of(const TargetSlot& slot, const iovec& piece) const noexcept {
  return {reinterpret_cast<uint64_t>(piece.iov_base), static_cast<uint32_t>(piece.iov_len),
          slot.chunks > 0 ? pool_mr_->lkey : own_mr_->lkey};
}

uint32_t TargetDevice::make_transfers(TargetSlot& slot, bool read) noexcept {
  uint64_t remote = slot.place.keyed.address;
  uint32_t made = 0;
  for (size_t at = 0; at < slot.data.size(); at += pieces_per_wr_) {
    const size_t pieces = std::min<size_t>(pieces_per_wr_, slot.data.size() - at);
    ibv_send_wr& wr = slot.wrs[made++];
    wr = {};
    wr.wr_id = wr_id_of(WrKind::part, slot);
    wr.opcode = read ? IBV_WR_RDMA_READ : IBV_WR_RDMA_WRITE;
    wr.sg_list = &slot.sges[at];
    wr.num_sge = static_cast<int>(pieces);
    wr.wr.rdma.remote_addr = remote;
    wr.wr.rdma.rkey = slot.place.keyed.key;
    for (size_t i = at; i < at + pieces; ++i) {
      slot.sges[i] = sge_of(slot, slot.data[i]);
      remote += slot.data[i].iov_len;
    }
  }
  if (!read) return made;
  slot.wrs[made - 1].wr_id = wr_id_of(WrKind::read_end, slot);
  slot.wrs[made - 1].send_flags = IBV_SEND_SIGNALED;
  return made;
}

void TargetDevice::make_answer(TargetSlot& slot, uint32_t at) noexcept {
  std::memcpy(slot.answer, &slot.cqe, kAnswerBytes);
  ibv_sge& sge = slot.sges.back();
  sge = {reinterpret_cast<uint64_t>(slot.answer), kAnswerBytes, header_mr_->lkey};
  ibv_send_wr& wr = slot.wrs[at];
  wr = {};
  wr.wr_id = wr_id_of(WrKind::answer_send, slot);
  wr.opcode = IBV_WR_SEND;
  wr.sg_list = &sge;
  wr.num_sge = 1;
  wr.send_flags = IBV_SEND_SIGNALED;
  if (!slot.place.keyed.invalidate || (attributes_.device_cap_flags & IBV_DEVICE_MEM_MGT_EXTENSIONS) == 0) return;
  wr.opcode = IBV_WR_SEND_WITH_INV;
  wr.invalidate_rkey = slot.place.keyed.key;
}

}  // namespace diskengine::fabric::rdma
