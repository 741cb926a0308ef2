// A discovery service: keeps a connection to a discovery controller, attaches every NVM subsystem it lists under
// "<name><number>", and detaches those that vanish from the list.
//
//   Input: DiscoveryOptions. Output: HostManager::attach and detach. Completion: wait_attached, stop.
//
// Threads: the main reactor. Owned by the HostManager, which waits for stop() before it destroys it.
#pragma once

#include <map>
#include <memory>
#include <set>
#include <string>
#include <vector>

#include "nvme/association.h"
#include "nvme/manager.h"

namespace diskengine::nvme {

class Discovery {
 public:
  static constexpr uint64_t kRetryNs = 1'000'000'000;

  Discovery(HostManager& manager, fabric::HostTransport& transport, DiscoveryOptions options);

  const DiscoveryOptions& options() const noexcept { return options_; }
  bool stopping() const noexcept { return stop_wanted_; }
  bool same_address(const fabric::HostAddress& address) const;
  // The controllers it attached.
  std::vector<ControllerOptions> found() const;

  void run();
  // Until everything that was found first is attached.
  Task<Result<void>> wait_attached(uint64_t limit_ns);
  // Ends the service and detaches what it attached.
  Task<void> stop();

 private:
  struct Found {
    std::string controller;  // its name
    ControllerOptions options;
  };

  Task<void> serve();
  Task<Result<void>> look();
  Task<void> apply(std::vector<spec::DiscoveryEntry> entries);
  Task<void> drop(std::string key);
  Task<void> wait(uint64_t limit_ns);
  void wake();
  void settle(Result<void> outcome);

  HostManager& manager_;
  fabric::HostTransport& transport_;
  Reactor& main_;
  const DiscoveryOptions options_;
  std::unique_ptr<Association> association_;
  std::map<std::string, Found> found_;  // by "address port subsystem"
  unsigned next_number_ = 0;
  bool connected_ = false;
  bool changed_ = false;
  bool retry_ = false;          // something listed could not be attached
  std::set<std::string> told_;  // of these
  bool stop_wanted_ = false;
  bool running_ = false;
  std::unique_ptr<Result<void>> settled_;  // how the first look ended
  OneShot<bool>* waiter_ = nullptr;
  std::vector<OneShot<bool>*> settle_waiters_;
  std::vector<OneShot<bool>*> stop_waiters_;
};

}  // namespace diskengine::nvme
