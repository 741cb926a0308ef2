// NVMe/TCP protocol data units: layouts, flags and the checks that a receiver makes before it believes a header.
// NVM Express TCP Transport Specification 1.0c, section 3; described in docs/formats/nvme-tcp.md. Pure functions, any
// thread.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

namespace diskengine::spec {

enum class TcpPdu : uint8_t {
  ic_req = 0x00,        // host: opens the connection
  ic_resp = 0x01,       // controller: answers it
  h2c_term_req = 0x02,  // host: fatal error, connection ends
  c2h_term_req = 0x03,  // controller: the same
  capsule_cmd = 0x04,   // host: submission queue entry, and in-capsule data
  capsule_resp = 0x05,  // controller: completion queue entry
  h2c_data = 0x06,      // host: data that an R2T asked for
  c2h_data = 0x07,      // controller: data of a read
  r2t = 0x09,           // controller: ready to take data
};

inline constexpr uint8_t kTcpFlagHeaderDigest = 0x01;
inline constexpr uint8_t kTcpFlagDataDigest = 0x02;
inline constexpr uint8_t kTcpFlagLast = 0x04;     // c2h_data, h2c_data: the last of this command or R2T
inline constexpr uint8_t kTcpFlagSuccess = 0x08;  // c2h_data with LAST: the command succeeded, no response follows

inline constexpr uint8_t kTcpDigestHeader = 0x01;  // bits of TcpIcReq::digests and TcpIcResp::digests
inline constexpr uint8_t kTcpDigestData = 0x02;
inline constexpr uint8_t kTcpAlignmentMax = 31;  // of hpda and cpda, in dwords, zero based
inline constexpr size_t kTcpDigestBytes = 4;
// The offset of data within a PDU is one byte; with the largest alignment it is 128.
inline constexpr size_t kTcpDataOffsetMax = 255;
inline constexpr uint32_t kTcpMaxH2cDataMin = 4096;
inline constexpr size_t kTcpTermCopyMax = 128;  // bytes of the offending header in a termination request

// Why a connection is terminated (FES).
enum class TcpFatal : uint16_t {
  none = 0,
  invalid_header_field = 1,     // FEI: byte offset of the field
  sequence_error = 2,           // a PDU that may not come now
  header_digest_error = 3,      // FEI: the digest that was received
  data_out_of_range = 4,        // data outside of what the command or R2T covers
  transfer_limit_exceeded = 5,  // to the controller: R2T limit; to the host: data transfer limit
  unsupported_parameter = 6,    // FEI: byte offset of the field
};

struct [[gnu::packed]] TcpCommonHeader {
  TcpPdu type;
  uint8_t flags;
  uint8_t header_bytes;  // HLEN, without digest
  uint8_t data_offset;   // PDO, from the start of the PDU; only where there is data
  uint32_t total_bytes;  // PLEN
};
static_assert(sizeof(TcpCommonHeader) == 8);

struct [[gnu::packed]] TcpIcReq {
  TcpCommonHeader common;
  uint16_t version;  // PFV: 0
  uint8_t hpda;      // alignment that the host wants of data from the controller: dwords, zero based
  uint8_t digests;   // kTcpDigest bits the host wants
  uint32_t max_r2t;  // outstanding R2Ts per command the host takes, zero based
  uint8_t reserved[112];
};
static_assert(sizeof(TcpIcReq) == 128 && offsetof(TcpIcReq, max_r2t) == 12);

struct [[gnu::packed]] TcpIcResp {
  TcpCommonHeader common;
  uint16_t version;       // PFV: 0
  uint8_t cpda;           // alignment that the controller wants of data from the host: dwords, zero based
  uint8_t digests;        // kTcpDigest bits that are on from now
  uint32_t max_h2c_data;  // most data bytes of one h2c_data, at least 4096
  uint8_t reserved[112];
};
static_assert(sizeof(TcpIcResp) == 128 && offsetof(TcpIcResp, max_h2c_data) == 12);

// h2c_term_req and c2h_term_req; followed by up to kTcpTermCopyMax bytes of the PDU that was wrong.
struct [[gnu::packed]] TcpTermReq {
  TcpCommonHeader common;
  TcpFatal status;  // FES
  uint32_t info;    // FEI
  uint8_t reserved[10];
};
static_assert(sizeof(TcpTermReq) == 24 && offsetof(TcpTermReq, info) == 10);

struct [[gnu::packed]] TcpCapsuleCmd {
  TcpCommonHeader common;
  uint8_t sqe[64];
};
static_assert(sizeof(TcpCapsuleCmd) == 72);

struct [[gnu::packed]] TcpCapsuleResp {
  TcpCommonHeader common;
  uint8_t cqe[16];
};
static_assert(sizeof(TcpCapsuleResp) == 24);

// h2c_data and c2h_data; the controller leaves `ttag` zero.
struct [[gnu::packed]] TcpData {
  TcpCommonHeader common;
  uint16_t cid;          // CCCID: the command's identifier
  uint16_t ttag;         // h2c_data: from the R2T
  uint32_t data_offset;  // DATAO: within the command's data
  uint32_t data_bytes;   // DATAL
  uint32_t reserved;
};
static_assert(sizeof(TcpData) == 24 && offsetof(TcpData, data_offset) == 12);

struct [[gnu::packed]] TcpR2t {
  TcpCommonHeader common;
  uint16_t cid;
  uint16_t ttag;         // the controller's tag, returned by h2c_data
  uint32_t data_offset;  // R2TO: within the command's data
  uint32_t data_bytes;   // R2TL
  uint32_t reserved;
};
static_assert(sizeof(TcpR2t) == 24 && offsetof(TcpR2t, data_offset) == 12);

// The longest header of any PDU, with its digest: what a receiver must be able to hold before it can act.
inline constexpr size_t kTcpHeaderBytesMax = sizeof(TcpIcReq) + kTcpDigestBytes;

// What a receiver currently accepts.
struct TcpExpectation {
  bool from_host;             // PDUs come from a host (we are the controller)
  bool initialized;           // the initialisation exchange is over
  bool header_digest;         // negotiated
  bool data_digest;           // negotiated
  uint32_t capsule_data_max;  // most in-capsule bytes of a command, data in capsule_resp is never allowed
  uint32_t data_max;          // most bytes of one data PDU
};

// A PDU's parts as its common header describes them, or why it cannot be accepted.
struct TcpShape {
  TcpFatal fatal = TcpFatal::none;
  uint32_t info = 0;          // FEI
  uint32_t header_bytes = 0;  // without digest
  bool header_digest = false;
  bool data_digest = false;
  uint32_t data_offset = 0;  // from the start of the PDU; header and digest end at or before it
  uint32_t data_bytes = 0;

