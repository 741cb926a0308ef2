// What the machine under the process says of its networks and disks: what was sent a second time, dropped or damaged,
// and how hot disks are. For what makes I/O slow and no layer of ours can see. Reads the kernel's files, which may take
// milliseconds, so it is kept away from the reactors.
//
// Threads: one at a time (the archive's). Owned by the app.
#pragma once

#include <array>
#include <cstdint>
#include <functional>
#include <map>
#include <string>
#include <vector>

#include "format/history.h"
#include "history/archive.h"

namespace diskengine::history {

// Counters of a network that only grow, and its state at the moment.
struct NetworkCounters {
  std::string name;    // of what is counted, the same at each look
  std::string record;  // under which name it is recorded, together with others of that name
  spec::HistoryNetwork type = spec::HistoryNetwork::tcp;
  uint64_t sent = 0, again = 0, dropped = 0, damaged = 0, congested = 0;
  uint32_t rtt_us = 0;
};
struct DiskTemperature {
  std::string name;
  uint32_t celsius = 0;
  uint32_t warning_celsius = 0;  // 0: it does not warn
};

// Of the network interfaces and RDMA ports, from files below `root`/sys.
std::vector<NetworkCounters> network_counters(const std::string& root);
// Of the disks of the kernel's drivers.
std::vector<DiskTemperature> disk_temperatures(const std::string& root);

class MachineLook {
 public:
  static constexpr size_t kNetworksMax = 8192;  // counted apart; further ones are left out

  struct Sources {
    std::function<std::vector<NetworkCounters>()> networks;
    std::function<std::vector<DiskTemperature>()> temperatures;
  };
  using Put = std::function<void(Series, spec::HistoryRecord)>;

  MachineLook(Sources sources, Put put) : sources_(std::move(sources)), put_(std::move(put)) {}

  // Once a second. What a network did since the look before; nothing is put for one that did nothing.
  void look(uint64_t now_ms, uint64_t span_ms);
  // Once a minute, after look(): the minute's sums, and temperatures, which go to the seconds too; `own` are those of
  // disks that the kernel does not drive.
  void end_minute(uint64_t now_ms, uint64_t span_ms, const std::vector<DiskTemperature>& own);

 private:
  static constexpr size_t kCounters = 5;
  struct Sum {
    spec::HistoryNetwork type = spec::HistoryNetwork::tcp;
    uint32_t connections = 0;
    std::array<uint64_t, kCounters> counted{};
    uint32_t rtt_us = 0;
  };
  struct Known {
    std::array<uint64_t, kCounters> counted{};
    bool seen = true;
  };

  void put(Series series, const std::string& name, const Sum& sum, uint64_t now_ms, uint64_t span_ms) const;

  const Sources sources_;
  const Put put_;
  bool first_ = true;
  std::map<std::string, Known> known_;
  std::map<std::string, Sum> minute_;
};

}  // namespace diskengine::history
