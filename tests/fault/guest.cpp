// A guest for fault tests, without a virtual machine: writes and reads random blocks of a vhost-user-blk disk, holds
// every read against what was acknowledged before (record.h), and reconnects as a hypervisor does when its back end
// was restarted, with its requests still in the rings.
//
//   fault_guest --socket PATH --record FILE --blocks N [--first B] [--stride S] [--zero-blocks Z] [--epoch E]
//               [--writer W] [--depth D] [--seed S] [--verify]
//
// Runs until SIGTERM (or SIGINT, after which it waits for nothing); --verify reads every block once instead. With
// --zero-blocks a few of its operations are flushes, and zeroings (that may unmap) of so many blocks in a row with what
// lies between them. The end is one line of JSON, with the monotonic time of each error; exit code 0, or 3 when a read
// was wrong, which is said at once.
#include <poll.h>
#include <csignal>
#include <ctime>

#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <cstdio>
#include <cstring>
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
constexpr unsigned kRareOneIn = 50;  // operations that are a flush or a zeroing
constexpr uint64_t kAfterErrorNs =
    20'000'000;  // before the next operation begins: errors may come as fast as asked for
constexpr size_t kErrorsListedMax = 2'000;
constexpr int kExitWrong = 3;

volatile sig_atomic_t is_ending = 0;
volatile sig_atomic_t is_patient = 1;  // waits for what is under way
void on_signal(int number) {
  is_ending = 1;
  if (number == SIGINT) is_patient = 0;
}

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
  uint64_t stride = 1;       // from one block that is used to the next
  uint64_t zero_blocks = 0;  // 0: no zeroing and no flush
  uint64_t epoch = 1;
  uint64_t writer = 1;
  unsigned depth = 4;
  uint64_t seed = 1;
  bool verify = false;
};

enum class Kind { read, write, zero, flush };

