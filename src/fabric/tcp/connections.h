// What the kernel says of the TCP connections of this process, of hosts and targets alike. For the history: it is
// looked at once a second, beside the reactors.
//
// Threads: any; each call looks by itself. System calls, some for each open file; none of them waits.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

namespace diskengine::fabric::tcp {

struct Connection {
  std::string local;  // address:port, IPv6 in brackets
  std::string peer;
  bool accepted = false;  // local is a port that this process listens on: we are the target
  uint64_t sent = 0;      // segments with data, ever
  uint64_t again = 0;     // segments that were sent again, ever
  uint32_t rtt_us = 0;    // smoothed, at the moment
};

inline constexpr size_t kConnectionsMax = 4096;  // further ones are left out

std::vector<Connection> connections();

}  // namespace diskengine::fabric::tcp
