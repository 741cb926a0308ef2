// Load on a vhost-user-blk socket without a guest: random or sequential reads or writes at a fixed queue depth, from
// one polling thread. Prints one line of JSON.
//
//   vhost_load --socket PATH [--rw randread|randwrite|read|write] [--bs BYTES] [--qd N] [--seconds S] [--queues N]
//              [--sleep [--deaf-after S] [--mute-after S]]
//
// --sleep waits for the back end's calls instead of polling, as a guest does. For tests of what then goes wrong: from
// --deaf-after on, the back end's calls do not arrive; from --mute-after on, its kicks do not.
#include <sys/eventfd.h>
#include <sys/resource.h>
#include <unistd.h>
#include <ctime>

#include <CLI/CLI.hpp>
#include <cstdio>
#include <string>
#include <vector>

#include "base/histogram.h"
#include "base/unique_fd.h"
#include "client/vhost_frontend.h"

namespace {

using diskengine::Histogram;
using diskengine::client::VhostCompletion;
using diskengine::client::VhostDriverQueue;
using diskengine::client::VhostFrontend;
using diskengine::spec::VirtioBlkType;

constexpr unsigned kPrecisionBits = 7;  // quantiles to within 1 %
constexpr int kWaitMs = 60'000;

struct Options {
  std::string socket;
  std::string rw = "randread";
  uint32_t block_bytes = 4096;
  unsigned depth = 1;
  double seconds = 2;
  double warm_up_seconds = 0.2;
  unsigned queues = 1;
  bool sleep = false;
  double deaf_after_seconds = 0;  // 0: never
  double mute_after_seconds = 0;
};

uint64_t now_ns() {
  timespec now{};
  clock_gettime(CLOCK_MONOTONIC, &now);
  return static_cast<uint64_t>(now.tv_sec) * 1'000'000'000u + static_cast<uint64_t>(now.tv_nsec);
}

uint64_t cpu_ns() {
  timespec now{};
  clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &now);
  return static_cast<uint64_t>(now.tv_sec) * 1'000'000'000u + static_cast<uint64_t>(now.tv_nsec);
}

// The next place to read or write, in blocks.
class Places {
 public:
  Places(bool random, uint64_t blocks) : random_(random), blocks_(blocks) {}
  uint64_t next() noexcept {
    if (!random_) return at_++ % blocks_;
    state_ ^= state_ << 13;
    state_ ^= state_ >> 7;
    state_ ^= state_ << 17;
    return static_cast<uint64_t>((static_cast<unsigned __int128>(state_) * blocks_) >> 64);
  }

 private:
  bool random_;
  uint64_t blocks_;
  uint64_t at_ = 0;
  uint64_t state_ = 0x9e3779b97f4a7c15;
};

struct Outcome {
  uint64_t requests = 0;
  uint64_t errors = 0;
  uint64_t elapsed_ns = 0;
  uint64_t cpu_ns = 0;
  uint64_t kicks = 0;
  Histogram latency{kPrecisionBits};
};

class Load {
 public:
  Load(VhostFrontend& disk, const Options& options)
      : disk_(disk),
        options_(options),
        write_(options.rw == "randwrite" || options.rw == "write"),
        places_(options.rw.starts_with("rand"), disk.config().capacity * 512 / options.block_bytes) {}

  // Runs for the warm-up and the time asked for; counts what completes in the latter.
  bool run(Outcome& outcome) {
    for (unsigned i = 0; i < options_.depth * options_.queues; ++i) submit(i / options_.depth, i);
    started_ns_ = now_ns();
    const uint64_t begin = now_ns() + seconds(options_.warm_up_seconds);
    const uint64_t end = begin + seconds(options_.seconds);
    bool counting = false;
    uint64_t started = 0;
    uint64_t cpu = 0;
    uint64_t kicks = 0;
    for (;;) {
      const uint64_t now = now_ns();
      if (!counting && now >= begin) {
        counting = true;
        started = now;
        cpu = cpu_ns();
        kicks = all_kicks();
      }
      if (counting && now >= end) {
        outcome.elapsed_ns = now - started;
        outcome.cpu_ns = cpu_ns() - cpu;
        outcome.kicks = all_kicks() - kicks;
        return drain();
      }
      misbehave(now);
      for (unsigned queue = 0; queue < options_.queues; ++queue)
        if (!turn(queue, now, counting ? &outcome : nullptr)) return false;
    }
  }

 private:
  static uint64_t seconds(double count) { return static_cast<uint64_t>(count * 1e9); }

  bool is_due(double after_seconds, uint64_t now) const {
    return after_seconds > 0 && now - started_ns_ >= seconds(after_seconds);
  }

  // Puts descriptors that lead nowhere in place of those of the first queue, once.
  void misbehave(uint64_t now) {
    if (!deaf_ && is_due(options_.deaf_after_seconds, now)) {
      deaf_ = true;
      lead_nowhere(disk_.queue(0).call_fd());
    }
    if (!mute_ && is_due(options_.mute_after_seconds, now)) {
      mute_ = true;
      // Until the back end sleeps: while it polls it needs no kick.
      const timespec pause{0, 50'000'000};
      nanosleep(&pause, nullptr);
      lead_nowhere(disk_.queue(0).kick_fd());
    }
  }