struct Operation {
  bool is_busy = false;
  Kind kind = Kind::read;
  uint64_t block = 0;   // the first
  uint64_t blocks = 1;  // 0: a flush
  std::vector<uint64_t> sequences;
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
      if (drain_until != 0 && (now_ns() > drain_until || !is_patient)) break;
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
    if (now_ns() < pause_until_ns_) return;
    for (size_t slot = 0; slot < operations_.size(); ++slot) {
      Operation& operation = operations_[slot];
      if (operation.is_busy) continue;
      if (options_.verify) {
        if (next_to_verify_ == options_.blocks) return;
        operation.block = options_.first + next_to_verify_++;
      } else {
        choose(operation);
        if (!is_free(operation)) continue;
      }
      start(slot);
    }
  }

  void choose(Operation& operation) {
    operation.blocks = 1;
    operation.block = options_.first + random() % options_.blocks;
    operation.kind = random() % 10 < kWritesOfTen ? Kind::write : Kind::read;
    if (options_.zero_blocks == 0 || random() % kRareOneIn != 0) return;
    operation.kind = random() % 2 == 0 ? Kind::zero : Kind::flush;
    operation.blocks = operation.kind == Kind::zero ? options_.zero_blocks : 0;
    operation.block = options_.first + random() % (options_.blocks / options_.zero_blocks) * options_.zero_blocks;
  }

  bool is_free(const Operation& operation) const {
    const auto first = is_used_.begin() + static_cast<ptrdiff_t>(operation.block);
    return std::none_of(first, first + static_cast<ptrdiff_t>(operation.blocks), [](bool is_used) { return is_used; });
  }

  void mark_used(const Operation& operation, bool is_used) {
    for (uint64_t i = 0; i < operation.blocks; ++i) is_used_[operation.block + i] = is_used;
  }

  // The operation of this slot was chosen.
  void start(size_t slot) {
    Operation& operation = operations_[slot];
    operation.is_busy = true;
    operation.began_ns = now_ns();
    operation.sequences.clear();
    const uint64_t sector = operation.block * options_.stride * fault::kSectorsPerBlock;
    client::VhostIo io{VirtioBlkType::in, sector, data_of(slot), fault::kBlockBytes, slot};
    switch (operation.kind) {
      case Kind::read:
        break;
      case Kind::write:
        io.type = VirtioBlkType::out;
        operation.sequences.push_back(record_.begin_write(operation.block, options_.epoch));
        fill(data_of(slot), sector, operation.sequences[0]);
        break;
      case Kind::zero: {
        io.type = VirtioBlkType::write_zeroes;
        for (uint64_t i = 0; i < operation.blocks; ++i)
          operation.sequences.push_back(record_.begin_zeroing(operation.block + i, options_.epoch));
        const uint64_t sectors = operation.blocks * options_.stride * fault::kSectorsPerBlock;
        const spec::VirtioBlkRange range{sector, static_cast<uint32_t>(sectors), spec::kVirtioBlkRangeUnmap};
        std::memcpy(io.data, &range, sizeof range);
        io.bytes = sizeof range;
        io.sector = 0;
        break;
      }
      case Kind::flush:
        io = {VirtioBlkType::flush, 0, nullptr, 0, slot};
        break;
    }
    mark_used(operation, true);
    ++busy_;
    disk_->queue(0).submit(io);
  }

  void fill(uint8_t* data, uint64_t sector, uint64_t sequence) const {
    for (uint32_t i = 0; i < fault::kSectorsPerBlock; ++i)
      fault::fill_sector(data + size_t{i} * fault::kSectorBytes, {.magic = 0,
                                                                  .writer = options_.writer,
                                                                  .epoch = options_.epoch,
                                                                  .sequence = sequence,
                                                                  .sector = sector + i,
                                                                  .crc = 0,
                                                                  .reserved = 0});
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
    mark_used(operation, false);
    --busy_;
    const uint64_t now = now_ns();
    longest_ns_ = std::max(longest_ns_, now - operation.began_ns);
    if (!is_ok) {
      if (errors_ns_.size() < kErrorsListedMax) errors_ns_.push_back(now);
      ++errors_;
      pause_until_ns_ = now + kAfterErrorNs;
      return;
    }
    if (operation.kind == Kind::read) {
      ++reads_;
      if (record_.is_over(options_.epoch)) return;  // a writer that was cut off may read what is old
      wrong_ = record_.check_read(operation.block, operation.block * options_.stride, data_of(slot));
      return;
    }
    ++(operation.kind == Kind::flush ? flushes_ : operation.kind == Kind::zero ? zeroings_ : writes_);
    for (size_t i = 0; i < operation.sequences.size(); ++i)
      record_.acknowledged(operation.block + i, operation.sequences[i], options_.epoch);
  }

  int finish() {
    if (!wrong_.empty()) std::fprintf(stderr, "fault_guest: %s\n", wrong_.c_str());
    std::printf(
        "{\"writes\":%llu,\"zeroings\":%llu,\"flushes\":%llu,\"reads\":%llu,\"errors\":%llu,\"errors_ns\":[%s],"
        "\"unanswered\":%u,\"reconnects\":%u,\"longest_ms\":%.1f,\"wrong\":%s,\"epochs\":%s}\n",
        static_cast<unsigned long long>(writes_), static_cast<unsigned long long>(zeroings_),
        static_cast<unsigned long long>(flushes_), static_cast<unsigned long long>(reads_),
        static_cast<unsigned long long>(errors_), fmt::format("{}", fmt::join(errors_ns_, ",")).c_str(), busy_,
        reconnects_, static_cast<double>(longest_ns_) / 1e6, wrong_.empty() ? "false" : "true",
        record_.epochs_json().c_str());
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
  uint64_t pause_until_ns_ = 0;
  uint64_t writes_ = 0;
  uint64_t zeroings_ = 0;
  uint64_t flushes_ = 0;
  uint64_t reads_ = 0;
  uint64_t errors_ = 0;
  std::vector<uint64_t> errors_ns_;  // when, the first kErrorsListedMax
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
  cli.add_option("--stride", options.stride, "from one block that is used to the next, in blocks")
      ->check(CLI::Range(1, 1 << 12));
  cli.add_option("--zero-blocks", options.zero_blocks, "blocks that a zeroing covers; with it there are flushes too");
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
