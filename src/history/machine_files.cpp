// The kernel's files: /sys/class/net, /sys/class/infiniband, /sys/class/nvme and /sys/block with their hwmon folders.
#include <algorithm>
#include <charconv>
#include <filesystem>
#include <fstream>
#include <initializer_list>

#include "history/machine.h"

namespace diskengine::history {
namespace {

namespace fs = std::filesystem;

// 0: there is no such file, or no number in it.
uint64_t number_in(const fs::path& path) {
  std::ifstream file(path);
  uint64_t number = 0;
  file >> number;
  return file ? number : 0;
}

uint64_t sum_of(const fs::path& folder, std::initializer_list<const char*> names) {
  uint64_t sum = 0;
  for (const char* name : names) sum += number_in(folder / name);
  return sum;
}

// In order of names; none: there is no such folder.
std::vector<fs::path> entries_of(const fs::path& folder) {
  std::vector<fs::path> entries;
  std::error_code error;
  for (fs::directory_iterator at(folder, error), end; !error && at != end; at.increment(error))
    entries.push_back(at->path());
  std::sort(entries.begin(), entries.end());
  return entries;
}

NetworkCounters interface(const fs::path& folder) {
  const fs::path counters = folder / "statistics";
  const std::string name = "net " + folder.filename().string();
  // Packets are not counted: what an interface sent is mostly not ours, and no record is made where nothing is amiss.
  return {.name = name,
          .record = name,
          .type = spec::HistoryNetwork::interface,
          .sent = 0,
          .again = 0,
          .dropped = sum_of(counters, {"rx_dropped", "tx_dropped", "rx_missed_errors", "rx_fifo_errors"}),
          .damaged = sum_of(counters, {"rx_errors", "tx_errors"}),
          .congested = 0,
          .rtt_us = 0};
}

// Names of the counters: include/rdma and the drivers' hw_counters (Documentation/ABI/stable/sysfs-class-infiniband).
NetworkCounters rdma_port(const std::string& device, const fs::path& folder) {
  const fs::path port = folder / "counters", hardware = folder / "hw_counters";
  const std::string name = "rdma " + device + "/" + folder.filename().string();
  return {.name = name,
          .record = name,
          .type = spec::HistoryNetwork::rdma,
          .sent = 0,
          .again = sum_of(hardware, {"packet_seq_err", "local_ack_timeout_err", "rnr_nak_retry_err", "out_of_sequence",
                                     "retry_exceeded_err", "rxe_send_rnr_err", "retransmits"}),
          .dropped = sum_of(port, {"port_xmit_discards", "VL15_dropped"}) +
                     sum_of(hardware, {"out_of_buffer", "rx_out_of_buffer"}),
          .damaged = sum_of(port, {"symbol_error", "link_error_recovery", "link_downed", "port_rcv_errors",
                                   "local_link_integrity_errors", "excessive_buffer_overrun_errors"}) +
                     sum_of(hardware, {"rx_icrc_encapsulated", "implied_nak_seq_err"}),
          .congested = number_in(port / "port_xmit_wait") +
                       sum_of(hardware, {"np_cnp_sent", "rp_cnp_handled", "np_ecn_marked_roce_packets"}),
          .rtt_us = 0};
}

// Thousandths of a degree; 0: it does not say.
uint32_t celsius_in(const fs::path& path) {
  std::ifstream file(path);
  int64_t thousandths = 0;
  file >> thousandths;
  return file && thousandths > 0 && thousandths < 1'000'000 ? static_cast<uint32_t>(thousandths / 1'000) : 0;
}

}  // namespace

std::vector<NetworkCounters> network_counters(const std::string& root) {
  std::vector<NetworkCounters> found;
  const fs::path classes = fs::path(root + "/sys/class");
  for (const fs::path& folder : entries_of(classes / "net")) found.push_back(interface(folder));
  for (const fs::path& device : entries_of(classes / "infiniband"))
    for (const fs::path& port : entries_of(device / "ports"))
      found.push_back(rdma_port(device.filename().string(), port));
  return found;
}

std::vector<DiskTemperature> disk_temperatures(const std::string& root) {
  std::vector<DiskTemperature> found;
  for (const fs::path& sensor : entries_of(fs::path(root + "/sys/class/hwmon"))) {
    std::string kind;
    std::ifstream(sensor / "name") >> kind;
    if (kind != "nvme" && kind != "drivetemp") continue;
    std::error_code error;
    const fs::path device = fs::canonical(sensor / "device", error);
    const uint32_t celsius = celsius_in(sensor / "temp1_input");
    if (error || celsius == 0) continue;
    found.push_back({device.filename().string(), celsius, celsius_in(sensor / "temp1_max")});
  }
  return found;
}

}  // namespace diskengine::history
