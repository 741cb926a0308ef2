// Decides which I/Os of one reactor are traced, keeps what they did, and sums it up: stage histograms for each root
// (a volume at its vhost controller, a namespace at the target), the slow ones with all their visits, and the last
// ones.
//
//   Input: begin() by the layer where an I/O starts. Output: Root histograms, slow(), recent().
//
// Sampling: while I/Os are few all are traced; beyond Options::budget_per_s one in Options::sample_every, and some more
// right after an I/O that was slow and not traced. Off, an I/O costs one decrement.
//
// Threads: all on its reactor. Created before the first I/O; what is allocated is allocated then, and by open_root().
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "base/histogram.h"
#include "base/list.h"
#include "runtime/reactor.h"
#include "trace/stages.h"
#include "trace/trace.h"

namespace diskengine::trace {

struct Options {
  bool enabled = true;
  uint32_t sample_every = 512;   // beyond the budget
  uint32_t budget_per_s = 2000;  // of each reactor
};

// Where traces start. Shared by the queues of a reactor that serve the same device.
struct Root {
  Root(std::string n, Layer l);

  const std::string name;  // of the device
  const Layer layer;
  std::array<Histogram, kStages> stages;  // ticks
  Histogram total;
  uint64_t traced = 0;
  uint64_t slow = 0;           // traced ones over the threshold
  uint64_t slow_untraced = 0;  // the others
  // Ticks above which an I/O counts as slow: some times what nearly all lately took. UINT64_MAX: not known yet.
  uint64_t slow_ticks = UINT64_MAX;

  // For the threshold: what was seen since it was last set.
  Histogram lately;
  uint32_t lately_count = 0;
  uint32_t users = 0;
};

class Recorder {
 public:
  static constexpr size_t kTraces = 512;     // under way and kept, together
  static constexpr size_t kSlowKept = 128;   // the newest
  static constexpr size_t kRootsMax = 4096;  // further ones are not traced

  Recorder(Reactor& reactor, const Options& options);
  ~Recorder();
  Recorder(const Recorder&) = delete;
  Recorder& operator=(const Recorder&) = delete;

  void set_options(const Options& options) noexcept;
  const Options& options() const noexcept { return options_; }

  // nullptr when there are too many. Given back as often as it was opened; its sums end with the last.
  Root* open_root(std::string_view name, Layer layer);
  void close_root(Root* root);

  // The first visit of an I/O that just started if it is to be traced, else nullptr. `root` may be null.
  Visit* begin(Root* root, uint8_t op, uint64_t lba, uint64_t blocks) noexcept {
    if (--countdown_ != 0) [[likely]]
      return nullptr;
    return sample(root, op, lba, blocks);
  }
  // An I/O that was not traced took so many ticks.
  void ended_untraced(Root* root, uint64_t took_ticks) noexcept {
    if (root != nullptr && took_ticks > root->slow_ticks) [[unlikely]]
      missed(*root);
  }
  // By Visit::leave: the last one has left.
  void end(Trace& trace) noexcept;

  // --- For those who ask, in messages to the reactor
  void for_each_root(const std::function<void(const Root&)>& visit) const;
  // The newest last.
  void for_each_slow(const std::function<void(const Trace&)>& visit) const;
  // Traces that ended lately and have not been reused, the newest last.
  void for_each_recent(const std::function<void(const Trace&)>& visit);
  void reset();
  uint64_t not_recorded() const noexcept { return not_recorded_; }  // all of the pool was under way

 private:
  static constexpr uint32_t kRefillsPerSecond = 10;
  static constexpr uint32_t kThresholdTraces = 256;
  static constexpr unsigned kSlowFactor = 4;
  static constexpr uint32_t kBoostEvery = 4;
  static constexpr uint32_t kBoostTraces = 500;  // at most once a second

  Visit* sample(Root* root, uint8_t op, uint64_t lba, uint64_t blocks) noexcept;
  uint64_t next_countdown() noexcept;
  void missed(Root& root) noexcept;
  void learn(Root& root, uint64_t took) noexcept;

  Reactor& reactor_;
  Options options_;
  uint64_t countdown_ = 1;
  uint64_t tokens_ = 0;
  uint64_t refill_at_ = 0;       // ticks
  uint64_t boost_again_at_ = 0;  // ticks
  uint32_t boost_left_ = 0;      // traces
  uint64_t not_recorded_ = 0;

  std::vector<Trace> traces_;
  List<Trace> free_;  // those that ended longest ago first
  std::vector<Trace> slow_memory_;
  size_t slow_next_ = 0;
  std::vector<std::unique_ptr<Root>> roots_;
};

// Copies what fits, with a zero at the end.
template <size_t N>
void copy_text(std::array<char, N>& to, std::string_view from) noexcept {
  const size_t length = from.size() < N - 1 ? from.size() : N - 1;
  from.copy(to.data(), length);
  to[length] = 0;
}

}  // namespace diskengine::trace
