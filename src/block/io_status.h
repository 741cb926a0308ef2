// The outcome of one request, in 8 bytes, as the hot path carries it.
#pragma once

#include <cstdint>
#include <string_view>

namespace diskengine {

enum class IoCode : uint8_t {
  ok = 0,
  io_error,  // the medium or a layer below failed it
  invalid,   // out of range, bad length or flags
  not_supported,
  no_space,  // a thin device cannot allocate
  canceled,  // aborted, or the device is going away
  timed_out,
  disconnected,  // the path to the device is lost; a retry elsewhere or later may do
  miscompare,    // compare found different data
  read_only,     // write to a write-protected device
  fenced,        // this writer's epoch is over: it must stop for good
};

struct IoStatus {
  IoCode code = IoCode::ok;
  // Where an NVMe controller gave the reason: status code type, status code and do-not-retry; else 0.
  uint8_t nvme_sct = 0;
  uint8_t nvme_sc = 0;
  bool nvme_dnr = false;
  // Where a system call gave the reason: its positive errno; else 0.
  int32_t os_errno = 0;

  constexpr bool ok() const noexcept { return code == IoCode::ok; }
  static constexpr IoStatus success() noexcept { return {}; }
  static constexpr IoStatus error(IoCode code, int positive_errno = 0) noexcept {
    return {code, 0, 0, false, positive_errno};
  }
  static constexpr IoStatus nvme(IoCode code, uint8_t sct, uint8_t sc, bool dnr) noexcept {
    return {code, sct, sc, dnr, 0};
  }
};
static_assert(sizeof(IoStatus) == 8);

std::string_view name_of(IoCode code) noexcept;
// The closest code for a positive errno from a disk.
IoStatus io_status_from_errno(int positive_errno) noexcept;

}  // namespace diskengine
