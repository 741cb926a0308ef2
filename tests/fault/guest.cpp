// A guest for fault tests, without a virtual machine: writes and reads random blocks of a vhost-user-blk disk, holds
// every read against what was acknowledged before (record.h), and reconnects as a hypervisor does when its back end
// was restarted, with its requests still in the rings.
//
//   fault_guest --socket PATH --record FILE --blocks N [--first B] [--epoch E] [--writer W] [--depth D] [--seed S]
//               [--verify]
//
// Runs until SIGTERM; --verify reads every block once instead. The end is one line of JSON; exit code 0, or 3 when a
// read was wrong, which is said at once.
#include <poll.h>
#include <csignal>
#include <ctime>

#include <CLI/CLI.hpp>
#include <cstdio>
#include <cstring>
#include <deque>
#include <string>
#include <vector>

#include "client/vhost_frontend.h"
#include "record.h"

namespace {

using namespace diskengine;  // NOLINT(google-build-using-namespace): a program of one file
using client::VhostCompletion;
using client::VhostFrontend;
using spec::VirtioBlkType;

constexpr int kWaitMs = 20;
constexpr uint64_t kRetryNs = 50'000'000;      // between tries to connect
constexpr uint64_t kDrainNs = 30'000'000'000;  // for what is under way at the end
constexpr unsigned kWritesOfTen = 6;
constexpr int kExitWrong = 3;

volatile sig_atomic_t is_ending = 0;
void on_signal(int) { is_ending = 1; }

uint64_t now_ns() {
  timespec now{};
  clock_gettime(CLOCK_MONOTONIC, &now);
  return static_cast<uint64_t>(now.tv_sec) * 1'000'000'000 + static_cast<uint64_t>(now.tv_nsec);
}

struct Options {
  std::string socket;
  std::string record;
  uint64_t first = 0;
  uint64_t blocks = 0;
  uint64_t epoch = 1;
  uint64_t writer = 1;
  unsigned depth = 4;
  uint64_t seed = 1;
  bool verify = false;
};

struct Operation {
  bool is_busy = false;
  bool is_write = false;
  uint64_t block = 0;
  uint64_t sequence = 0;
  uint64_t began_ns = 0;
};

class Guest {
 public:
  Guest(const Options& options, fault::Record record)
      : options_(options),
        record_(std::move(record)),
        operations_(options.depth),
        is_used_(options.first + options.blocks) {
    state_ = options.seed * 0x9e3779b97f4a7c15 + 1;
  }

  int run() {
    while (!connect())
      if (is_ending) return finish();
    record_.enter(options_.epoch);
    uint64_t drain_until = 0;
    while (wrong_.empty()) {
      if (is_ending && drain_until == 0) drain_until = now_ns() + kDrainNs;
      const bool is_over = is_ending || (options_.verify && next_to_verify_ == options_.blocks);
      if (!is_over) start_operations();
      if (is_over && busy_ == 0) break;
      if (drain_until != 0 && now_ns() > drain_until) break;
      turn();
    }
    return finish();
  }

 private:
  uint64_t random() {
    state_ ^= state_ << 13;
    state_ ^= state_ >> 7;
    state_ ^= state_ << 17;
    return state_;
  }

  uint8_t* data_of(size_t slot) { return disk_->data() + slot * fault::kBlockBytes; }

  // One try, with a pause before the next.
  bool connect() {
    if (now_ns() < retry_at_ns_) {
      poll(nullptr, 0, kWaitMs);
      return false;
    }
    retry_at_ns_ = now_ns() + kRetryNs;
    if (disk_ != nullptr) {
      is_connected_ = disk_->reconnect().has_value();
      reconnects_ += is_connected_ ? 1 : 0;
      return is_connected_;
    }
    VhostFrontend::Options connection;
    connection.socket_path = options_.socket;
    connection.queue_size = 64;
    connection.data_bytes = size_t{fault::kBlockBytes} * options_.depth;
    connection.timeout_ms = 2'000;
    auto disk = VhostFrontend::connect(connection);
    if (!disk) return false;
    disk_ = std::move(*disk);
    return is_connected_ = true;
  }

  // Nobody listens on the other end any more.
  bool is_gone() {
    pollfd wait{.fd = disk_->socket().fd(), .events = POLLRDHUP, .revents = 0};
    return wait.fd < 0 || (poll(&wait, 1, 0) > 0 && (wait.revents & (POLLRDHUP | POLLHUP | POLLERR)) != 0);
  }

  void start_operations() {
    for (size_t slot = 0; slot < operations_.size(); ++slot) {
      if (operations_[slot].is_busy) continue;
      uint64_t block = 0;
      if (options_.verify) {
        if (next_to_verify_ == options_.blocks) return;
        block = options_.first + next_to_verify_++;
      } else {
        block = options_.first + random() % options_.blocks;
        if (is_used_[block]) continue;
      }
      start(slot, block);
    }
  }

