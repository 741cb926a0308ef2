// A wall clock that jumps, for one process: preloaded (LD_PRELOAD), it adds the offset that the file named by
// DISKENGINE_CLOCK_FILE holds, an int64 of nanoseconds, to whatever asks for the time of day. A write to the file is a
// jump, at once and for every process that has it. The monotonic clock never jumps, as on a real machine.
//
// What waits until a time of day is not covered (it would have to wake when the clock is set); none of our programs
// does.
//
// Any thread; nothing here allocates or blocks after the first call.
#include <dlfcn.h>
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/time.h>
#include <unistd.h>

#include <atomic>
#include <cstdint>
#include <cstdlib>
#include <ctime>

namespace {

constexpr int64_t kSecondNs = 1'000'000'000;
constexpr int64_t kMicrosecondNs = 1'000;

// Stays mapped for the life of the process; null without a file.
const std::atomic<int64_t>* map_offset() noexcept {
  const char* path = std::getenv("DISKENGINE_CLOCK_FILE");
  if (path == nullptr) return nullptr;
  const int fd = open(path, O_RDONLY | O_CLOEXEC);
  if (fd < 0) return nullptr;
  void* memory = mmap(nullptr, sizeof(int64_t), PROT_READ, MAP_SHARED, fd, 0);
  close(fd);
  return memory == MAP_FAILED ? nullptr : static_cast<const std::atomic<int64_t>*>(memory);
}

int real_clock_gettime(clockid_t clock, timespec* time) noexcept {
  using Function = int (*)(clockid_t, timespec*);
  static const auto real = reinterpret_cast<Function>(dlsym(RTLD_NEXT, "clock_gettime"));
  return real(clock, time);
}

int64_t jumped_ns(clockid_t clock) noexcept {
  static const std::atomic<int64_t>* const offset = map_offset();
  timespec now{};
  real_clock_gettime(clock, &now);
  return now.tv_sec * kSecondNs + now.tv_nsec + (offset != nullptr ? offset->load(std::memory_order_relaxed) : 0);
}

}  // namespace

extern "C" {

int clock_gettime(clockid_t clock, timespec* time) noexcept {
  if (clock != CLOCK_REALTIME && clock != CLOCK_REALTIME_COARSE) return real_clock_gettime(clock, time);
  const int64_t now = jumped_ns(clock);
  *time = {.tv_sec = now / kSecondNs, .tv_nsec = now % kSecondNs};
  return 0;
}

int gettimeofday(timeval* time, void* /*zone*/) noexcept {
  const int64_t now = jumped_ns(CLOCK_REALTIME);
  *time = {.tv_sec = now / kSecondNs, .tv_usec = now % kSecondNs / kMicrosecondNs};
  return 0;
}

time_t time(time_t* out) noexcept {
  const time_t seconds = jumped_ns(CLOCK_REALTIME) / kSecondNs;
  if (out != nullptr) *out = seconds;
  return seconds;
}
}