  bool ok() const noexcept { return fatal == TcpFatal::none; }
};

// Checks the common header alone: type, direction, lengths, flags against what was negotiated.
TcpShape check_tcp_header(const TcpCommonHeader& header, const TcpExpectation& expect) noexcept;

// Where data starts in a PDU with this header, given the receiver's alignment wish (hpda or cpda, zero-based dwords).
constexpr uint8_t tcp_data_offset(size_t header_bytes, bool header_digest, uint8_t alignment) noexcept {
  const size_t end = header_bytes + (header_digest ? kTcpDigestBytes : 0);
  const size_t unit = (size_t{alignment} + 1) * 4;
  return static_cast<uint8_t>((end + unit - 1) / unit * unit);
}

// Fills in the common header of a PDU of `header_bytes` with `data_bytes` of data (0: none), flags for digests
// included. `alignment` is the receiver's wish for data.
TcpCommonHeader make_tcp_header(TcpPdu type, size_t header_bytes, uint32_t data_bytes, bool header_digest,
                                bool data_digest, uint8_t alignment = 0, uint8_t flags = 0) noexcept;

// Writes the header digest of `pdu` (its common header is complete) behind its header. The room must be there.
void put_tcp_header_digest(uint8_t* pdu) noexcept;
// True if the digest behind the header is right.
bool tcp_header_digest_ok(const uint8_t* pdu) noexcept;

// Writes a termination request of the given direction with a copy of the start of the offending PDU; returns its
// length. `out` has room for sizeof(TcpTermReq) + kTcpTermCopyMax bytes.
size_t make_tcp_term_req(uint8_t* out, bool from_host, TcpFatal status, uint32_t info,
                         std::span<const uint8_t> offending) noexcept;

const char* name_of(TcpPdu type) noexcept;
const char* name_of(TcpFatal status) noexcept;

}  // namespace diskengine::spec
