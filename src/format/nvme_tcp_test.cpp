#include "format/nvme_tcp.h"

#include <gtest/gtest.h>

#include <cstring>

namespace diskengine::spec {
namespace {

TcpExpectation controller(bool initialized, bool header_digest = false, bool data_digest = false) {
  return {.from_host = true,
          .initialized = initialized,
          .header_digest = header_digest,
          .data_digest = data_digest,
          .capsule_data_max = 8192,
          .data_max = 131072};
}

TEST(NvmeTcp, WhatWeMakeWeAccept) {
  for (const bool header_digest : {false, true})
    for (const bool data_digest : {false, true})
      for (uint8_t alignment = 0; alignment <= kTcpAlignmentMax; ++alignment)
        for (const uint32_t bytes : {0u, 1u, 512u, 8192u}) {
          const auto header =
              make_tcp_header(TcpPdu::capsule_cmd, sizeof(TcpCapsuleCmd), bytes, header_digest, data_digest, alignment);
          const TcpShape shape = check_tcp_header(header, controller(true, header_digest, data_digest));
          ASSERT_TRUE(shape.ok()) << name_of(shape.fatal) << " " << shape.info;
          EXPECT_EQ(shape.data_bytes, bytes);
          EXPECT_EQ(shape.header_digest, header_digest);
          EXPECT_EQ(shape.data_digest, data_digest && bytes > 0);
          EXPECT_TRUE(bytes == 0 || shape.data_offset % ((alignment + 1u) * 4) == 0);
        }
}

void expect_refused(TcpCommonHeader header, const TcpExpectation& expect, TcpFatal fatal, uint32_t info) {
  const TcpShape shape = check_tcp_header(header, expect);
  EXPECT_EQ(shape.fatal, fatal) << name_of(shape.fatal);
  EXPECT_EQ(shape.info, info);
}

TEST(NvmeTcp, EachWrongFieldIsNamedByItsOffset) {
  const auto good = make_tcp_header(TcpPdu::capsule_cmd, sizeof(TcpCapsuleCmd), 512, true, true);
  const auto expect = controller(true, true, true);
  ASSERT_TRUE(check_tcp_header(good, expect).ok());
  auto with = [&](auto change) {
    TcpCommonHeader header = good;
    change(header);
    return header;
  };
  using enum TcpFatal;
  expect_refused(with([](auto& h) { h.type = static_cast<TcpPdu>(0x08); }), expect, invalid_header_field, 0);
  expect_refused(with([](auto& h) { h.type = static_cast<TcpPdu>(0xff); }), expect, invalid_header_field, 0);
  expect_refused(with([](auto& h) { h.type = TcpPdu::c2h_data; }), expect, invalid_header_field, 0);
  expect_refused(with([](auto& h) { h.flags &= ~kTcpFlagHeaderDigest; }), expect, invalid_header_field, 1);
  expect_refused(with([](auto& h) { h.flags &= ~kTcpFlagDataDigest; }), expect, invalid_header_field, 1);
  expect_refused(with([](auto& h) { h.header_bytes = 71; }), expect, invalid_header_field, 2);
  expect_refused(with([](auto& h) { h.data_offset = 72; }), expect, invalid_header_field, 3);
  expect_refused(with([](auto& h) { h.data_offset = 77; }), expect, invalid_header_field, 3);
  expect_refused(with([](auto& h) { h.total_bytes = 75; }), expect, invalid_header_field, 4);
  expect_refused(with([](auto& h) { h.total_bytes = 80; }), expect, invalid_header_field, 4);
  expect_refused(with([](auto& h) { h.total_bytes += 8192; }), expect, transfer_limit_exceeded, 0);
  expect_refused(with([](auto& h) { h.total_bytes = UINT32_MAX; }), expect, transfer_limit_exceeded, 0);
}

TEST(NvmeTcp, NothingButAnInitialisationComesFirstAndItComesOnce) {
  const auto command = make_tcp_header(TcpPdu::capsule_cmd, sizeof(TcpCapsuleCmd), 0, false, false);
  const auto request = make_tcp_header(TcpPdu::ic_req, sizeof(TcpIcReq), 0, false, false);
  EXPECT_TRUE(check_tcp_header(request, controller(false)).ok());
  expect_refused(request, controller(true), TcpFatal::sequence_error, 0);
  expect_refused(command, controller(false), TcpFatal::sequence_error, 0);
  EXPECT_TRUE(check_tcp_header(command, controller(true)).ok());
}

TEST(NvmeTcp, AHeaderDigestCoversEveryBit) {
  TcpCapsuleCmd capsule{};
  capsule.common = make_tcp_header(TcpPdu::capsule_cmd, sizeof capsule, 0, true, false);
  uint8_t pdu[sizeof capsule + kTcpDigestBytes];
  std::memcpy(pdu, &capsule, sizeof capsule);
  put_tcp_header_digest(pdu);
  EXPECT_TRUE(tcp_header_digest_ok(pdu));
  for (size_t bit = 0; bit < sizeof pdu * 8; ++bit) {
    if (bit / 8 == offsetof(TcpCommonHeader, header_bytes)) continue;  // says where the digest is; checked before it
    pdu[bit / 8] ^= static_cast<uint8_t>(1 << bit % 8);
    EXPECT_FALSE(tcp_header_digest_ok(pdu)) << bit;
    pdu[bit / 8] ^= static_cast<uint8_t>(1 << bit % 8);
  }
}

TEST(NvmeTcp, ATerminationRequestCarriesAtMostSoMuchOfWhatWasWrong) {
  uint8_t out[sizeof(TcpTermReq) + kTcpTermCopyMax];
  const uint8_t offending[300] = {0x04, 1, 2};
  const size_t bytes = make_tcp_term_req(out, false, TcpFatal::invalid_header_field, 2, offending);
  EXPECT_EQ(bytes, sizeof out);
  TcpTermReq request;
  std::memcpy(&request, out, sizeof request);
  const TcpExpectation host{.from_host = false,
                            .initialized = true,
                            .header_digest = true,
                            .data_digest = true,
                            .capsule_data_max = 0,
                            .data_max = 4096};
  const TcpShape shape = check_tcp_header(request.common, host);
  EXPECT_TRUE(shape.ok());
  EXPECT_EQ(shape.data_bytes, kTcpTermCopyMax);
  EXPECT_EQ(out[sizeof request + 1], 1);
}

}  // namespace
}  // namespace diskengine::spec
