// How long a cache line takes from one core to the other and back: `core_distance A B` prints nanoseconds. A virtual
// machine's cores are moved by its host, next to each other or apart, and everything between two processes costs up to
// three times as much while they are apart.
#include <pthread.h>
#include <sched.h>

#include <atomic>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <thread>

namespace {

constexpr int kRounds = 20'000;

alignas(128) std::atomic<int> turn{0};

bool pin(int core) {
  cpu_set_t set;
  CPU_ZERO(&set);
  CPU_SET(core, &set);
  return pthread_setaffinity_np(pthread_self(), sizeof set, &set) == 0;
}

// Takes every second turn, beginning with `first`.
void play(int first) {
  for (int i = first; i < 2 * kRounds; i += 2) {
    while (turn.load(std::memory_order_acquire) != i) {
    }
    turn.store(i + 1, std::memory_order_release);
  }
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 3) {
    std::fprintf(stderr, "usage: core_distance CORE CORE\n");
    return 2;
  }
  std::atomic<bool> pinned{true};
  std::thread other([&] {
    pinned = pin(std::atoi(argv[2]));
    play(1);
  });
  const bool here = pin(std::atoi(argv[1]));
  const auto began = std::chrono::steady_clock::now();
  play(0);
  other.join();
  const auto took = std::chrono::steady_clock::now() - began;
  if (!here || !pinned) {
    std::fprintf(stderr, "core_distance: cannot run on cores %s and %s\n", argv[1], argv[2]);
    return 1;
  }
  std::printf("%.0f\n", std::chrono::duration<double, std::nano>(took).count() / kRounds);
}
