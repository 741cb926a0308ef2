#include "fabric/tcp/target_queue.h"

#include <algorithm>
#include <cstring>

#include "base/crc32c.h"
#include "base/endian.h"
#include "base/log.h"
#include "format/nvme_fabrics.h"

namespace diskengine::fabric::tcp {

using spec::Status;
using spec::TcpFatal;
using spec::TcpPdu;

namespace {

constexpr uint32_t kHandshakeSlots = 2;  // before Connect says how many

// Output of one command at most: an R2T, a data header with the largest alignment, a data digest, a response.
constexpr size_t kOutputBytesPerSlot = 28 + 128 + 4 + 28;
constexpr size_t kOutputPiecesPerSlot = 5;
constexpr size_t kOutputBytesSpare = 1024;

}  // namespace

struct TcpTargetQueue::Slot final : TargetCommand, SendHook {
  enum class State : uint8_t { free, capsule, waiting, receiving, lent, sending };

  TcpTargetQueue* owner = nullptr;
  uint8_t* own_buffer = nullptr;
  State state = State::free;
  bool to_controller = false;
  bool digest_failed = false;
  uint16_t tag = 0;
  uint32_t received = 0;  // bytes of the data, in order
  size_t chunks = 0;      // of `pieces` that belong to the pool
  std::array<iovec, kPiecesMax> pieces;

