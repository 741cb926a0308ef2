// All NVMe controllers of this process by name, the devices over their namespaces, and the discovery services. Owned by
// the app.
//
//   Input: what the RPC methods ask for. Output: NvmeDisks in the DeviceRegistry. Completion: the awaited Result.
//
// Threads: the main reactor.
#pragma once

#include <map>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "block/registry.h"
#include "nvme/controller.h"
#include "nvme/disk.h"
#include "runtime/gate.h"
#include "runtime/random.h"

namespace diskengine::nvme {

class Discovery;

// What a detach may name to be sure of the path; empty parts match anything.
struct PathFilter {
  std::string transport{};
  std::string address{};
  std::string service{};
  std::string subsystem_nqn{};
  std::string host_address{};
  std::string host_service{};
  bool matches(const ControllerOptions& options) const;
};

struct DiscoveryOptions {
  std::string name;
  ControllerOptions controller;  // address, host NQN and policy, also of the controllers that are found
  uint64_t attach_timeout_ns = 0;
};

class HostManager final : private ControllerEvents {
 public:
  static constexpr size_t kControllersMax = 4096;
  static constexpr size_t kDiscoveriesMax = 64;
  // How long users of a device may take to let go of it when it goes away.
  static constexpr uint64_t kDrainNs = 30'000'000'000;

  // What carries the addresses of each transport type ("TCP", "RDMA"). The transports outlive the manager.
  using Transports = std::map<std::string, fabric::HostTransport*, std::less<>>;
  HostManager(Reactor& main, DeviceRegistry& devices, Transports transports, Random& random);
  ~HostManager();

  const HostOptions& options() const noexcept { return options_; }
  // For controllers that are attached later: Errc::busy once there are any.
  Result<void> set_options(const HostOptions& options);
  // The NQN this process connects with unless told otherwise.
  const std::string& default_host_nqn() const noexcept { return host_nqn_; }

  // Told, on the main reactor, that the disk of the controller of this name says it is not well, and of what kind.
  using HealthWatcher = std::function<void(const std::string& name, const std::string& what)>;
  void set_health_watcher(HealthWatcher watcher) { health_watcher_ = std::move(watcher); }

  // Connects and returns the names of the devices, in order of namespaces. Errc::already_exists if the name is taken.
  // An address "serial:<serial number>" is looked for among the controllers that the transport knows of.
  Task<Result<std::vector<std::string>>> attach(ControllerOptions options);
  Task<Result<void>> detach(std::string name, PathFilter filter);
  Task<Result<void>> reset(std::string name, uint16_t controller_id);
  Task<Result<spec::SmartLog>> read_health(std::string name);
  // The error log, newest first.
  Task<Result<std::vector<spec::ErrorLogEntry>>> read_errors(std::string name);

  // Errc::no_device.
  Result<std::shared_ptr<Controller>> find(std::string_view name) const;
  std::vector<std::shared_ptr<Controller>> all() const;

  // Returns once the service runs, or with attach_timeout_ns once everything it found first is attached.
  Task<Result<void>> start_discovery(DiscoveryOptions options);
  Task<Result<void>> stop_discovery(std::string name);
  std::vector<const Discovery*> discoveries() const;

  // The calls that make all of this again.
  std::vector<std::string> config_calls() const;
  // The process ends and is to end soon: see Controller::end_waits.
  void end_waits();
  // Stops everything; nothing can be attached any more.
  Task<void> stop();

 private:
  friend class Discovery;
  struct Entry {
    std::shared_ptr<Controller> controller;
    std::map<uint32_t, std::weak_ptr<NvmeDisk>> disks;
    bool attaching = true;
    bool detaching = false;
  };

  void on_namespaces(Controller& controller, const std::vector<NamespaceInfo>& namespaces) override;
  void on_reconnected(Controller& controller, const std::vector<NamespaceInfo>& namespaces, bool unknown_lost,
                      const std::shared_ptr<void>& hold) override;
  void on_health(Controller& controller, const spec::SmartLog& log) override;
  void on_given_up(Controller& controller) override;
  void add_disk(Entry& entry, const NamespaceInfo& info);
  void drop_disk(Entry& entry, uint32_t nsid, const char* why);
  Task<void> remove_device(std::string name);
  Task<void> detach_lost(std::string name);
  Task<Result<void>> take_down(Entry& entry);
  Task<Result<std::string>> find_serial(ControllerOptions options, fabric::HostTransport* transport);
  Task<Result<std::string>> ask_serial(ControllerOptions options, fabric::HostTransport* transport);
  Result<fabric::HostTransport*> transport_of(const fabric::HostAddress& address) const;

  Reactor& main_;
  DeviceRegistry& devices_;
  const Transports transports_;
  HostOptions options_;
  bool options_set_ = false;
  std::string host_nqn_;
  Uuid host_id_;
  std::map<std::string, std::unique_ptr<Entry>, std::less<>> entries_;
  std::map<std::string, std::unique_ptr<Discovery>, std::less<>> discoveries_;
  bool stopping_ = false;
  Gate gate_;  // detached coroutines
  HealthWatcher health_watcher_;
};

}  // namespace diskengine::nvme
