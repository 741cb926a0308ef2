// A subsystem: namespaces over devices, the hosts that may use them, the addresses it is reached at, and the
// controllers of the hosts that do.
//
// Admission by host NQN is the cut-off for old writers: a host that is taken off the list loses its controllers, and
// wait_hosts_gone() says when nothing of it, neither connection nor I/O, is left.
//
// Threads: the main reactor. Owned by the Target.
#pragma once

#include <array>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <set>
#include <string>
#include <vector>

#include "block/registry.h"
#include "nvmf/controller.h"
#include "nvmf/namespace_port.h"

namespace diskengine::nvmf {

class Target;

// The epoch in a host's NQN, "...:host:<id>:<epoch>"; 0 if it has none.
uint64_t epoch_of_host(std::string_view host_nqn) noexcept;

// How hosts recognise a namespace; all zero: not given.
struct NamespaceIds {
  std::array<uint8_t, 16> nguid{};
  std::array<uint8_t, 8> eui64{};
  Uuid uuid;
};

struct NamespaceOptions {
  std::string device;  // name, alias or UUID
  uint32_t nsid = 0;   // 0: the lowest that is free
  NamespaceIds ids;    // uuid: the device's, and nguid made of the uuid, unless given
  bool nguid_given = false;
  bool uuid_given = false;
};

class Namespace final : private DeviceWatcher {
 public:
  Namespace(Subsystem& subsystem, uint32_t nsid, std::shared_ptr<Device> device, NamespaceOptions options);
  ~Namespace();

  uint32_t nsid() const noexcept { return nsid_; }
  Device& device() const noexcept { return *device_; }
  const std::shared_ptr<Device>& device_ref() const noexcept { return device_; }
  const NamespaceIds& ids() const noexcept { return ids_; }
  const NamespaceOptions& options() const noexcept { return options_; }
  bool removing = false;

 private:
  void on_removed(Device& device) override;
  void on_resized(Device& device) override;

  Subsystem& subsystem_;
  const uint32_t nsid_;
  std::shared_ptr<Device> device_;
  NamespaceOptions options_;
  NamespaceIds ids_;
};

struct SubsystemOptions {
  std::string nqn;
  bool discovery = false;
  std::string serial_number = "00000000000000000000";
  std::string model_number = "diskengine";
  uint32_t max_namespaces = 32;
  bool allow_any_host = false;
  uint16_t min_cntlid = 1;
  uint16_t max_cntlid = 0xffef;
};

class Subsystem {
 public:
  static constexpr uint32_t kNamespacesMax = 1024;
  static constexpr size_t kHostsMax = 4096;
  static constexpr size_t kListenersMax = 256;
  static constexpr size_t kControllersMax = 4096;

  Subsystem(Target& target, SubsystemOptions options);
  // With no controller and no namespace left.
  ~Subsystem();

  Target& target() const noexcept { return target_; }
  const SubsystemOptions& options() const noexcept { return options_; }
  const std::string& nqn() const noexcept { return options_.nqn; }
  bool is_discovery() const noexcept { return options_.discovery; }

  const std::map<uint32_t, std::unique_ptr<Namespace>>& namespaces() const noexcept { return namespaces_; }
  // One that is there and not being removed, or nullptr.
  const Namespace* find_namespace(uint32_t nsid) const noexcept;
  std::vector<uint32_t> namespace_ids_after(uint32_t nsid, size_t most) const;
  bool every_namespace_compares() const noexcept;
  bool any_namespace_caches() const noexcept;
  // Returns the namespace's id.
  Result<uint32_t> add_namespace(NamespaceOptions options);
  // Returns once no I/O of it is left and its device is let go of. Errc::not_found.
  Task<Result<void>> remove_namespace(uint32_t nsid);
  void namespace_changed(uint32_t nsid);

  const std::set<std::string>& hosts() const noexcept { return hosts_; }
  bool allows(const std::string& host_nqn) const noexcept;
  // The epoch of those who may write, 0 if none was ever set: the highest that it was given or finds with the devices
  // of its namespaces. With one, only hosts are admitted whose NQN ends in ":host:<id>:<epoch>" with that very epoch,
  // whatever the list says, and one connection at a time: a new one ends an earlier one and is let in when nothing of
  // that is left, so no command of a lost connection can come after one of the next.
  uint64_t epoch() const noexcept;
  // Never goes back (Errc::conflict). Durable when it returns, with devices that keep it; hosts of other epochs are
  // disconnected then, and wait_gone() or the list of controllers tells when they are drained.
  Task<Result<void>> set_epoch(uint64_t epoch);
  // Whether the host may connect now: false while an earlier connection, which is ended by this, is not drained.
  bool make_way();
  void set_allow_any_host(bool allow);
  Result<void> add_host(const std::string& host_nqn);
  // Takes the host off the list, disconnects it, and returns once nothing of it is left, or with Errc::timed_out.
  Task<Result<void>> remove_host(std::string host_nqn, uint64_t timeout_ns);

  const std::vector<fabric::Address>& listeners() const noexcept { return listeners_; }
  bool listens_on(const fabric::Address& address) const noexcept;
  void add_listener(const fabric::Address& address) { listeners_.push_back(address); }
  // Disconnects what came by it. False if there was none.
  bool remove_listener(const fabric::Address& address);

  const std::map<uint16_t, std::shared_ptr<Controller>>& controllers() const noexcept { return controllers_; }
  // A controller with a free id; nullptr if there is none.
  std::shared_ptr<Controller> make_controller(std::string host_nqn, const Uuid& host_id, uint32_t keep_alive_ms,
                                              QueueRecord& admin);
  // The last queue of the controller is gone.
  void forget(Controller& controller);
  void disconnect_all(const char* why);
  // Waits until no controller matches; false after `timeout_ns` (0: no limit).
  Task<bool> wait_gone(std::function<bool(const Controller&)> matches, uint64_t timeout_ns);
  // Disconnects everything and lets every namespace go.
  Task<void> close();

  // The namespaces as the queues of `reactor` reach them, made at first use.
  std::shared_ptr<NamespacePorts> ports_on(Reactor& reactor);

 private:
  struct Waiter;
  uint32_t free_nsid() const noexcept;
  bool any_matches(const std::function<bool(const Controller&)>& matches) const;

  Target& target_;
  SubsystemOptions options_;
  std::map<uint32_t, std::unique_ptr<Namespace>> namespaces_;
  std::set<std::string> hosts_;
  uint64_t epoch_ = 0;  // as it was set
  std::vector<fabric::Address> listeners_;
  std::map<uint16_t, std::shared_ptr<Controller>> controllers_;
  uint16_t next_cntlid_;
  std::map<Reactor*, std::shared_ptr<NamespacePorts>> ports_;
  std::vector<Waiter*> waiters_;
};

}  // namespace diskengine::nvmf
