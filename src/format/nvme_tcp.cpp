#include "format/nvme_tcp.h"

#include <algorithm>
#include <cstring>

#include "base/crc32c.h"
#include "base/endian.h"

namespace diskengine::spec {
namespace {

struct Kind {
  uint8_t header_bytes;  // 0: no such type
  bool from_host;
  bool setup;    // exchanged once, before everything else
  bool digests;  // covered by the negotiated digests
};

constexpr Kind kKinds[] = {
    {sizeof(TcpIcReq), true, true, false},         // 0x00
    {sizeof(TcpIcResp), false, true, false},       // 0x01
    {sizeof(TcpTermReq), true, false, false},      // 0x02
    {sizeof(TcpTermReq), false, false, false},     // 0x03
    {sizeof(TcpCapsuleCmd), true, false, true},    // 0x04
    {sizeof(TcpCapsuleResp), false, false, true},  // 0x05
    {sizeof(TcpData), true, false, true},          // 0x06
    {sizeof(TcpData), false, false, true},         // 0x07
    {0, false, false, false},                      // 0x08
    {sizeof(TcpR2t), false, false, true},          // 0x09
};

TcpShape refuse(TcpFatal fatal, uint32_t info) noexcept {
  TcpShape shape;
  shape.fatal = fatal;
  shape.info = info;
  return shape;
}
TcpShape bad_field(size_t offset) noexcept {
  return refuse(TcpFatal::invalid_header_field, static_cast<uint32_t>(offset));
}

uint32_t data_limit(TcpPdu type, const TcpExpectation& expect) noexcept {
  switch (type) {
    case TcpPdu::capsule_cmd:
      return expect.capsule_data_max;
    case TcpPdu::h2c_data:
    case TcpPdu::c2h_data:
      return expect.data_max;
    case TcpPdu::h2c_term_req:
    case TcpPdu::c2h_term_req:
      return kTcpTermCopyMax;
    default:
      return 0;
  }
}

bool is_term(TcpPdu type) noexcept { return type == TcpPdu::h2c_term_req || type == TcpPdu::c2h_term_req; }

}  // namespace

TcpShape check_tcp_header(const TcpCommonHeader& header, const TcpExpectation& expect) noexcept {
  const auto type = static_cast<size_t>(header.type);
  if (type >= std::size(kKinds) || kKinds[type].header_bytes == 0) return bad_field(offsetof(TcpCommonHeader, type));
  const Kind& kind = kKinds[type];
  if (kind.from_host != expect.from_host) return bad_field(offsetof(TcpCommonHeader, type));
  // A termination request may come at any time; everything else in its phase.
  if (kind.setup == expect.initialized && !is_term(header.type)) return refuse(TcpFatal::sequence_error, 0);
  if (header.header_bytes != kind.header_bytes) return bad_field(offsetof(TcpCommonHeader, header_bytes));

  TcpShape shape;
  shape.header_bytes = kind.header_bytes;
  shape.header_digest = kind.digests && expect.header_digest;
  if (((header.flags & kTcpFlagHeaderDigest) != 0) != shape.header_digest)
    return bad_field(offsetof(TcpCommonHeader, flags));
  const uint32_t header_end = shape.header_bytes + (shape.header_digest ? kTcpDigestBytes : 0);
  if (header.total_bytes < header_end) return bad_field(offsetof(TcpCommonHeader, total_bytes));
  if (header.total_bytes == header_end) {
    // Data PDUs without data make no sense, and could be sent without end.
    if (header.type == TcpPdu::h2c_data || header.type == TcpPdu::c2h_data)
      return bad_field(offsetof(TcpCommonHeader, total_bytes));
    shape.data_offset = header_end;
    return shape;
  }

  const uint32_t limit = data_limit(header.type, expect);
  if (limit == 0) {
    return header.type == TcpPdu::capsule_cmd ? refuse(TcpFatal::transfer_limit_exceeded, 0)
                                              : bad_field(offsetof(TcpCommonHeader, total_bytes));
  }
  shape.data_digest = kind.digests && expect.data_digest;
  if (((header.flags & kTcpFlagDataDigest) != 0) != shape.data_digest)
    return bad_field(offsetof(TcpCommonHeader, flags));
  shape.data_offset = is_term(header.type) ? header_end : header.data_offset;
  if (shape.data_offset < header_end || shape.data_offset % 4 != 0)
    return bad_field(offsetof(TcpCommonHeader, data_offset));
  const uint32_t trailer = shape.data_digest ? kTcpDigestBytes : 0;
  if (header.total_bytes <= shape.data_offset + trailer) return bad_field(offsetof(TcpCommonHeader, total_bytes));
  shape.data_bytes = header.total_bytes - shape.data_offset - trailer;
  if (shape.data_bytes > limit) return refuse(TcpFatal::transfer_limit_exceeded, 0);
  return shape;
}

TcpCommonHeader make_tcp_header(TcpPdu type, size_t header_bytes, uint32_t data_bytes, bool header_digest,
                                bool data_digest, uint8_t alignment, uint8_t flags) noexcept {
  TcpCommonHeader header{};
  header.type = type;
  header.header_bytes = static_cast<uint8_t>(header_bytes);
  header.flags = flags;
  if (header_digest) header.flags |= kTcpFlagHeaderDigest;
  header.total_bytes = static_cast<uint32_t>(header_bytes + (header_digest ? kTcpDigestBytes : 0));
  if (data_bytes > 0) {
    header.data_offset = tcp_data_offset(header_bytes, header_digest, alignment);
    header.total_bytes = header.data_offset + data_bytes;
    if (data_digest) {
      header.flags |= kTcpFlagDataDigest;
      header.total_bytes += kTcpDigestBytes;
    }
  }
  return header;
}

void put_tcp_header_digest(uint8_t* pdu) noexcept {
  const size_t header_bytes = pdu[offsetof(TcpCommonHeader, header_bytes)];
  store_le<uint32_t>(pdu + header_bytes, crc32c(pdu, header_bytes));
}

bool tcp_header_digest_ok(const uint8_t* pdu) noexcept {
  const size_t header_bytes = pdu[offsetof(TcpCommonHeader, header_bytes)];
  return load_le<uint32_t>(pdu + header_bytes) == crc32c(pdu, header_bytes);
}

size_t make_tcp_term_req(uint8_t* out, bool from_host, TcpFatal status, uint32_t info,
                         std::span<const uint8_t> offending) noexcept {
  const size_t copied = std::min(offending.size(), kTcpTermCopyMax);
  TcpTermReq request{};
  request.common.type = from_host ? TcpPdu::h2c_term_req : TcpPdu::c2h_term_req;
  request.common.header_bytes = sizeof request;
  request.common.total_bytes = static_cast<uint32_t>(sizeof request + copied);
  request.status = status;
  request.info = info;
  std::memcpy(out, &request, sizeof request);
  if (copied > 0) std::memcpy(out + sizeof request, offending.data(), copied);
  return sizeof request + copied;
}

const char* name_of(TcpPdu type) noexcept {
  switch (type) {
    case TcpPdu::ic_req:
      return "ICReq";
    case TcpPdu::ic_resp:
      return "ICResp";
    case TcpPdu::h2c_term_req:
      return "H2CTermReq";
    case TcpPdu::c2h_term_req:
      return "C2HTermReq";
    case TcpPdu::capsule_cmd:
      return "CapsuleCmd";
    case TcpPdu::capsule_resp:
      return "CapsuleResp";
    case TcpPdu::h2c_data:
      return "H2CData";
    case TcpPdu::c2h_data:
      return "C2HData";
    case TcpPdu::r2t:
      return "R2T";
  }
  return "unknown PDU";
}

const char* name_of(TcpFatal status) noexcept {
  switch (status) {
    case TcpFatal::none:
      return "no error";
    case TcpFatal::invalid_header_field:
      return "invalid PDU header field";
    case TcpFatal::sequence_error:
      return "PDU sequence error";
    case TcpFatal::header_digest_error:
      return "header digest error";
    case TcpFatal::data_out_of_range:
      return "data transfer out of range";
    case TcpFatal::transfer_limit_exceeded:
      return "transfer limit exceeded";
    case TcpFatal::unsupported_parameter:
      return "unsupported parameter";
  }
  return "unknown fatal status";
}

}  // namespace diskengine::spec
