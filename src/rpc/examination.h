// Whether devices are being looked at for what stands on them (superblocks, lvol stores). What is found makes devices
// of its own, which are looked at in turn; so only when no layer examines anything has everything been found.
//
// Main reactor. Owned by the app; outlives every wait().
#pragma once

#include <cstdint>
#include <functional>
#include <utility>
#include <vector>

#include "runtime/reactor.h"
#include "runtime/task.h"

namespace diskengine::rpc {

class Examination {
 public:
  explicit Examination(Reactor& main) : main_(main) {}

  // How many devices a layer is looking at now. A layer starts before the device's registration returns.
  void add(std::function<uint64_t()> under_way) { layers_.push_back(std::move(under_way)); }

  // Returns once nothing is being examined, or after the time.
  Task<void> wait(uint64_t limit_ns = UINT64_MAX);

 private:
  static constexpr uint64_t kPollNs = 1'000'000;

  Reactor& main_;
  std::vector<std::function<uint64_t()>> layers_;
};

}  // namespace diskengine::rpc
