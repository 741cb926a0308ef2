// The world outside the control plane's decisions: time, randomness, and which processes there are. All of control/
// takes them through this seam, so that tests can step time and repeat a run; the real one stands in apps/diskengine.
#pragma once

#include <cstdint>
#include <string>

namespace diskengine::control {

// Thread-safe.
class Environment {
 public:
  virtual ~Environment() = default;
  // Milliseconds since 1970, for what people read.
  virtual int64_t unix_ms() const = 0;
  // Milliseconds that never go back, for intervals.
  virtual int64_t monotonic_ms() const = 0;
  virtual uint64_t random() = 0;
  // Lets that much time pass.
  virtual void pause_ms(int64_t ms) = 0;
  // Tells this process from every other on any machine, at any time. Begins with what people know it by, up to ';'.
  virtual std::string process_identity() const = 0;
  // True only if the process with that identity has certainly ended; where that cannot be seen, false.
  virtual bool has_ended(const std::string& process_identity) const = 0;
};

}  // namespace diskengine::control
