// The methods that show reactors (SPDK: framework_get_reactors, thread_get_*, the scheduler and context switches). A
// reactor is SPDK's reactor and its only thread at once; thread ids count from 1.
#pragma once

#include <memory>
#include <vector>

#include "block/registry.h"
#include "rpc/method.h"
#include "runtime/reactor.h"

namespace diskengine::rpc {

// Logs, once a second, each reactor that was switched out against its will. Main reactor; the reactors outlive it and
// have stopped, or stop() was called, before it is destroyed.
class ContextSwitchMonitor {
 public:
  explicit ContextSwitchMonitor(std::vector<Reactor*> reactors);
  ~ContextSwitchMonitor();
  ContextSwitchMonitor(const ContextSwitchMonitor&) = delete;
  ContextSwitchMonitor& operator=(const ContextSwitchMonitor&) = delete;

  void enable(bool on);
  bool enabled() const noexcept { return timer_.armed(); }

 private:
  struct Seen;
  void look();

  std::vector<Reactor*> reactors_;
  std::shared_ptr<std::vector<Seen>> seen_;  // each entry belongs to its reactor; shared with posted looks
  Timer timer_;
};

// All outlive the table. `reactors`: the first is the main one.
void add_thread_methods(MethodTable& methods, const std::vector<Reactor*>& reactors, DeviceRegistry& devices,
                        ContextSwitchMonitor& switches);

}  // namespace diskengine::rpc
