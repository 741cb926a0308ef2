#include "fabric/tcp/host.h"

#include <fmt/format.h>

#include <cstring>

#include "base/crc32c.h"
#include "base/endian.h"
#include "base/log.h"

namespace diskengine::fabric::tcp {
namespace {

using spec::DataDirection;
using spec::TcpFatal;
using spec::TcpPdu;

constexpr size_t kOutputPieces = 2 * kCommandPiecesMax;
constexpr size_t kCapsuleBytesMax = spec::kTcpDataOffsetMax + spec::kTcpDigestBytes;

size_t output_bytes(uint32_t depth) { return std::max<size_t>(16 * 1024, size_t{depth} * 2 * kCapsuleBytesMax); }

// The part of `iov` that starts `offset` bytes in, piece by piece, for `bytes` bytes.
template <typename Visit>
void for_each_piece(std::span<const iovec> iov, size_t offset, size_t bytes, Visit&& visit) {
  for (const iovec& piece : iov) {
    if (bytes == 0) return;
    if (offset >= piece.iov_len) {
      offset -= piece.iov_len;
      continue;
    }
    const size_t length = std::min(bytes, piece.iov_len - offset);
    visit(static_cast<uint8_t*>(piece.iov_base) + offset, length);
    bytes -= length;
    offset = 0;
  }
  DE_ASSERT(bytes == 0);
}

}  // namespace

std::shared_ptr<Staging> HostTransport::staging_of(Reactor& reactor) {
  std::lock_guard lock(mutex_);
  std::weak_ptr<Staging>& known = stagings_[&reactor];
  std::shared_ptr<Staging> staging = known.lock();
  if (!staging) known = staging = std::make_shared<Staging>();
  return staging;
}

Result<std::unique_ptr<HostQueue>> HostTransport::connect(Reactor& reactor, const HostAddress& address,
                                                          const HostQueueOptions& options, HostQueueEvents& events) {
  TRY_ASSIGN(const SocketAddress to, SocketAddress::parse(address.address, address.service));
  SocketAddress from;
  if (!address.host_address.empty()) {
    const std::string service = address.host_service.empty() ? "0" : address.host_service;
    TRY_ASSIGN(from, SocketAddress::parse(address.host_address, service));
  }
  TRY_ASSIGN(UniqueFd socket, begin_connect(to, address.host_address.empty() ? nullptr : &from));
  return std::unique_ptr<HostQueue>(
      std::make_unique<TcpHostQueue>(reactor, staging_of(reactor), std::move(socket), to.to_string(), options, events));
}

TcpHostQueue::TcpHostQueue(Reactor& reactor, std::shared_ptr<Staging> staging, UniqueFd socket, std::string peer,
                           const HostQueueOptions& options, HostQueueEvents& events)
    : reactor_(reactor),
      staging_(std::move(staging)),
      events_(events),
      options_(options),
      peer_(std::move(peer)),
      reason_(Errc::internal, "open"),
      slots_(options.depth),
      setup_timer_([this] {
        end(Error(Errc::timed_out, fmt::format("{} did not complete the NVMe/TCP connection within {} s", peer_,
                                               kSetupLimitNs / 1'000'000'000)));
      }),
      reader_(*this, {.from_host = false,
                      .initialized = false,
                      .header_digest = false,
                      .data_digest = false,
                      .capsule_data_max = 0,
                      .data_max = options.transfer_bytes_max}),
      stream_(reactor, *staging_, *this, std::move(socket),
              {.name = options.name,
               .connecting = true,
               .output_bytes = output_bytes(options.depth),
               .output_pieces = kOutputPieces}) {
  setup_timer_.arm(reactor_, kSetupLimitNs);
}

TcpHostQueue::~TcpHostQueue() {
  DE_ASSERT(outstanding() == 0);
  if (linked()) unlink();
}

HostQueueStats TcpHostQueue::stats() const noexcept {
  HostQueueStats stats = stats_;
  stats.polls = stream_.stats().receive_calls;
  stats.idle_polls = stats.polls - std::min(stats.polls, stats.socket_completions);
  stats.system_calls = stream_.stats().receive_calls + stream_.stats().send_calls;
  return stats;
}

// --- Setting up -----------------------------------------------------------------------------------------------------

void TcpHostQueue::on_connected() noexcept {
  state_ = State::initializing;
  spec::TcpIcReq request{};
  request.common.type = TcpPdu::ic_req;
  request.common.header_bytes = sizeof request;
  request.common.total_bytes = sizeof request;
  request.max_r2t = kR2tMax - 1;
  if (options_.header_digest) request.digests |= spec::kTcpDigestHeader;
  if (options_.data_digest) request.digests |= spec::kTcpDigestData;
  std::memcpy(stream_.reserve(sizeof request), &request, sizeof request);
}

bool TcpHostQueue::on_ic_resp(const spec::TcpIcResp& response) noexcept {
  const auto header = std::span(reinterpret_cast<const uint8_t*>(&response), sizeof response);
  const auto refuse = [&](size_t field, std::string what) {
    return protocol_error(TcpFatal::unsupported_parameter, static_cast<uint32_t>(field), header, std::move(what));
  };
  if (response.version != 0)
    return refuse(offsetof(spec::TcpIcResp, version), fmt::format("ICResp version {}", uint16_t{response.version}));
  if (response.cpda > spec::kTcpAlignmentMax)
    return refuse(offsetof(spec::TcpIcResp, cpda), fmt::format("ICResp CPDA {}", response.cpda));
  const uint8_t wanted = static_cast<uint8_t>((options_.header_digest ? spec::kTcpDigestHeader : 0) |
                                              (options_.data_digest ? spec::kTcpDigestData : 0));
  if ((response.digests & ~wanted) != 0)
    return refuse(offsetof(spec::TcpIcResp, digests), "ICResp switches digests on that were not asked for");
  if (response.max_h2c_data < spec::kTcpMaxH2cDataMin || response.max_h2c_data % 4 != 0)
    return refuse(offsetof(spec::TcpIcResp, max_h2c_data),
                  fmt::format("ICResp MAXH2CDATA {}", uint32_t{response.max_h2c_data}));
  cpda_ = response.cpda;
  max_h2c_data_ = response.max_h2c_data;
  header_digest_ = reader_.expect().header_digest = (response.digests & spec::kTcpDigestHeader) != 0;
  data_digest_ = reader_.expect().data_digest = (response.digests & spec::kTcpDigestData) != 0;
  reader_.expect().initialized = true;
  setup_timer_.cancel();
  state_ = State::ready;
  events_.on_connected();
  return state_ == State::ready;
}

// --- Sending --------------------------------------------------------------------------------------------------------

void TcpHostQueue::submit(HostCommand& command) noexcept {
  DE_ASSERT(command.done != nullptr && state_ != State::closed);
  DE_ASSERT((command.data_bytes == 0) == (command.direction == DataDirection::none));
  DE_ASSERT(command.data_bytes <= options_.transfer_bytes_max && command.iov.size() <= kCommandPiecesMax);
  Slot& slot = slots_.take(command);
  ++stats_.submitted_requests;
  slot.capsule_sent = slot.digest_failed = false;
  slot.grants = 0;
  slot.received = slot.granted = 0;
  DE_ASSERT(slot.unsent == 0);
  command.sqe.flags = spec::kSqeSgl;
  command.sqe.data = {};
  command.sqe.data.length = command.data_bytes;
  const bool in_capsule =
      command.direction == DataDirection::to_controller && command.data_bytes <= options_.capsule_data_bytes;
  command.sqe.data.type = in_capsule ? spec::SglType::in_capsule : spec::SglType::transport_data;
  if (state_ != State::ready) return;  // completes as lost with the others
  if (!waiting_.empty() || !send_slot(slot)) wait_for_room(slot);
}

bool TcpHostQueue::send_slot(Slot& slot) noexcept {
  if (!slot.capsule_sent) {
    if (!send_capsule(slot)) return false;
    slot.capsule_sent = true;
  }
  while (slot.grants > 0) {
    if (!send_grant(slot, slot.grant[0])) return false;
    if (slot.grant[0].bytes > 0) continue;
    --slot.grants;
    std::copy_n(slot.grant.begin() + 1, slot.grants, slot.grant.begin());
  }
  return true;
}

bool TcpHostQueue::has_room(size_t pdu_bytes, const HostCommand& command, uint32_t data_bytes) noexcept {
  const size_t trailer = data_digest_ ? spec::kTcpDigestBytes : 0;
  const size_t pieces = data_bytes > 0 ? command.iov.size() + 2 : 1;
  return stream_.has_room(pdu_bytes + trailer, pieces);
}

bool TcpHostQueue::send_capsule(Slot& slot) noexcept {
  const HostCommand& command = *slot.command;
  const uint32_t bytes = command.sqe.data.type == spec::SglType::in_capsule ? command.data_bytes : 0;
  spec::TcpCapsuleCmd pdu;
  pdu.common =
      make_tcp_header(TcpPdu::capsule_cmd, sizeof pdu, bytes, header_digest_, data_digest_ && bytes > 0, cpda_);
  const size_t length = bytes > 0 ? pdu.common.data_offset : pdu.common.total_bytes;
  if (!has_room(length, command, bytes)) return false;
  std::memcpy(pdu.sqe, &command.sqe, sizeof pdu.sqe);
  uint8_t* out = stream_.reserve(length);
  std::memcpy(out, &pdu, sizeof pdu);
  if (length > sizeof pdu) {
    std::memset(out + sizeof pdu, 0, length - sizeof pdu);
    if (header_digest_) spec::put_tcp_header_digest(out);
  }
  if (bytes > 0) append_data(slot, 0, bytes);
  return true;
}

// Sends one H2CData of what an R2T asked for, and takes it off the grant.
bool TcpHostQueue::send_grant(Slot& slot, Grant& grant) noexcept {
  const uint32_t bytes = std::min(grant.bytes, max_h2c_data_);
  spec::TcpData pdu{};
  pdu.common = make_tcp_header(TcpPdu::h2c_data, sizeof pdu, bytes, header_digest_, data_digest_, cpda_,
                               bytes == grant.bytes ? spec::kTcpFlagLast : 0);
  const size_t length = pdu.common.data_offset;
  if (!has_room(length, *slot.command, bytes)) return false;
  pdu.cid = slot.command->sqe.cid;
  pdu.ttag = grant.ttag;
  pdu.data_offset = grant.offset;
  pdu.data_bytes = bytes;
  uint8_t* out = stream_.reserve(length);
  std::memcpy(out, &pdu, sizeof pdu);
  if (length > sizeof pdu) {
    std::memset(out + sizeof pdu, 0, length - sizeof pdu);
    if (header_digest_) spec::put_tcp_header_digest(out);
  }
  append_data(slot, grant.offset, bytes);
  grant.offset += bytes;
  grant.bytes -= bytes;
  return true;
}

// Payload by reference, and its digest.
void TcpHostQueue::append_data(Slot& slot, uint32_t offset, uint32_t bytes) noexcept {
  std::array<iovec, 64> batch;
  size_t count = 0;
  uint32_t digest = kCrc32cSeed;
  uint32_t left = bytes;
  for_each_piece(slot.command->iov, slot.command->iov_offset + offset, bytes, [&](uint8_t* base, size_t length) {
    if (data_digest_) digest = crc32c_update(digest, base, length);
    left -= static_cast<uint32_t>(length);
    batch[count++] = {base, length};
    if (count < batch.size() && left > 0) return;
    stream_.append_payload({batch.data(), count}, left == 0 ? &slot : nullptr);
    count = 0;
  });
  ++slot.unsent;
  if (data_digest_) store_le<uint32_t>(stream_.reserve(spec::kTcpDigestBytes), crc32c_finish(digest));
}

void TcpHostQueue::wait_for_room(Slot& slot) noexcept {
  if (slot.linked()) return;
  waiting_.push_back(slot);
  ++stats_.queued_requests;
  stream_.want_room();
}

void TcpHostQueue::on_output_room() noexcept {
  while (!waiting_.empty() && state_ == State::ready) {
    Slot& slot = waiting_.front();
    if (!send_slot(slot)) {
      stream_.want_room();
      return;
    }
    slot.unlink();
  }
}

// --- Receiving ------------------------------------------------------------------------------------------------------

size_t TcpHostQueue::on_bytes(std::span<uint8_t> bytes) noexcept {
  ++stats_.socket_completions;
  return reader_.on_bytes(bytes);
}

bool TcpHostQueue::on_header(const uint8_t* pdu, const spec::TcpShape& shape, PduReader::DataTarget* target) noexcept {
  const TcpPdu type = load_le<spec::TcpCommonHeader>(pdu).type;
  switch (type) {
    case TcpPdu::capsule_resp:
      return on_response(load_le<spec::TcpCapsuleResp>(pdu));
    case TcpPdu::c2h_data:
      return on_c2h_data(pdu, shape, target);
    case TcpPdu::r2t:
      return on_r2t(pdu, shape);
    case TcpPdu::ic_resp:
      return on_ic_resp(load_le<spec::TcpIcResp>(pdu));
    case TcpPdu::c2h_term_req: {
      const auto request = load_le<spec::TcpTermReq>(pdu);
      end(Error(Errc::protocol, fmt::format("{} ended the connection: {} ({:#x})", peer_, name_of(request.status),
                                            uint32_t{request.info})));
      return false;
    }
    default:
      return protocol_error(TcpFatal::invalid_header_field, 0, {pdu, shape.header_bytes},
                            fmt::format("unexpected {}", name_of(type)));
  }
}

bool TcpHostQueue::on_response(const spec::TcpCapsuleResp& response) noexcept {
  const auto header = std::span(reinterpret_cast<const uint8_t*>(&response), sizeof response);
  const auto cqe = load_le<spec::Cqe>(response.cqe);
  const auto wrong = [&](const char* what) {
    return protocol_error(TcpFatal::sequence_error, 0, header,
                          fmt::format("response to command {:#06x}: {}", cqe.cid, what));
  };
  Slot* slot = slots_.find(cqe.cid);
  if (slot == nullptr) return wrong("no such command is in flight");
  if (!slot->capsule_sent || slot->unsent > 0 || slot->grants > 0) return wrong("its data is still being sent");
  const HostCommand& command = *slot->command;
  if (spec::status_of(cqe.status) == spec::Status::success) {
    if (command.direction == DataDirection::from_controller && slot->received != command.data_bytes)
      return wrong("success without all of its data");
    if (command.sqe.data.type == spec::SglType::transport_data && command.direction == DataDirection::to_controller &&
        slot->granted != command.data_bytes)
      return wrong("success without having asked for its data");
  }
  slot->command->cqe = cqe;
  complete(*slot, HostOutcome::answered);
  return state_ == State::ready;
}

bool TcpHostQueue::on_c2h_data(const uint8_t* pdu, const spec::TcpShape& shape,
                               PduReader::DataTarget* target) noexcept {
  const auto data = load_le<spec::TcpData>(pdu);
  const std::span header(pdu, shape.header_bytes);
  Slot* slot = slots_.find(data.cid);
  if (slot == nullptr || slot->command->direction != DataDirection::from_controller || !slot->capsule_sent)
    return protocol_error(TcpFatal::invalid_header_field, offsetof(spec::TcpData, cid), header,
                          fmt::format("data for command {:#06x}, which expects none", uint16_t{data.cid}));
  const HostCommand& command = *slot->command;
  const bool last = (data.common.flags & spec::kTcpFlagLast) != 0;
  const bool success = (data.common.flags & spec::kTcpFlagSuccess) != 0;
  if (data.data_bytes != shape.data_bytes || data.data_offset != slot->received ||
      data.data_bytes > command.data_bytes - slot->received ||
      (last && slot->received + data.data_bytes != command.data_bytes) || (success && !last))
    return protocol_error(
        TcpFatal::data_out_of_range, offsetof(spec::TcpData, data_offset), header,
        fmt::format("data of command {:#06x} out of place: {} bytes at {} of {}, {} received", uint16_t{data.cid},
                    uint32_t{data.data_bytes}, uint32_t{data.data_offset}, command.data_bytes, slot->received));
  receiving_ = slot;
  complete_after_ = success;
  target->iov = command.iov;
  target->offset = command.iov_offset + slot->received;
  slot->received += data.data_bytes;
  return true;
}

bool TcpHostQueue::on_data(bool digest_ok) noexcept {
  Slot& slot = *receiving_;
  receiving_ = nullptr;
  if (!digest_ok) slot.digest_failed = true;
  if (!complete_after_) return true;
  slot.command->cqe = {};
  slot.command->cqe.cid = slot.command->sqe.cid;
  complete(slot, HostOutcome::answered);
  return state_ == State::ready;
}

bool TcpHostQueue::on_r2t(const uint8_t* pdu, const spec::TcpShape& shape) noexcept {
  const auto r2t = load_le<spec::TcpR2t>(pdu);
  const std::span header(pdu, shape.header_bytes);
  Slot* slot = slots_.find(r2t.cid);
  if (slot == nullptr || slot->command->direction != DataDirection::to_controller || !slot->capsule_sent ||
      slot->command->sqe.data.type != spec::SglType::transport_data)
    return protocol_error(TcpFatal::invalid_header_field, offsetof(spec::TcpR2t, cid), header,
                          fmt::format("R2T for command {:#06x}, which has no data to send", uint16_t{r2t.cid}));
  if (slot->grants == kR2tMax)
    return protocol_error(TcpFatal::transfer_limit_exceeded, 0, header,
                          fmt::format("more than {} R2Ts outstanding for command {:#06x}", kR2tMax, uint16_t{r2t.cid}));
  if (r2t.data_bytes == 0 || r2t.data_offset != slot->granted ||
      r2t.data_bytes > slot->command->data_bytes - slot->granted)
    return protocol_error(
        TcpFatal::data_out_of_range, offsetof(spec::TcpR2t, data_offset), header,
        fmt::format("R2T of command {:#06x} out of place: {} bytes at {} of {}, {} asked for before", uint16_t{r2t.cid},
                    uint32_t{r2t.data_bytes}, uint32_t{r2t.data_offset}, slot->command->data_bytes, slot->granted));
  slot->granted += r2t.data_bytes;
  slot->grant[slot->grants++] = {r2t.ttag, r2t.data_offset, r2t.data_bytes};
  if (slot->linked()) return true;  // its turn comes
  if (!waiting_.empty() || !send_slot(*slot)) wait_for_room(*slot);
  return true;
}

void TcpHostQueue::complete(Slot& slot, HostOutcome outcome) noexcept {
  HostCommand& command = *slot.command;
  command.outcome = outcome;
  if (outcome == HostOutcome::answered) {
    ++stats_.nvme_completions;
    // Wrong data must not pass as right; the specification's status for it asks for a retry.
    if (slot.digest_failed && spec::status_of(command.cqe.status) == spec::Status::success)
      command.cqe.status = spec::status_field(spec::Status::transient_transport_error);
  }
  slots_.give_back(slot);
  command.done(command);
}

// --- Ending ---------------------------------------------------------------------------------------------------------

void TcpHostQueue::on_fatal(TcpFatal status, uint32_t info, std::span<const uint8_t> header) noexcept {
  protocol_error(status, info, header, name_of(status));
}

// Tells the controller why where that is possible at once, then ends. Always false.
bool TcpHostQueue::protocol_error(TcpFatal status, uint32_t info, std::span<const uint8_t> header,
                                  std::string what) noexcept {
  if (state_ == State::ending || state_ == State::closed) return false;
  Error reason(Errc::protocol, fmt::format("{} broke the NVMe/TCP protocol: {}", peer_, what));
  // Nothing of a command may leave after this, so the request is sent only where nothing waits before it.
  const size_t bytes = sizeof(spec::TcpTermReq) + spec::kTcpTermCopyMax;
  if (!stream_.output_empty() || !stream_.has_room(bytes, 1)) {
    end(std::move(reason));
    return false;
  }
  std::array<uint8_t, sizeof(spec::TcpTermReq) + spec::kTcpTermCopyMax> request;
  const size_t length = make_tcp_term_req(request.data(), true, status, info, header);
  std::memcpy(stream_.reserve(length), request.data(), length);
  reason_ = std::move(reason);
  state_ = State::ending;
  reader_.stop();
  setup_timer_.cancel();
  stream_.shut_down(kTermLimitNs);  // on_closed follows
  return false;
}

void TcpHostQueue::on_closed(int positive_errno) noexcept {
  if (state_ == State::ending) {
    end(reason_);
  } else if (positive_errno == 0) {
    end(Error(Errc::unreachable, fmt::format("{} closed the connection", peer_)));
  } else {
    const char* what = state_ == State::connecting ? "cannot connect to " : "lost the connection to ";
    end(Error::from_errno(positive_errno, what + peer_));
  }
}

void TcpHostQueue::disconnect() noexcept {
  end(Error(Errc::canceled, fmt::format("the queue to {} was disconnected", peer_)));
}

void TcpHostQueue::end(Error reason) noexcept {
  if (state_ == State::closed || linked()) return;
  state_ = State::ending;
  reason_ = std::move(reason);
  setup_timer_.cancel();
  reader_.stop();
  stream_.close();
  reactor_.defer(*this);
}

void TcpHostQueue::run() noexcept {
  state_ = State::closed;
  slots_.for_each_in_flight([this](Slot& slot) { complete(slot, HostOutcome::lost); });
  events_.on_disconnected(reason_);
}

}  // namespace diskengine::fabric::tcp
