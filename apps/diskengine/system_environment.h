// The real clock, the kernel's random numbers and its processes, behind the control plane's seam. Any thread.
#pragma once

#include "control/environment.h"

namespace diskengine {

class SystemEnvironment final : public control::Environment {
 public:
  int64_t unix_ms() const override;
  int64_t monotonic_ms() const override;
  uint64_t random() override;
  void pause_ms(int64_t ms) override;
  std::string process_identity() const override;
  bool has_ended(const std::string& process_identity) const override;
};

}  // namespace diskengine
