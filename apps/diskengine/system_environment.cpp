#include "system_environment.h"

#include <sys/random.h>
#include <unistd.h>

#include <cerrno>
#include <chrono>
#include <filesystem>
#include <fstream>
#include <sstream>
#include <thread>

#include "base/assert.h"

namespace diskengine {
namespace {

template <typename TimePoint>
int64_t milliseconds_of(TimePoint time) {
  return std::chrono::duration_cast<std::chrono::milliseconds>(time.time_since_epoch()).count();
}

std::string first_line(const std::string& path) {
  std::ifstream file(path);
  std::string line;
  std::getline(file, line);
  return line;
}

// What a process id means: the boot of the kernel, and the namespace that it counts in.
std::string process_space() {
  std::error_code error;
  const std::string pid_namespace = std::filesystem::read_symlink("/proc/self/ns/pid", error).string();
  return first_line("/proc/sys/kernel/random/boot_id") + " " + pid_namespace;
}

// When the process began, in the kernel's ticks; empty when there is none, or only its remains.
std::string start_of(const std::string& pid) {
  const std::string stat = first_line("/proc/" + pid + "/stat");
  const size_t name_end = stat.rfind(')');
  if (name_end == std::string::npos) return {};
  std::istringstream fields(stat.substr(name_end + 1));
  std::string field;
  constexpr int kState = 3;
  constexpr int kStart = 22;
  for (int number = kState; number <= kStart && fields >> field; ++number)
    if (number == kState && (field == "Z" || field == "X")) return {};
  return field;
}

}  // namespace

int64_t SystemEnvironment::unix_ms() const { return milliseconds_of(std::chrono::system_clock::now()); }
int64_t SystemEnvironment::monotonic_ms() const { return milliseconds_of(std::chrono::steady_clock::now()); }

uint64_t SystemEnvironment::random() {
  uint64_t bits = 0;
  ssize_t got = 0;
  do got = ::getrandom(&bits, sizeof(bits), 0);
  while (got < 0 && errno == EINTR);
  DE_ASSERT(got == sizeof(bits));
  return bits;
}

// "pid 17 on host;17;<start>;<boot and namespace>"
std::string SystemEnvironment::process_identity() const {
  char host[256] = {};
  ::gethostname(host, sizeof host - 1);
  const std::string pid = std::to_string(::getpid());
  return "pid " + pid + " on " + host + ";" + pid + ";" + start_of(pid) + ";" + process_space();
}

bool SystemEnvironment::has_ended(const std::string& process_identity) const {
  std::istringstream parts(process_identity);
  std::string shown, pid, start, space;
  std::getline(parts, shown, ';');
  std::getline(parts, pid, ';');
  std::getline(parts, start, ';');
  std::getline(parts, space);
  const bool is_pid = !pid.empty() && pid.find_first_not_of("0123456789") == std::string::npos;
  return is_pid && !start.empty() && space == process_space() && start_of(pid) != start;
}

void SystemEnvironment::pause_ms(int64_t ms) { std::this_thread::sleep_for(std::chrono::milliseconds(ms)); }

}  // namespace diskengine
