// The PDU reader of the target and of the host on arbitrary bytes: it never takes more than there is, never writes
// outside of the memory it was given, and holds back no more than a header.
#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <vector>

#include "base/assert.h"
#include "fabric/tcp/pdu_reader.h"

namespace {

using namespace diskengine;
using fabric::tcp::PduReader;

class Sink final : public PduReader::Sink {
 public:
  bool on_header(const uint8_t*, const spec::TcpShape& shape, PduReader::DataTarget* target) noexcept override {
    // Exactly as much room as the data needs, so that the sanitizer sees one byte too many.
    room_.assign(shape.data_bytes, 0);
    pieces_[0] = {room_.data(), room_.size() / 2};
    pieces_[1] = {room_.data() + room_.size() / 2, room_.size() - room_.size() / 2};
    target->iov = pieces_;
    return true;
  }
  bool on_data(bool) noexcept override { return true; }
  void on_fatal(spec::TcpFatal status, uint32_t, std::span<const uint8_t>) noexcept override {
    DE_ASSERT(status != spec::TcpFatal::none);
  }

 private:
  std::vector<uint8_t> room_;
  std::array<iovec, 2> pieces_;
};

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  if (size < 2) return 0;
  const uint8_t setting = data[0];
  const size_t chunk = size_t{1} + data[1];
  Sink sink;
  PduReader reader(sink, {.from_host = (setting & 1) != 0,
                          .initialized = (setting & 2) != 0,
                          .header_digest = (setting & 4) != 0,
                          .data_digest = (setting & 8) != 0,
                          .capsule_data_max = 8192,
                          .data_max = 65536});
  std::vector<uint8_t> held;
  for (size_t at = 2; at < size; at += chunk) {
    const size_t some = std::min(chunk, size - at);
    held.insert(held.end(), data + at, data + at + some);
    const size_t taken = reader.on_bytes(held);
    DE_ASSERT(taken <= held.size() && held.size() - taken <= fabric::tcp::Staging::kHoldMax);
    held.erase(held.begin(), held.begin() + static_cast<std::ptrdiff_t>(taken));
  }
  return 0;
}