  void start(size_t slot, uint64_t block) {
    Operation& operation = operations_[slot];
    operation = {.is_busy = true,
                 .is_write = !options_.verify && random() % 10 < kWritesOfTen,
                 .block = block,
                 .sequence = 0,
                 .began_ns = now_ns()};
    if (operation.is_write) {
      operation.sequence = record_.begin_write(block);
      for (uint32_t i = 0; i < fault::kSectorsPerBlock; ++i)
        fault::fill_sector(data_of(slot) + size_t{i} * fault::kSectorBytes,
                           {.magic = 0,
                            .writer = options_.writer,
                            .epoch = options_.epoch,
                            .sequence = operation.sequence,
                            .sector = block * fault::kSectorsPerBlock + i,
                            .crc = 0,
                            .reserved = 0});
    }
    is_used_[block] = true;
    ++busy_;
    disk_->queue(0).submit({operation.is_write ? VirtioBlkType::out : VirtioBlkType::in,
                            block * fault::kSectorsPerBlock, data_of(slot), fault::kBlockBytes, slot});
  }

  void turn() {
    if (!is_connected_ || is_gone()) {
      is_connected_ = false;
      connect();
      return;
    }
    disk_->queue(0).kick();
    VhostCompletion done[64];
    unsigned count = disk_->queue(0).reap(done);
    if (count == 0 && disk_->queue(0).wait(kWaitMs)) count = disk_->queue(0).reap(done);
    for (unsigned i = 0; i < count; ++i) complete(done[i].tag, done[i].status == spec::kVirtioBlkOk);
  }

  void complete(size_t slot, bool is_ok) {
    Operation& operation = operations_[slot];
    operation.is_busy = false;
    is_used_[operation.block] = false;
    --busy_;
    longest_ns_ = std::max(longest_ns_, now_ns() - operation.began_ns);
    if (!is_ok) {
      ++errors_;
      return;
    }
    ++(operation.is_write ? writes_ : reads_);
    if (operation.is_write) return record_.acknowledged(operation.block, operation.sequence, options_.epoch);
    if (record_.is_over(options_.epoch)) return;  // a writer that was cut off may read what is old
    wrong_ = record_.check_read(operation.block, data_of(slot));
  }

  int finish() {
    if (!wrong_.empty()) std::fprintf(stderr, "fault_guest: %s\n", wrong_.c_str());
    std::printf(
        "{\"writes\":%llu,\"reads\":%llu,\"errors\":%llu,\"unanswered\":%u,\"reconnects\":%u,\"longest_ms\":%.1f,"
        "\"wrong\":%s,\"epochs\":%s}\n",
        static_cast<unsigned long long>(writes_), static_cast<unsigned long long>(reads_),
        static_cast<unsigned long long>(errors_), busy_, reconnects_, static_cast<double>(longest_ns_) / 1e6,
        wrong_.empty() ? "false" : "true", record_.epochs_json().c_str());
    return wrong_.empty() ? 0 : kExitWrong;
  }

  const Options& options_;
  fault::Record record_;
  std::unique_ptr<VhostFrontend> disk_;
  std::vector<Operation> operations_;
  std::vector<bool> is_used_;  // by block
  bool is_connected_ = false;
  uint64_t retry_at_ns_ = 0;
  uint64_t next_to_verify_ = 0;
  uint64_t state_ = 1;
  unsigned busy_ = 0;
  unsigned reconnects_ = 0;
  uint64_t writes_ = 0;
  uint64_t reads_ = 0;
  uint64_t errors_ = 0;
  uint64_t longest_ns_ = 0;
  std::string wrong_;
};

}  // namespace

int main(int argc, char** argv) {
  Options options;
  CLI::App cli("A guest that knows what it wrote", "fault_guest");
  cli.add_option("--socket", options.socket, "the controller's socket")->required();
  cli.add_option("--record", options.record, "what is known of the volume; shared by its writers")->required();
  cli.add_option("--blocks", options.blocks, "blocks of 4 KiB to use")->required()->check(CLI::Range(1, 1 << 24));
  cli.add_option("--first", options.first, "block to begin with")->check(CLI::Range(0, 1 << 24));
  cli.add_option("--epoch", options.epoch, "of the attachment");
  cli.add_option("--writer", options.writer, "marks what this guest writes");
  cli.add_option("--depth", options.depth, "requests in flight")->check(CLI::Range(1, 32));
  cli.add_option("--seed", options.seed, "of its choices");
  cli.add_flag("--verify", options.verify, "read every block once");
  CLI11_PARSE(cli, argc, argv);
  struct sigaction action {};
  action.sa_handler = on_signal;
  sigaction(SIGTERM, &action, nullptr);
  sigaction(SIGINT, &action, nullptr);
  signal(SIGPIPE, SIG_IGN);
  auto record = fault::Record::open(options.record, options.first + options.blocks);
  if (!record) {
    std::fprintf(stderr, "fault_guest: %s\n", record.error().message().c_str());
    return 1;
  }
  return Guest(options, std::move(*record)).run();
}
