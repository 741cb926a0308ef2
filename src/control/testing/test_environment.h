// Time that only tests move, and randomness from a seed.
#pragma once

#include <atomic>
#include <cstdint>
#include <string>

#include "control/environment.h"

namespace diskengine::control {

class TestEnvironment : public Environment {
 public:
  int64_t unix_ms() const override { return 1'700'000'000'000 + now_ms_; }
  int64_t monotonic_ms() const override { return now_ms_; }
  // splitmix64: any two tests see the same sequence.
  uint64_t random() override {
    uint64_t z = (seed_ += 0x9e3779b97f4a7c15);
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9;
    z = (z ^ (z >> 27)) * 0x94d049bb133111eb;
    return z ^ (z >> 31);
  }
  void pause_ms(int64_t ms) override { now_ms_ += ms; }
  std::string process_identity() const override { return identity; }
  bool has_ended(const std::string& process) const override { return ended == process; }

  std::string identity = "pid 1 on here;1";
  std::string ended;  // the process that is seen to have ended

 private:
  std::atomic<int64_t> now_ms_{0};
  std::atomic<uint64_t> seed_{1};
};

}  // namespace diskengine::control
