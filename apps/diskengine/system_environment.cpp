#include "system_environment.h"

#include <sys/random.h>

#include <cerrno>
#include <chrono>
#include <thread>

#include "base/assert.h"

namespace diskengine {
namespace {

template <typename TimePoint>
int64_t milliseconds_of(TimePoint time) {
  return std::chrono::duration_cast<std::chrono::milliseconds>(time.time_since_epoch()).count();
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

void SystemEnvironment::pause_ms(int64_t ms) { std::this_thread::sleep_for(std::chrono::milliseconds(ms)); }

}  // namespace diskengine
