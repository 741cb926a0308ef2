// The command line of diskengine-io: SPDK's flags where they mean something here.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "base/log.h"
#include "base/result.h"

namespace diskengine::app {

struct Options {
  std::string rpc_path = "/var/tmp/spdk.sock";
  std::vector<int> cores;  // of the reactors, one each; empty: one reactor on any core
  std::string vhost_dir = ".";
  std::string config_path;  // start-up configuration; empty: none
  bool ignore_config_errors = false;
  bool wait_for_rpc = false;
  bool allow_no_iommu = false;  // disks on the PCI bus may be driven without one
  std::string state_dir;      // for the history; empty: "<rpc_path>.state"
  bool history = true;        // keep one
  uint64_t stuck_ms = 5'000;  // requests that are outstanding for longer are reported; 0: none
  LogLevel log_level = LogLevel::info;
  std::vector<std::string> notes;  // about flags that were ignored, to be logged
};

// What main() does next.
struct Parsed {
  bool run = false;   // false: exit with `exit_code`, everything was printed
  int exit_code = 0;  // 0 after --help and --version, 2 for a wrong command line
  Options options;
};

Parsed parse_command_line(int argc, char** argv);

// "0x5", "5" (SPDK takes a bare number as hexadecimal too), "[0,2-3]" or "0,2-3": the cores, ascending.
Result<std::vector<int>> parse_cores(const std::string& text);

}  // namespace diskengine::app
