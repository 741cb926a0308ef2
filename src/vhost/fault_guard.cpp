#include "vhost/fault_guard.h"

#include <fmt/format.h>
#include <signal.h>
#include <sys/mman.h>

#include <array>
#include <cerrno>
#include <utility>

namespace diskengine::vhost {
namespace {

// Read by the signal handler, so all atomics and no lock. A slot is free while `bytes` is 0 and `taken` is false.
struct Range {
  std::atomic<bool> taken{false};
  std::atomic<uintptr_t> base{0};
  std::atomic<size_t> bytes{0};
  std::atomic<bool> faulted{false};
};
std::array<Range, FaultGuard::kRangesMax> ranges;

// Only async-signal-safe calls here.
void on_sigbus(int signal, siginfo_t* info, void*) {
  const int saved_errno = errno;
  const auto address = reinterpret_cast<uintptr_t>(info->si_addr);
  for (Range& range : ranges) {
    const uintptr_t base = range.base.load(std::memory_order_acquire);
    const size_t bytes = range.bytes.load(std::memory_order_acquire);
    if (bytes == 0 || address < base || address - base >= bytes) continue;
    void* zeroes = mmap(reinterpret_cast<void*>(base), bytes, PROT_READ | PROT_WRITE,
                        MAP_FIXED | MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (zeroes == MAP_FAILED) break;
    range.faulted.store(true, std::memory_order_release);
    errno = saved_errno;
    return;
  }
  // Not ours: the same instruction faults again and ends the process in the usual way.
  ::signal(signal, SIG_DFL);
}

}  // namespace

Result<void> FaultGuard::install() {
  struct sigaction action {};
  action.sa_sigaction = on_sigbus;
  action.sa_flags = SA_SIGINFO;
  if (sigaction(SIGBUS, &action, nullptr) != 0) return Error::from_errno(errno, "take over SIGBUS");
  return {};
}

FaultGuard::FaultGuard(FaultGuard&& other) noexcept : slot_(std::exchange(other.slot_, kNone)) {}

FaultGuard::~FaultGuard() {
  if (slot_ == kNone) return;
  Range& range = ranges[slot_];
  range.bytes.store(0, std::memory_order_release);
  range.faulted.store(false, std::memory_order_relaxed);
  range.taken.store(false, std::memory_order_release);
}

Result<FaultGuard> FaultGuard::guard(void* base, size_t bytes) {
  for (size_t slot = 0; slot < ranges.size(); ++slot) {
    Range& range = ranges[slot];
    if (range.taken.load(std::memory_order_relaxed) || range.taken.exchange(true, std::memory_order_acquire)) continue;
    range.base.store(reinterpret_cast<uintptr_t>(base), std::memory_order_release);
    range.bytes.store(bytes, std::memory_order_release);
    return FaultGuard(slot);
  }
  return Error(Errc::no_space, fmt::format("all {} places for regions of guest memory are taken", kRangesMax));
}

bool FaultGuard::faulted() const noexcept {
  return slot_ != kNone && ranges[slot_].faulted.load(std::memory_order_relaxed);
}

}  // namespace diskengine::vhost
