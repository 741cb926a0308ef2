// How far a background process is: blocks done, their rate over the last minute, and when it will be done at that rate.
// Main reactor.
#pragma once

#include <array>
#include <cstdint>

namespace diskengine::raid {

class Progress {
 public:
  static constexpr uint64_t kWindowSeconds = 60;

  void start(uint64_t now_ns, uint64_t total_blocks) noexcept {
    total_ = total_blocks;
    done_ = 0;
    samples_ = 0;
    add_sample(now_ns);
  }
  void set_done(uint64_t now_ns, uint64_t done_blocks) noexcept {
    done_ = done_blocks;
    if (now_ns - last().at_ns >= 1'000'000'000) add_sample(now_ns);
  }
  uint64_t done() const noexcept { return done_; }
  uint64_t total() const noexcept { return total_; }
  unsigned percent() const noexcept {
    return total_ == 0 ? 0 : static_cast<unsigned>(static_cast<double>(done_) * 100.0 / static_cast<double>(total_));
  }
  // Blocks a second over the last minute, or since the start if that is later.
  double rate(uint64_t now_ns) const noexcept {
    const Sample& from = samples_ > kWindowSeconds ? ring_[samples_ % ring_.size()] : ring_[0];
    if (now_ns <= from.at_ns || done_ <= from.done) return 0;
    return static_cast<double>(done_ - from.done) * 1e9 / static_cast<double>(now_ns - from.at_ns);
  }
  // Seconds left at that rate, rounded up; UINT64_MAX while nothing moves.
  uint64_t eta_seconds(uint64_t now_ns) const noexcept {
    const double blocks_a_second = rate(now_ns);
    if (blocks_a_second <= 0) return UINT64_MAX;
    return static_cast<uint64_t>(static_cast<double>(total_ - done_) / blocks_a_second + 0.999);
  }

 private:
  struct Sample {
    uint64_t at_ns = 0;
    uint64_t done = 0;
  };
  const Sample& last() const noexcept { return ring_[(samples_ - 1) % ring_.size()]; }
  void add_sample(uint64_t now_ns) noexcept { ring_[samples_++ % ring_.size()] = {now_ns, done_}; }

  std::array<Sample, kWindowSeconds + 1> ring_{};
  uint64_t samples_ = 0;
  uint64_t total_ = 0;
  uint64_t done_ = 0;
};

}  // namespace diskengine::raid
