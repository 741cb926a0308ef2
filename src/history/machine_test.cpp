// What machines say of networks and disks: counters become what came since the last look, and the kernel's files are
// read as far as they are there.
#include "history/machine.h"

#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>

namespace diskengine::history {
namespace {

namespace fs = std::filesystem;

struct Put {
  Series series;
  spec::HistoryRecord record;
};

struct Looks {
  std::vector<NetworkCounters> networks;
  std::vector<DiskTemperature> temperatures;
  std::vector<Put> puts;
  MachineLook machine{{.networks = [this] { return networks; }, .temperatures = [this] { return temperatures; }},
                      [this](Series series, spec::HistoryRecord record) {
                        puts.push_back({series, std::move(record)});
                      }};
  uint64_t now_ms = 10'000;

  // What was put for the seconds.
  std::vector<spec::HistoryRecord> look() {
    puts.clear();
    now_ms += 1'000;
    machine.look(now_ms, 1'000);
    std::vector<spec::HistoryRecord> records;
    for (const Put& put : puts) records.push_back(put.record);
    return records;
  }
};

NetworkCounters connection(const std::string& name, uint64_t sent, uint64_t again, uint32_t rtt_us = 0) {
  return {.name = name, .record = "tcp target", .sent = sent, .again = again, .rtt_us = rtt_us};
}

TEST(MachineLook, WhatConnectionsToOneTargetDidIsOneRecordASecond) {
  Looks looks;
  looks.networks = {connection("a", 100, 5), connection("b", 50, 0)};
  EXPECT_TRUE(looks.look().empty());  // what was before is not of this second
  looks.networks = {connection("a", 110, 7, 300), connection("b", 60, 0, 900), connection("new", 4, 1, 20)};
  const std::vector<spec::HistoryRecord> records = looks.look();
  ASSERT_EQ(records.size(), 1U);
  EXPECT_EQ(records[0].kind, spec::HistoryKind::network);
  EXPECT_EQ(records[0].name, "tcp target");
  EXPECT_EQ(records[0].end_ms, looks.now_ms);
  EXPECT_EQ(records[0].values[spec::kHistoryConnections], 3U);
  EXPECT_EQ(records[0].values[spec::kHistorySent], 24U);
  EXPECT_EQ(records[0].values[spec::kHistoryAgain], 3U);
  EXPECT_EQ(records[0].values[spec::kHistoryRttUs], 900U);
}

TEST(MachineLook, WhatDidNothingHasNoRecordAndWhatWasResetStartsAtNothing) {
  Looks looks;
  looks.networks = {connection("a", 100, 5)};
  looks.look();
  EXPECT_TRUE(looks.look().empty());
  looks.networks = {};
  EXPECT_TRUE(looks.look().empty());
  looks.networks = {connection("a", 3, 0)};  // another connection of the same name
  ASSERT_EQ(looks.look().size(), 1U);
  EXPECT_EQ(looks.puts[0].record.values[spec::kHistorySent], 3U);
}

TEST(MachineLook, AnInterfaceThatAppearsIsNotBlamedForWhatItCountedBefore) {
  Looks looks;
  looks.look();
  NetworkCounters port{.name = "net eth1", .record = "net eth1", .type = spec::HistoryNetwork::interface};
  port.dropped = 1'000;
  looks.networks = {port};
  EXPECT_TRUE(looks.look().empty());
  looks.networks[0].dropped = 1'002;
  ASSERT_EQ(looks.look().size(), 1U);
  EXPECT_EQ(looks.puts[0].record.values[spec::kHistoryDropped], 2U);
  EXPECT_EQ(looks.puts[0].record.detail, static_cast<uint16_t>(spec::HistoryNetwork::interface));
}

TEST(MachineLook, AMinuteHasItsSumsAndTheTemperatures) {
  Looks looks;
  looks.networks = {connection("a", 0, 0)};
  looks.temperatures = {{"nvme0", 41, 84}};
  looks.look();
  for (uint64_t i = 1; i <= 3; ++i) {
    looks.networks = {connection("a", 10 * i, i)};
    looks.look();
  }
  looks.puts.clear();
  looks.machine.end_minute(looks.now_ms, 60'000, {{"NvmeDisk1", 38, 0}});
  ASSERT_EQ(looks.puts.size(), 5U);
  EXPECT_EQ(looks.puts[0].series, Series::minutes);
  EXPECT_EQ(looks.puts[0].record.values[spec::kHistorySent], 30U);
  EXPECT_EQ(looks.puts[0].record.values[spec::kHistoryAgain], 3U);
  EXPECT_EQ(looks.puts[1].record.kind, spec::HistoryKind::temperature);
  EXPECT_EQ(looks.puts[1].record.values[spec::kHistoryCelsius], 41U);
  EXPECT_EQ(looks.puts[1].record.values[spec::kHistoryWarningCelsius], 84U);
  EXPECT_EQ((std::vector{looks.puts[1].series, looks.puts[2].series}), (std::vector{Series::seconds, Series::minutes}));
  EXPECT_EQ(looks.puts[3].record.name, "NvmeDisk1");
  EXPECT_EQ(looks.puts[3].record.values[spec::kHistoryCelsius], 38U);
  looks.puts.clear();
  looks.temperatures.clear();
  looks.machine.end_minute(looks.now_ms, 60'000, {});
  EXPECT_TRUE(looks.puts.empty());
}

class MachineFiles : public testing::Test {
 protected:
  MachineFiles() {
    std::string name = testing::TempDir() + "/machine_XXXXXX";
    root = mkdtemp(name.data());
  }
  ~MachineFiles() override { fs::remove_all(root); }
  void put(const std::string& path, const std::string& text) const {
    const fs::path file = root + "/sys/" + path;
    fs::create_directories(file.parent_path());
    std::ofstream(file) << text << '\n';
  }
  std::string root;
};

TEST_F(MachineFiles, InterfacesAndPortsAreReadAsFarAsTheyTell) {
  put("class/net/eth0/statistics/rx_dropped", "7");
  put("class/net/eth0/statistics/tx_errors", "2");
  put("class/infiniband/mlx5_0/ports/1/counters/port_xmit_discards", "3");
  put("class/infiniband/mlx5_0/ports/1/counters/symbol_error", "nonsense");
  put("class/infiniband/mlx5_0/ports/1/hw_counters/local_ack_timeout_err", "5");
  put("class/infiniband/mlx5_0/ports/1/hw_counters/np_cnp_sent", "11");
  const std::vector<NetworkCounters> found = network_counters(root);
  ASSERT_EQ(found.size(), 2U);
  EXPECT_EQ(found[0].name, "net eth0");
  EXPECT_EQ(found[0].dropped, 7U);
  EXPECT_EQ(found[0].damaged, 2U);
  EXPECT_EQ(found[1].name, "rdma mlx5_0/1");
  EXPECT_EQ(found[1].type, spec::HistoryNetwork::rdma);
  EXPECT_EQ(found[1].dropped, 3U);
  EXPECT_EQ(found[1].damaged, 0U);
  EXPECT_EQ(found[1].again, 5U);
  EXPECT_EQ(found[1].congested, 11U);
}

TEST_F(MachineFiles, TemperaturesAreThoseOfDisks) {
  put("devices/nvme0/model", "disk");
  for (const char* sensor : {"hwmon0", "hwmon1", "hwmon2"})
    put(std::string("class/hwmon/") + sensor + "/temp1_input", "41850");
  put("class/hwmon/hwmon0/name", "nvme");
  put("class/hwmon/hwmon0/temp1_max", "84850");
  put("class/hwmon/hwmon1/name", "coretemp");
  put("class/hwmon/hwmon2/name", "nvme");  // without its device
  fs::create_directory_symlink(root + "/sys/devices/nvme0", root + "/sys/class/hwmon/hwmon0/device");
  const std::vector<DiskTemperature> found = disk_temperatures(root);
  ASSERT_EQ(found.size(), 1U);
  EXPECT_EQ(found[0].name, "nvme0");
  EXPECT_EQ(found[0].celsius, 41U);
  EXPECT_EQ(found[0].warning_celsius, 84U);
}

TEST_F(MachineFiles, AMachineWithoutAnyOfItIsNoError) {
  EXPECT_TRUE(network_counters(root + "/none").empty());
  EXPECT_TRUE(disk_temperatures(root + "/none").empty());
}

}  // namespace
}  // namespace diskengine::history
