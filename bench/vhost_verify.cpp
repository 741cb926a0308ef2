// Writes marked blocks through a vhost-user-blk socket without a guest, flushes, and reads them back: what a guest
// would find. Each 4096-byte block holds "<seed>, its number, the pass" over and over, so that a stranger finds it on
// the media too. Prints one line of JSON.
//
//   vhost_verify --socket PATH --seed N [--blocks N] [--passes N] [--qd N] [--read-only]
//
// Every pass writes all blocks anew; what is read back at the end has to be of the last one.
#include <CLI/CLI.hpp>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <functional>
#include <string>

#include "client/vhost_frontend.h"

namespace {

using diskengine::client::VhostCompletion;
using diskengine::client::VhostDriverQueue;
using diskengine::client::VhostFrontend;
using diskengine::client::VhostIo;
using diskengine::spec::VirtioBlkType;

constexpr uint32_t kBlockBytes = 4096;
constexpr int kWaitMs = 60'000;

struct Options {
  std::string socket;
  uint64_t seed = 1;
  uint64_t blocks = 1024;
  uint64_t passes = 1;
  unsigned depth = 16;
  bool read_only = false;
};

struct Mark {
  uint64_t seed;
  uint64_t block;
  uint64_t pass;
  uint64_t check;  // of the others
};
static_assert(sizeof(Mark) == 32);

Mark mark_of(uint64_t seed, uint64_t block, uint64_t pass) {
  return {seed, block, pass, seed ^ block * 0x9e3779b97f4a7c15 ^ pass << 32};
}

void fill(uint8_t* data, const Mark& mark) {
  for (uint32_t at = 0; at < kBlockBytes; at += sizeof mark) std::memcpy(data + at, &mark, sizeof mark);
}

bool holds(const uint8_t* data, const Mark& mark) {
  for (uint32_t at = 0; at < kBlockBytes; at += sizeof mark)
    if (std::memcmp(data + at, &mark, sizeof mark) != 0) return false;
  return true;
}

class Verifier {
 public:
  Verifier(VhostFrontend& disk, const Options& options) : disk_(disk), options_(options) {}

  bool write(uint64_t pass) {
    return each(
        VirtioBlkType::out, [&](uint8_t* data, uint64_t block) { fill(data, mark_of(options_.seed, block, pass)); },
        [](uint8_t*, uint64_t) {});
  }
  bool read(uint64_t pass) {
    return each(
        VirtioBlkType::in, [](uint8_t* data, uint64_t) { std::memset(data, 0, kBlockBytes); },
        [&](uint8_t* data, uint64_t block) {
          if (!holds(data, mark_of(options_.seed, block, pass))) ++wrong;
        });
  }
  bool flush() {
    auto status = disk_.run(0, {VirtioBlkType::flush, 0, nullptr, 0, 0});
    return status && *status == 0;
  }

  uint64_t completions = 0;
  uint64_t errors = 0;
  uint64_t wrong = 0;

 private:
  using Visit = std::function<void(uint8_t* data, uint64_t block)>;

  // All blocks, `depth` at a time; false if the back end stops answering.
  bool each(VirtioBlkType type, const Visit& before, const Visit& after) {
    VhostDriverQueue& queue = disk_.queue(0);
    uint64_t next = 0;
    const auto submit = [&](uint64_t slot) {
      uint8_t* const data = disk_.data() + slot * kBlockBytes;
      before(data, next);
      queue.submit({type, next * (kBlockBytes / 512), data, kBlockBytes, slot << 32 | next});
      ++next;
    };
    for (uint64_t slot = 0; slot < options_.depth && next < options_.blocks; ++slot) submit(slot);
    while (queue.outstanding() > 0) {
      queue.kick();
      VhostCompletion done[64];
      const unsigned count = queue.reap(done);
      if (count == 0 && !queue.wait(kWaitMs)) return false;
      for (unsigned i = 0; i < count; ++i) {
        const uint64_t slot = done[i].tag >> 32;
        ++completions;
        errors += done[i].status != 0 ? 1 : 0;
        after(disk_.data() + slot * kBlockBytes, done[i].tag & 0xffffffff);
        if (next < options_.blocks) submit(slot);
      }
    }
    return true;
  }

  VhostFrontend& disk_;
  const Options& options_;
};

int fail(const std::string& why) {
  std::fprintf(stderr, "vhost_verify: %s\n", why.c_str());
  return 1;
}

int run(VhostFrontend& disk, const Options& options) {
  Verifier verifier(disk, options);
  for (uint64_t pass = 1; pass <= options.passes && !options.read_only; ++pass)
    if (!verifier.write(pass)) return fail("writes stay unanswered");
  if (!options.read_only && !verifier.flush()) return fail("the flush failed");
  if (!verifier.read(options.passes)) return fail("reads stay unanswered");
  std::printf("{\"blocks\":%llu,\"completions\":%llu,\"errors\":%llu,\"wrong\":%llu}\n",
              static_cast<unsigned long long>(options.blocks), static_cast<unsigned long long>(verifier.completions),
              static_cast<unsigned long long>(verifier.errors), static_cast<unsigned long long>(verifier.wrong));
  return verifier.errors == 0 && verifier.wrong == 0 ? 0 : 1;
}

}  // namespace

int main(int argc, char** argv) {
  Options options;
  CLI::App cli("Writes and verifies blocks through a vhost-user-blk socket", "vhost_verify");
  cli.add_option("--socket", options.socket, "the controller's socket")->required();
  cli.add_option("--seed", options.seed, "first word of every block")->required();
  cli.add_option("--blocks", options.blocks, "how many, from the start of the disk")->check(CLI::Range(1, 1 << 30));
  cli.add_option("--passes", options.passes, "how often all are written")->check(CLI::Range(1, 1'000'000));
  cli.add_option("--qd", options.depth, "requests in flight")->check(CLI::Range(1, 64));
  cli.add_flag("--read-only", options.read_only, "only look for the last pass");
  CLI11_PARSE(cli, argc, argv);
  VhostFrontend::Options connection;
  connection.socket_path = options.socket;
  connection.data_bytes = uint64_t{kBlockBytes} * options.depth;
  auto disk = VhostFrontend::connect(connection);
  if (!disk) return fail(disk.error().message());
  if ((*disk)->config().capacity * 512 / kBlockBytes < options.blocks) return fail("the disk has fewer blocks");
  return run(**disk, options);
}
