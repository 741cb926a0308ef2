#include "fabric/tcp/pdu_reader.h"

#include <gtest/gtest.h>

#include <cstring>
#include <vector>

#include "base/crc32c.h"
#include "base/endian.h"
#include "runtime/random.h"

namespace diskengine::fabric::tcp {
namespace {

using spec::TcpFatal;
using spec::TcpPdu;

spec::TcpExpectation host_side(bool header_digest, bool data_digest) {
  return {.from_host = true,
          .initialized = true,
          .header_digest = header_digest,
          .data_digest = data_digest,
          .capsule_data_max = 8192,
          .data_max = 1 << 20};
}

std::vector<uint8_t> h2c_data(uint16_t cid, std::span<const uint8_t> data, bool header_digest, bool data_digest,
                              uint8_t alignment) {
  spec::TcpData header{};
  header.common = spec::make_tcp_header(TcpPdu::h2c_data, sizeof header, static_cast<uint32_t>(data.size()),
                                        header_digest, data_digest, alignment);
  header.cid = cid;
  header.data_bytes = static_cast<uint32_t>(data.size());
  std::vector<uint8_t> pdu(header.common.total_bytes);
  std::memcpy(pdu.data(), &header, sizeof header);
  if (header_digest) spec::put_tcp_header_digest(pdu.data());
  std::memcpy(pdu.data() + header.common.data_offset, data.data(), data.size());
  if (data_digest) store_le<uint32_t>(pdu.data() + pdu.size() - 4, crc32c(data.data(), data.size()));
  return pdu;
}

class Collector final : public PduReader::Sink {
 public:
  bool on_header(const uint8_t* pdu, const spec::TcpShape& shape, PduReader::DataTarget* target) noexcept override {
    headers.push_back(load_le<spec::TcpData>(pdu).cid);
    buffer.assign(shape.data_bytes + 7, 0);
    // Three pieces, one of them empty, and an offset into the first.
    const size_t cut = 7 + shape.data_bytes / 3;
    pieces[0] = {buffer.data(), cut};
    pieces[1] = {buffer.data() + cut, 0};
    pieces[2] = {buffer.data() + cut, buffer.size() - cut};
    target->iov = pieces;
    target->offset = 7;
    return true;
  }
  bool on_data(bool digest_ok) noexcept override {
    datas.emplace_back(buffer.begin() + 7, buffer.end());
    good.push_back(digest_ok);
    return true;
  }
  void on_fatal(TcpFatal status, uint32_t info, std::span<const uint8_t>) noexcept override {
    fatal = status;
    fatal_info = info;
  }
  std::vector<uint16_t> headers;
  std::vector<std::vector<uint8_t>> datas;
  std::vector<bool> good;
  std::vector<uint8_t> buffer;
  iovec pieces[3];
  TcpFatal fatal = TcpFatal::none;
  uint32_t fatal_info = 0;
};

// Feeds `wire` cut into random chunks, some of them received directly, as a Stream would.
void feed(PduReader& reader, std::span<const uint8_t> wire, Random& random) {
  std::vector<uint8_t> held;
  while (!wire.empty()) {
    std::array<iovec, Stream::kDirectPiecesMax> iov;
    const size_t pieces = held.empty() ? reader.direct_target(iov) : 0;
    size_t direct = 0;
    for (size_t i = 0; i < pieces; ++i) {
      const size_t some = std::min(wire.size(), iov[i].iov_len);
      std::memcpy(iov[i].iov_base, wire.data(), some);
      wire = wire.subspan(some);
      direct += some;
      if (some < iov[i].iov_len) break;
    }
    if (direct > 0) reader.on_direct(direct);
    const size_t some = std::min<size_t>(wire.size(), 1 + random.below(random.chance(1, 2) ? 40 : 9000));
    held.insert(held.end(), wire.begin(), wire.begin() + static_cast<ptrdiff_t>(some));
    wire = wire.subspan(some);
    const size_t taken = reader.on_bytes(held);
    ASSERT_LE(held.size() - taken, Staging::kHoldMax);
    held.erase(held.begin(), held.begin() + static_cast<ptrdiff_t>(taken));
  }
  EXPECT_TRUE(held.empty());
}

TEST(PduReader, DataArrivesWholeHoweverTheStreamIsCut) {
  const uint64_t seed = Random::from_system().next();
  SCOPED_TRACE("seed " + std::to_string(seed));
  Random random(seed);
  for (int round = 0; round < 40; ++round) {
    const bool header_digest = random.chance(1, 2);
    const bool data_digest = random.chance(1, 2);
    std::vector<uint8_t> wire;
    std::vector<std::vector<uint8_t>> datas;
    for (uint16_t cid = 0; cid < 8; ++cid) {
      std::vector<uint8_t> data(1 + random.below(random.chance(1, 2) ? 100 : 100'000));
      for (uint8_t& byte : data) byte = static_cast<uint8_t>(random.next());
      const auto pdu = h2c_data(cid, data, header_digest, data_digest, static_cast<uint8_t>(random.below(32)));
      wire.insert(wire.end(), pdu.begin(), pdu.end());
      datas.push_back(std::move(data));
    }
    Collector collector;
    PduReader reader(collector, host_side(header_digest, data_digest));
    feed(reader, wire, random);
    EXPECT_EQ(collector.fatal, TcpFatal::none);
    EXPECT_TRUE(collector.datas == datas);
    EXPECT_EQ(collector.good, std::vector<bool>(8, true));
  }
}

TEST(PduReader, AWrongDataDigestIsReportedAndTheNextPduIsFine) {
  Random random(1);
  const std::vector<uint8_t> data(40'000, 7);
  auto wire = h2c_data(1, data, true, true, 0);
  wire[1000] ^= 1;
  const auto second = h2c_data(2, data, true, true, 0);
  wire.insert(wire.end(), second.begin(), second.end());
  Collector collector;
  PduReader reader(collector, host_side(true, true));
  feed(reader, wire, random);
  EXPECT_EQ(collector.good, (std::vector<bool>{false, true}));
}

TEST(PduReader, AWrongHeaderDigestIsFatalAndNothingMoreIsTaken) {
  Random random(1);
  const std::vector<uint8_t> data(100, 7);
  auto wire = h2c_data(1, data, true, false, 0);
  wire[9] ^= 1;
  const auto second = h2c_data(2, data, true, false, 0);
  wire.insert(wire.end(), second.begin(), second.end());
  Collector collector;
  PduReader reader(collector, host_side(true, false));
  feed(reader, wire, random);
  EXPECT_EQ(collector.fatal, TcpFatal::header_digest_error);
  EXPECT_TRUE(collector.headers.empty());
}

}  // namespace
}  // namespace diskengine::fabric::tcp