  static void lead_nowhere(int fd) {
    const diskengine::UniqueFd nowhere(eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
    dup2(nowhere.get(), fd);
  }

  void submit(unsigned queue, unsigned slot) {
    uint8_t* data = disk_.data() + uint64_t{slot} * options_.block_bytes;
    const uint64_t sector = places_.next() * (options_.block_bytes / 512);
    submitted_.resize(options_.depth * options_.queues);
    submitted_[slot] = now_ns();
    disk_.queue(queue).submit(
        {write_ ? VirtioBlkType::out : VirtioBlkType::in, sector, data, options_.block_bytes, slot});
  }

  bool turn(unsigned index, uint64_t now, Outcome* outcome) {
    VhostDriverQueue& queue = disk_.queue(index);
    queue.kick();
    VhostCompletion done[128];
    const unsigned count = queue.reap(done);
    if (count == 0 && options_.sleep && options_.queues == 1 && !queue.wait(kWaitMs)) {
      std::fprintf(stderr, "vhost_load: no completion for %d ms\n", kWaitMs);
      return false;
    }
    if (count > 0) now = now_ns();
    for (unsigned i = 0; i < count; ++i) {
      const auto slot = static_cast<unsigned>(done[i].tag);
      if (outcome != nullptr) {
        ++outcome->requests;
        outcome->errors += done[i].status != 0 ? 1 : 0;
        outcome->latency.record(now - submitted_[slot]);
      }
      submit(index, slot);
    }
    return true;
  }

  bool drain() {
    const uint64_t limit = now_ns() + seconds(10);
    VhostCompletion done[128];
    for (unsigned index = 0; index < options_.queues; ++index) {
      disk_.queue(index).kick();
      while (disk_.queue(index).outstanding() > 0) {
        disk_.queue(index).reap(done);
        if (now_ns() > limit) return false;
      }
    }
    return true;
  }

  uint64_t all_kicks() {
    uint64_t sum = 0;
    for (unsigned queue = 0; queue < options_.queues; ++queue) sum += disk_.queue(queue).kicks();
    return sum;
  }

  VhostFrontend& disk_;
  const Options& options_;
  const bool write_;
  Places places_;
  std::vector<uint64_t> submitted_;
  uint64_t started_ns_ = 0;
  bool deaf_ = false;
  bool mute_ = false;
};

void print(const Options& options, const Outcome& outcome) {
  const double elapsed = static_cast<double>(outcome.elapsed_ns) / 1e9;
  const auto requests = static_cast<double>(outcome.requests);
  const auto us = [&outcome](double fraction) { return static_cast<double>(outcome.latency.quantile(fraction)) / 1e3; };
  std::printf(
      "{\"rw\":\"%s\",\"bs\":%u,\"qd\":%u,\"queues\":%u,\"iops\":%.0f,\"mib_per_s\":%.1f,\"p50_us\":%.2f,"
      "\"p99_us\":%.2f,\"p999_us\":%.2f,\"errors\":%llu,\"kicks_per_io\":%.4f,\"client_cpu_us_per_io\":%.3f}\n",
      options.rw.c_str(), options.block_bytes, options.depth, options.queues, requests / elapsed,
      requests * options.block_bytes / elapsed / (1 << 20), us(0.5), us(0.99), us(0.999),
      static_cast<unsigned long long>(outcome.errors),
      requests > 0 ? static_cast<double>(outcome.kicks) / requests : 0.0,
      requests > 0 ? static_cast<double>(outcome.cpu_ns) / 1e3 / requests : 0.0);
}

int fail(const std::string& why) {
  std::fprintf(stderr, "vhost_load: %s\n", why.c_str());
  return 1;
}

}  // namespace

int main(int argc, char** argv) {
  Options options;
  CLI::App cli("Load on a vhost-user-blk socket", "vhost_load");
  cli.add_option("--socket", options.socket, "the controller's socket")->required();
  cli.add_option("--rw", options.rw, "kind of load")->check(CLI::IsMember({"randread", "randwrite", "read", "write"}));
  cli.add_option("--bs", options.block_bytes, "bytes of a request")->check(CLI::Range(512, 8 << 20));
  cli.add_option("--qd", options.depth, "requests in flight on each queue")->check(CLI::Range(1, 512));
  cli.add_option("--seconds", options.seconds, "how long to measure")->check(CLI::Range(0.1, 3600.0));
  cli.add_option("--queues", options.queues, "virtqueues")->check(CLI::Range(1, 64));
  cli.add_flag("--sleep", options.sleep, "wait for calls instead of polling; with one queue");
  cli.add_option("--deaf-after", options.deaf_after_seconds, "with --sleep: lose the back end's calls after so long");
  cli.add_option("--mute-after", options.mute_after_seconds, "with --sleep: lose the kicks after so long");
  CLI11_PARSE(cli, argc, argv);
  if (options.block_bytes % 512 != 0) return fail("--bs is not a multiple of 512");

  VhostFrontend::Options connection;
  connection.socket_path = options.socket;
  connection.queues = options.queues;
  connection.queue_size = 4;
  while (connection.queue_size < options.depth)
    connection.queue_size = static_cast<uint16_t>(connection.queue_size * 2);
  connection.data_bytes = uint64_t{options.block_bytes} * options.depth * options.queues;
  auto disk = VhostFrontend::connect(connection);
  if (!disk) return fail(disk.error().message());
  if ((*disk)->config().capacity * 512 < options.block_bytes) return fail("the disk is smaller than one request");
  Outcome outcome;
  if (!Load(**disk, options).run(outcome)) return fail("requests stay unanswered");
  print(options, outcome);
  return outcome.errors == 0 ? 0 : 1;
}