  void on_released() noexcept override { owner->free_slot(*this); }
};

struct TcpTargetQueue::SlotBlock {
  SlotBlock(size_t count, size_t buffer_bytes, DmaRegions* regions) : slots(count), buffers(count * buffer_bytes) {
    if (regions != nullptr) listed = regions->list(buffers.data(), buffers.size());
  }
  std::vector<Slot> slots;
  DmaBuffer buffers;
  DmaRegions::Listed listed;
};

namespace {

// A command's own buffer takes in-capsule data, and any transfer as short.
size_t own_buffer_bytes(const TargetOptions& options) noexcept {
  const size_t bytes = std::max<size_t>(options.in_capsule_bytes, 8192);  // hosts count on 8 KiB on the admin queue
  return (bytes + DmaBuffer::kAlignment - 1) / DmaBuffer::kAlignment * DmaBuffer::kAlignment;
}

// Which way the command's data goes. Fabrics commands say it with their type.
spec::DataDirection direction_of(const spec::Sqe& sqe) noexcept {
  return sqe.opcode == spec::AdminOp::fabrics ? spec::data_direction(static_cast<uint8_t>(sqe.nsid))
                                              : spec::data_direction(sqe.opcode);
}

}  // namespace

void TcpTargetQueue::accept(const std::shared_ptr<TargetLane>& lane, UniqueFd socket, const Address& listen_address) {
  const auto local = tcp::local_address(socket.get());
  const auto peer = tcp::peer_address(socket.get());
  if (lane->stopping || !local || !peer || !tune_accepted(socket.get())) return;
  // Owned by itself until release().
  auto* queue = new TcpTargetQueue(lane, std::move(socket), listen_address, address_of(*local), address_of(*peer));
  queue->handler_ = lane->acceptor->on_connected(*queue);
  if (queue->handler_ == nullptr) delete queue;
}

TcpTargetQueue::TcpTargetQueue(std::shared_ptr<TargetLane> lane, UniqueFd socket, Address listen, Address local,
                               Address peer)
    : lane_(std::move(lane)),
      listen_address_(std::move(listen)),
      local_address_(std::move(local)),
      peer_address_(std::move(peer)),
      reader_(*this, {.from_host = true,
                      .initialized = false,
                      .header_digest = false,
                      .data_digest = false,
                      .capsule_data_max = static_cast<uint32_t>(own_buffer_bytes(lane_->options)),
                      .data_max = lane_->options.max_io_bytes}),
      handshake_([this] { disconnect("the host did not connect a queue in time"); }) {
  lane_->queues.push_back(*this);
  lane_->counters.connections.fetch_add(1, std::memory_order_relaxed);
  add_slots(kHandshakeSlots);
  handshake_.arm(lane_->reactor, kHandshakeLimitNs);
  Stream::Handler& stream_handler = *this;
  stream_ = std::make_unique<Stream>(lane_->reactor, lane_->staging, stream_handler, std::move(socket),
                                     Stream::Options{.name = "nvmf_tcp",
                                                     .output_bytes = 2 * kHandshakeSlots * kOutputBytesPerSlot + 2048,
                                                     .output_pieces = kHandshakeSlots * kOutputPiecesPerSlot + 32});
}

TcpTargetQueue::~TcpTargetQueue() {
  lane_->counters.receive_calls.fetch_add(stream_->stats().receive_calls, std::memory_order_relaxed);
  lane_->counters.send_calls.fetch_add(stream_->stats().send_calls, std::memory_order_relaxed);
  stream_->close();
  DE_ASSERT(slots_used_ == 0);
  if (BufferPool::Waiter::linked()) BufferPool::Waiter::unlink();
  if (Deferred::linked()) Deferred::unlink();
  while (!free_.empty()) free_.pop_front();
  LaneHook::unlink();
  if (lane_->stopping && lane_->queues.empty() && lane_->on_empty) std::exchange(lane_->on_empty, nullptr)();
}

void TcpTargetQueue::add_slots(uint32_t count) {
  const size_t bytes = own_buffer_bytes(lane_->options);
  blocks_.push_back(std::make_unique<SlotBlock>(count, bytes, lane_->dma_regions));
  SlotBlock& block = *blocks_.back();
  for (size_t i = 0; i < count; ++i) {
    Slot& slot = block.slots[i];
    slot.owner = this;
    slot.queue = this;
    slot.own_buffer = block.buffers.data() + i * bytes;
    slot.tag = static_cast<uint16_t>(slots_.size());
    slots_.push_back(&slot);
    free_.push_back(slot);
  }
}

void TcpTargetQueue::set_depth(uint32_t entries, bool flow_control) {
  handshake_.cancel();
  flow_control_ = flow_control;
  if (entries > slots_.size()) add_slots(entries - static_cast<uint32_t>(slots_.size()));
  const size_t chunks = kPoolBytesPerQueueMax / lane_->options.buffer_bytes;
  // Twice: has_room() reckons with what is lost where the ring of output wraps.
  stream_->resize_output(2 * (slots_.size() + 1) * kOutputBytesPerSlot + kOutputBytesSpare,
                         slots_.size() * kOutputPiecesPerSlot + chunks + 32);
}

// Answers that a host does not read pile up here. One that keeps to its queue size never fills it.
bool TcpTargetQueue::output_fits_one_more() const noexcept {
  return stream_->has_room((slots_used_ + 1) * kOutputBytesPerSlot, (slots_used_ + 1) * kOutputPiecesPerSlot);
}

bool TcpTargetQueue::on_header(const uint8_t* pdu, const spec::TcpShape& shape,
                               PduReader::DataTarget* target) noexcept {
  switch (load_le<spec::TcpCommonHeader>(pdu).type) {
    case TcpPdu::capsule_cmd:
      return on_capsule(pdu, shape, target);
    case TcpPdu::h2c_data:
      return on_h2c_data(pdu, shape, target);
    case TcpPdu::ic_req:
      return on_init(pdu);
    case TcpPdu::h2c_term_req:
      return on_termination(pdu);
    default:
      return fatal(TcpFatal::sequence_error, 0, {pdu, shape.header_bytes});
  }
}

bool TcpTargetQueue::on_init(const uint8_t* pdu) noexcept {
  const auto request = load_le<spec::TcpIcReq>(pdu);
  const std::span<const uint8_t> bytes(pdu, sizeof request);
  if (request.version != 0) return fatal(TcpFatal::unsupported_parameter, offsetof(spec::TcpIcReq, version), bytes);
  if (request.hpda > spec::kTcpAlignmentMax)
    return fatal(TcpFatal::unsupported_parameter, offsetof(spec::TcpIcReq, hpda), bytes);
  host_alignment_ = request.hpda;
  header_digest_ = (request.digests & spec::kTcpDigestHeader) != 0;
  data_digest_ = (request.digests & spec::kTcpDigestData) != 0;
  spec::TcpIcResp response{};
  response.common = spec::make_tcp_header(TcpPdu::ic_resp, sizeof response, 0, false, false);
  response.digests =
      static_cast<uint8_t>((header_digest_ ? spec::kTcpDigestHeader : 0) | (data_digest_ ? spec::kTcpDigestData : 0));
  response.max_h2c_data = lane_->options.max_io_bytes;
  store_le(stream_->reserve(sizeof response), response);
  reader_.expect().initialized = true;
  reader_.expect().header_digest = header_digest_;
  reader_.expect().data_digest = data_digest_;
  return true;
}

bool TcpTargetQueue::on_capsule(const uint8_t* pdu, const spec::TcpShape& shape,
                                PduReader::DataTarget* target) noexcept {
  if (free_.empty() || !output_fits_one_more()) {
    disconnect("the host sent more commands than its queue holds");
    return false;
  }
  Slot& slot = static_cast<Slot&>(free_.pop_front());
  ++slots_used_;
  slot.received_ticks = ticks();
  std::memcpy(&slot.sqe, pdu + offsetof(spec::TcpCapsuleCmd, sqe), sizeof slot.sqe);
  slot.transport_status = Status::success;
  slot.data = {};
  slot.data_bytes = 0;
  slot.digest_failed = false;
  slot.received = 0;
  slot.chunks = 0;
  if (shape.data_bytes == 0) {
    start(slot, 0, true);
    return !over_;
  }
  slot.state = Slot::State::capsule;
  slot.pieces[0] = {slot.own_buffer, shape.data_bytes};
  target->iov = std::span(slot.pieces).first(1);
  receiving_ = &slot;
  receiving_bytes_ = shape.data_bytes;
  return true;
}

bool TcpTargetQueue::on_h2c_data(const uint8_t* pdu, const spec::TcpShape& shape,
                                 PduReader::DataTarget* target) noexcept {
  const auto header = load_le<spec::TcpData>(pdu);
  const std::span<const uint8_t> bytes(pdu, sizeof header);
  if (header.ttag >= slots_.size()) return fatal(TcpFatal::invalid_header_field, offsetof(spec::TcpData, ttag), bytes);
  Slot& slot = *slots_[header.ttag];
  if (slot.state != Slot::State::receiving) return fatal(TcpFatal::sequence_error, 0, bytes);
  if (header.cid != slot.sqe.cid) return fatal(TcpFatal::invalid_header_field, offsetof(spec::TcpData, cid), bytes);
  if (header.data_bytes != shape.data_bytes)
    return fatal(TcpFatal::invalid_header_field, offsetof(spec::TcpData, data_bytes), bytes);
  if (header.data_offset != slot.received || header.data_bytes > slot.data_bytes - slot.received)
    return fatal(TcpFatal::data_out_of_range, 0, bytes);
  target->iov = slot.data;
  target->offset = header.data_offset;
  receiving_ = &slot;
  receiving_bytes_ = shape.data_bytes;
  return true;
}

bool TcpTargetQueue::on_termination(const uint8_t* pdu) noexcept {
  const auto request = load_le<spec::TcpTermReq>(pdu);
  const TcpFatal status = request.status;
  LOG_WARN("fabric", "NVMe/TCP connection from {}: the host ended it: {}", peer_address_.to_string(),
           spec::name_of(status));
  disconnect("the host ended it with a termination request");
  return false;
}

bool TcpTargetQueue::on_data(bool digest_ok) noexcept {
  Slot& slot = *std::exchange(receiving_, nullptr);
  if (slot.state == Slot::State::capsule) {
    start(slot, receiving_bytes_, digest_ok);
    return !over_;
  }
  slot.received += receiving_bytes_;
  if (!digest_ok) slot.digest_failed = true;
  if (slot.received == slot.data_bytes) {
    if (slot.digest_failed) {
      lane_->counters.digest_errors.fetch_add(1, std::memory_order_relaxed);
      slot.transport_status = Status::transient_transport_error;
    }
    lend(slot);
  }
  return !over_;
}

void TcpTargetQueue::on_fatal(TcpFatal status, uint32_t info, std::span<const uint8_t> header) noexcept {
  fatal(status, info, header);
}

// Ends the connection over something the host sent; returns false, for the reader to stop.
bool TcpTargetQueue::fatal(TcpFatal status, uint32_t info, std::span<const uint8_t> pdu) noexcept {
  if (over_) return false;
  lane_->counters.protocol_errors.fetch_add(1, std::memory_order_relaxed);
  LOG_WARN("fabric", "NVMe/TCP connection from {}: closed for a bad {}: {} (byte {})", peer_address_.to_string(),
           pdu.empty() ? "PDU" : spec::name_of(static_cast<TcpPdu>(pdu[0])), spec::name_of(status), info);
  why_ = "the host broke the protocol";
  over_ = true;
  std::array<uint8_t, sizeof(spec::TcpTermReq) + spec::kTcpTermCopyMax> request;
  const size_t bytes = spec::make_tcp_term_req(request.data(), false, status, info, pdu);
  if (stream_->has_room(bytes, 1)) std::memcpy(stream_->reserve(bytes), request.data(), bytes);
  reader_.stop();
  stream_->shut_down(kTerminationLimitNs);
  return false;
}

// The whole capsule is here: finds out where the command's data is or is to go.
void TcpTargetQueue::start(Slot& slot, uint32_t capsule_bytes, bool digest_ok) noexcept {
  const spec::SglDescriptor& sgl = slot.sqe.data;
  const spec::DataDirection direction = direction_of(slot.sqe);
  if (!digest_ok) {
    lane_->counters.digest_errors.fetch_add(1, std::memory_order_relaxed);
    return refuse(slot, Status::transient_transport_error);
  }
  if (direction == spec::DataDirection::none || sgl.length == 0) return lend(slot);
  if (direction == spec::DataDirection::both) return refuse(slot, Status::invalid_opcode);
  slot.to_controller = direction == spec::DataDirection::to_controller;
  if (sgl.type == spec::SglType::in_capsule) return start_in_capsule(slot, capsule_bytes);
  if (sgl.type != spec::SglType::transport_data) return refuse(slot, Status::invalid_sgl_type);
  if (capsule_bytes > 0) return refuse(slot, Status::invalid_sgl_type);
  if (sgl.length > lane_->options.max_io_bytes) return refuse(slot, Status::invalid_field);
  start_transfer(slot);
}

void TcpTargetQueue::start_in_capsule(Slot& slot, uint32_t capsule_bytes) noexcept {
  const spec::SglDescriptor& sgl = slot.sqe.data;
  if (!slot.to_controller) return refuse(slot, Status::invalid_sgl_type);
  if (sgl.address > capsule_bytes) return refuse(slot, Status::invalid_sgl_offset);
  if (sgl.length > capsule_bytes - sgl.address) return refuse(slot, Status::invalid_sgl_data_length);
  slot.pieces[0] = {slot.own_buffer + sgl.address, sgl.length};
  slot.data = std::span(slot.pieces).first(1);
  slot.data_bytes = sgl.length;
  lend(slot);
}

void TcpTargetQueue::start_transfer(Slot& slot) noexcept {
  slot.data_bytes = slot.sqe.data.length;
  if (waiting_.empty() && take_buffers(slot)) return buffers_taken(slot);
  lane_->counters.waited_for_buffers.fetch_add(1, std::memory_order_relaxed);
  slot.state = Slot::State::waiting;
  waiting_.push_back(slot);
  lane_->pool.wait(*this);
}

bool TcpTargetQueue::take_buffers(Slot& slot) noexcept {
  BufferPool& pool = lane_->pool;
  size_t count = 1;
  if (slot.data_bytes <= own_buffer_bytes(lane_->options)) {
    slot.pieces[0] = {slot.own_buffer, slot.data_bytes};
  } else {
    count = pool.chunks_for(slot.data_bytes);
    if (pool_bytes_ + count * pool.chunk_bytes() > kPoolBytesPerQueueMax) return false;
    if (!pool.take(slot.data_bytes, slot.pieces.data())) return false;
    slot.chunks = count;
    pool_bytes_ += count * pool.chunk_bytes();
  }
  slot.data = std::span(slot.pieces).first(count);
  return true;
}

void TcpTargetQueue::buffers_taken(Slot& slot) noexcept {
  if (slot.to_controller) {
    slot.state = Slot::State::receiving;
    send_r2t(slot);
  } else {
    lend(slot);
  }
}

void TcpTargetQueue::give_back(Slot& slot) noexcept {
  if (slot.chunks == 0) return;
  const size_t count = std::exchange(slot.chunks, 0);
  pool_bytes_ -= count * lane_->pool.chunk_bytes();
  lane_->pool.give_back(slot.pieces.data(), count);
}

void TcpTargetQueue::on_chunks_free() noexcept { start_waiting(); }

void TcpTargetQueue::start_waiting() noexcept {
  while (!waiting_.empty() && !over_) {
    Slot& slot = static_cast<Slot&>(waiting_.front());
    if (!take_buffers(slot)) {
      lane_->pool.wait(*this);
      return;
    }
    waiting_.pop_front();
    buffers_taken(slot);
  }
}

void TcpTargetQueue::refuse(Slot& slot, Status status) noexcept {
  slot.transport_status = status;
  lend(slot);
}

void TcpTargetQueue::lend(Slot& slot) noexcept {
  slot.state = Slot::State::lent;
  // A digest must be that of the bytes that are sent, so these must not change after it.
  slot.may_lend = !data_digest_;
  handler_->on_command(slot);
}

void TcpTargetQueue::complete(TargetCommand& command) noexcept {
  Slot& slot = static_cast<Slot&>(command);
  DE_ASSERT(slot.state == Slot::State::lent);
  if (over_) return free_slot(slot);
  const spec::Cqe& cqe = slot.cqe;
  const bool ok = spec::status_of(cqe.status) == Status::success;
  if (!ok || slot.to_controller || slot.data_bytes == 0) {
    send_response(cqe);
    return free_slot(slot);
  }
  slot.state = Slot::State::sending;
  const bool success = !flow_control_ && cqe.result() == 0;
  send_data(slot, success);
  if (!success) send_response(cqe);
}

void TcpTargetQueue::send_r2t(Slot& slot) noexcept {
  spec::TcpR2t r2t{};
  r2t.common = spec::make_tcp_header(TcpPdu::r2t, sizeof r2t, 0, header_digest_, false);
  r2t.cid = slot.sqe.cid;
  r2t.ttag = slot.tag;
  r2t.data_bytes = slot.data_bytes;
  uint8_t* out = stream_->reserve(r2t.common.total_bytes);
  store_le(out, r2t);
  if (header_digest_) spec::put_tcp_header_digest(out);
}

void TcpTargetQueue::send_data(Slot& slot, bool success) noexcept {
  spec::TcpData header{};
  header.common = spec::make_tcp_header(
      TcpPdu::c2h_data, sizeof header, slot.data_bytes, header_digest_, data_digest_, host_alignment_,
      static_cast<uint8_t>(spec::kTcpFlagLast | (success ? spec::kTcpFlagSuccess : 0)));
  header.cid = slot.sqe.cid;
  header.data_bytes = slot.data_bytes;
  uint8_t* out = stream_->reserve(header.common.data_offset);
  std::memset(out + sizeof header, 0, header.common.data_offset - sizeof header);
  store_le(out, header);
  if (header_digest_) spec::put_tcp_header_digest(out);
  uint32_t digest = kCrc32cSeed;
  if (data_digest_)
    for (const iovec& piece : slot.data) digest = crc32c_update(digest, piece.iov_base, piece.iov_len);
  stream_->append_payload(slot.data, &slot);
  if (data_digest_) store_le<uint32_t>(stream_->reserve(spec::kTcpDigestBytes), crc32c_finish(digest));
}

void TcpTargetQueue::send_response(const spec::Cqe& cqe) noexcept {
  spec::TcpCapsuleResp response{};
  response.common = spec::make_tcp_header(TcpPdu::capsule_resp, sizeof response, 0, header_digest_, false);
  std::memcpy(response.cqe, &cqe, sizeof cqe);
  uint8_t* out = stream_->reserve(response.common.total_bytes);
  store_le(out, response);
  if (header_digest_) spec::put_tcp_header_digest(out);
}

void TcpTargetQueue::free_slot(Slot& slot) noexcept {
  slot.state = Slot::State::free;
  slot.loan.reset();
  DE_ASSERT(slots_used_ > 0);
  --slots_used_;
  free_.push_front(slot);  // the one whose memory is warm is used next
  if (slot.chunks == 0) return;
  give_back(slot);
  if (!over_) start_waiting();
}

void TcpTargetQueue::disconnect(const char* why) noexcept {
  if (told_ || Deferred::linked()) return;
  if (why_ == nullptr) why_ = why;
  over_ = true;
  reader_.stop();
  stream_->close();
  reactor().defer(*this);
}

void TcpTargetQueue::on_closed(int positive_errno) noexcept {
  if (why_ == nullptr) why_ = positive_errno == 0 ? "the host closed it" : std::strerror(positive_errno);
  over_ = true;
  reader_.stop();
  if (!told_ && !Deferred::linked()) reactor().defer(*this);
}

// The connection is over: takes back what the handler has not seen, and tells it.
void TcpTargetQueue::run() noexcept {
  if (released_) {
    delete this;
    return;
  }
  if (told_) return;
  told_ = true;
  handshake_.cancel();
  LOG_DEBUG("fabric", "NVMe/TCP connection from {} is over: {}", peer_address_.to_string(), why_);
  receiving_ = nullptr;
  while (!waiting_.empty()) {
    Slot& slot = static_cast<Slot&>(waiting_.pop_front());
    free_slot(slot);
  }
  for (Slot* slot : slots_)
    if (slot->state == Slot::State::receiving || slot->state == Slot::State::capsule) free_slot(*slot);
  handler_->on_disconnected();
}

void TcpTargetQueue::release() noexcept {
  DE_ASSERT(told_ && !released_);
  released_ = true;
  reactor().defer(*this);
}

}  // namespace diskengine::fabric::tcp
