#include "options.h"

#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <charconv>
#include <cstdio>
#include <set>
#include <utility>

#include "version.h"

namespace diskengine::app {
namespace {

constexpr int kCoresMax = 1024;
constexpr int kUsageError = 2;

// SPDK's flags about memory, PCI and DPDK, which have no meaning here: name, whether a value follows.
constexpr std::pair<const char*, bool> kIgnoredFlags[] = {
    {"-s,--mem-size", true},     {"--no-huge", false},
    {"-u,--no-pci", false},      {"-g,--single-file-segments", false},
    {"--huge-dir", true},        {"-R,--huge-unlink", false},
    {"-i,--shm-id", true},       {"-n,--mem-channels", true},
    {"-p,--main-core", true},    {"-d,--limit-coredump", false},
    {"-e,--tpoint-group", true}, {"--num-trace-entries", true},
    {"-A,--pci-allowed", true},  {"-B,--pci-blocked", true},
    {"--iova-mode", true},       {"--base-virtaddr", true},
    {"--env-context", true},     {"--msg-mempool-size", true},
    {"--no-rpc-server", false},  {"--disable-cpumask-locks", false},
    {"--interrupt-mode", false}, {"--silence-noticelog", false},
};

Result<int> parse_core(std::string_view text) {
  int core = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), core);
  if (error != std::errc() || end != text.data() + text.size() || core < 0 || core >= kCoresMax)
    return Error(Errc::invalid_argument, fmt::format("'{}' is not a core from 0 to {}", text, kCoresMax - 1));
  return core;
}

Result<std::vector<int>> parse_list(std::string_view text) {
  std::set<int> cores;
  while (!text.empty()) {
    const std::string_view piece = text.substr(0, text.find(','));
    text.remove_prefix(std::min(text.size(), piece.size() + 1));
    const size_t dash = piece.find('-');
    TRY_ASSIGN(const int first, parse_core(piece.substr(0, dash)));
    int last = first;
    if (dash != std::string_view::npos) {
      TRY_ASSIGN(last, parse_core(piece.substr(dash + 1)));
    }
    if (last < first) return Error(Errc::invalid_argument, fmt::format("'{}' runs backwards", piece));
    for (int core = first; core <= last; ++core) cores.insert(core);
  }
  return std::vector<int>(cores.begin(), cores.end());
}

Result<std::vector<int>> parse_mask(std::string_view text) {
  std::vector<int> cores;
  int bit = 0;
  for (auto at = text.rbegin(); at != text.rend(); ++at, bit += 4) {
    int digit = 0;
    const auto [end, error] = std::from_chars(&*at, &*at + 1, digit, 16);
    if (error != std::errc()) return Error(Errc::invalid_argument, fmt::format("'{}' is not hexadecimal", text));
    for (int i = 0; i < 4; ++i)
      if ((digit >> i & 1) != 0) cores.push_back(bit + i);
  }
  return cores;
}

LogLevel level_from(const std::string& text, std::vector<std::string>& notes) {
  constexpr std::pair<const char*, LogLevel> kLevels[] = {
      {"debug", LogLevel::debug}, {"info", LogLevel::info}, {"warn", LogLevel::warn}, {"error", LogLevel::error}};
  for (const auto& [name, level] : kLevels)
    if (text == name) return level;
  notes.push_back(fmt::format("-L {}: no log flags here, only the levels debug, info, warn and error", text));
  return LogLevel::info;
}

}  // namespace

Result<std::vector<int>> parse_cores(const std::string& text) {
  std::string_view rest = text;
  const bool bracketed = rest.size() >= 2 && rest.front() == '[' && rest.back() == ']';
  if (bracketed) rest = rest.substr(1, rest.size() - 2);
  const bool list = bracketed || rest.find_first_of(",-") != std::string_view::npos;
  if (!list && (rest.starts_with("0x") || rest.starts_with("0X"))) rest.remove_prefix(2);
  if (rest.empty()) return Error(Errc::invalid_argument, "it names no core");
  TRY_ASSIGN(std::vector<int> cores, list ? parse_list(rest) : parse_mask(rest));
  if (cores.empty()) return Error(Errc::invalid_argument, "it names no core");
  return cores;
}

Parsed parse_command_line(int argc, char** argv) {
  Parsed parsed;
  Options& options = parsed.options;
  std::string cores;
  std::string level = "info";
  CLI::App cli("The data plane of one machine, driven by JSON-RPC on a unix socket.", "diskengine-io");
  cli.set_version_flag("-v,--version", std::string("diskengine-io ") + kVersion);
  cli.add_option("-r,--rpc-socket", options.rpc_path, "RPC socket")->capture_default_str();
  cli.add_option("-m,--cpumask", cores,
                 "cores of the reactors, pinned: mask (0x3) or list ([0,1]); default: one, unpinned");
  cli.add_option("-S,--vhost-socket-dir", options.vhost_dir, "directory of the vhost sockets")->capture_default_str();
  cli.add_option("-c,--json,--config", options.config_path, "start-up configuration, as save_config writes it");
  cli.add_flag("--json-ignore-init-errors", options.ignore_config_errors, "go on when a start-up call fails");
  cli.add_flag("--wait-for-rpc", options.wait_for_rpc, "stay in the start-up phase until framework_start_init");
  cli.add_flag("--unsafe-no-iommu", options.allow_no_iommu,
               "drive disks on the PCI bus also where no IOMMU keeps them from memory that is not theirs");
  cli.add_option("--state-dir", options.state_dir,
                 "directory of the history; default: the RPC socket's path and .state");
  cli.add_flag("!--no-history", options.history, "keep no history of what the process did");
  cli.add_option("--stuck-ms", options.stuck_ms, "report requests that are outstanding for longer; 0: never")
      ->capture_default_str();
  cli.add_option("-L,--logflag", level, "log level: debug, info, warn, error")->capture_default_str();
  for (const auto& [name, has_value] : kIgnoredFlags) {
    const std::string note = std::string(name) + " is accepted for SPDK's sake and has no effect";
    constexpr char kGroup[] = "Accepted and ignored";
    if (has_value) {
      cli.add_option_function<std::string>(name,
                                           [&options, note](const std::string&) { options.notes.push_back(note); })
          ->group(kGroup);
    } else {
      cli.add_flag_callback(name, [&options, note] { options.notes.push_back(note); })->group(kGroup);
    }
  }
  try {
    cli.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    parsed.exit_code = cli.exit(error) == 0 ? 0 : kUsageError;
    return parsed;
  }
  if (!cores.empty()) {
    Result<std::vector<int>> list = parse_cores(cores);
    if (!list) {
      std::fprintf(stderr, "diskengine-io: -m %s: %s\n", cores.c_str(), list.error().message().c_str());
      parsed.exit_code = kUsageError;
      return parsed;
    }
    options.cores = std::move(*list);
  }
  if (options.wait_for_rpc && !options.config_path.empty()) {
    std::fprintf(stderr,
                 "diskengine-io: --wait-for-rpc and a start-up configuration exclude each other: load it by RPC\n");
    parsed.exit_code = kUsageError;
    return parsed;
  }
  options.log_level = level_from(level, options.notes);
  parsed.run = true;
  return parsed;
}

}  // namespace diskengine::app
