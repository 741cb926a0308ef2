#include "control/cli/offline_data_plane.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>
#include <csignal>

#include <array>
#include <boost/json.hpp>
#include <cerrno>
#include <filesystem>
#include <fstream>

namespace diskengine::control::cli {
namespace {

namespace json = boost::json;

constexpr const char* kProgram = "diskengine-io";
constexpr int64_t kStartLimitMs = 10'000;
constexpr int64_t kEndLimitMs = 10'000;
constexpr int64_t kPollMs = 10;
constexpr int kCallLimitMs = 24 * 3600 * 1000;

// Beside this program, as it is installed and built; else whatever PATH has.
std::string program_path() {
  std::error_code error;
  const std::filesystem::path self = std::filesystem::read_symlink("/proc/self/exe", error);
  const std::filesystem::path beside = self.parent_path() / kProgram;
  return !error && std::filesystem::exists(beside, error) ? beside.string() : kProgram;
}

}  // namespace

Result<std::unique_ptr<OfflineDataPlane>> OfflineDataPlane::start(Environment& environment) {
  std::unique_ptr<OfflineDataPlane> plane(new OfflineDataPlane(environment));
  std::string directory = (std::filesystem::temp_directory_path() / "diskengine-XXXXXX").string();
  if (::mkdtemp(directory.data()) == nullptr) return Error::from_errno(errno, "making the directory " + directory);
  plane->directory_ = directory;
  TRY(plane->spawn_process());
  plane->rpc_ = std::make_unique<client::JsonRpcClient>(
      client::JsonRpcClient::Options{.socket_path = plane->path("rpc.sock"), .timeout_ms = kCallLimitMs});
  TRY(plane->wait_until_it_answers());
  TRY(plane->rpc().call("bdev_set_options", {{"bdev_auto_examine", false}}));
  TRY(plane->rpc().call("framework_start_init", nullptr));
  return plane;
}

Result<void> OfflineDataPlane::spawn_process() {
  std::string program = program_path(), socket = path("rpc.sock");
  std::array<std::string, 4> words{program, "-r", socket, "--wait-for-rpc"};
  std::array<char*, 5> arguments{};
  for (size_t i = 0; i < words.size(); ++i) arguments[i] = words[i].data();
  posix_spawn_file_actions_t files;
  posix_spawn_file_actions_init(&files);
  posix_spawn_file_actions_addopen(&files, STDIN_FILENO, "/dev/null", O_RDONLY, 0);
  posix_spawn_file_actions_addopen(&files, STDOUT_FILENO, path("log").c_str(), O_WRONLY | O_CREAT | O_APPEND, 0600);
  posix_spawn_file_actions_adddup2(&files, STDOUT_FILENO, STDERR_FILENO);
  const int error = posix_spawnp(&process_, program.c_str(), &files, nullptr, arguments.data(), environ);
  posix_spawn_file_actions_destroy(&files);
  if (error == 0) return {};
  process_ = -1;
  if (error == ENOENT)
    return Error(
        Errc::not_found,
        fmt::format("checking a disk offline needs {}, which is neither beside this program nor in PATH", kProgram));
  return Error::from_errno(error, "starting " + program);
}

Result<void> OfflineDataPlane::wait_until_it_answers() {
  const int64_t start_ms = environment_.monotonic_ms();
  for (;;) {
    const Result<json::value> version = rpc_->call("spdk_get_version", nullptr);
    if (version) return {};
    if (has_ended())
      return Error(Errc::unreachable, fmt::format("{} ended instead of starting: {}", kProgram, last_words()));
    if (environment_.monotonic_ms() - start_ms > kStartLimitMs) return version.error();
    environment_.pause_ms(kPollMs);
  }
}

bool OfflineDataPlane::has_ended() {
  if (process_ < 0) return true;
  int status = 0;
  if (::waitpid(process_, &status, WNOHANG) != process_) return false;
  process_ = -1;
  return true;
}

std::string OfflineDataPlane::last_words() const {
  std::ifstream log(path("log"));
  std::string last, line;
  while (std::getline(log, line))
    if (!line.empty()) last = line;
  return last.empty() ? "it said nothing" : last;
}

OfflineDataPlane::~OfflineDataPlane() {
  rpc_.reset();
  if (process_ > 0) ::kill(process_, SIGTERM);
  for (const int64_t start_ms = environment_.monotonic_ms(); !has_ended(); environment_.pause_ms(kPollMs)) {
    if (environment_.monotonic_ms() - start_ms < kEndLimitMs) continue;
    ::kill(process_, SIGKILL);
    ::waitpid(process_, nullptr, 0);
    break;
  }
  std::error_code ignored;
  if (!directory_.empty()) std::filesystem::remove_all(directory_, ignored);
}

}  // namespace diskengine::control::cli
