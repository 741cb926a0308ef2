// What happened to devices, in order: the order they came in (for saving configurations and for shutdown) and a bounded
// ring of notifications (SPDK: notify). Main reactor. Owned by the app; outlived by the registry.
#pragma once

#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "block/registry.h"

namespace diskengine::rpc {

class DeviceEvents final : private DeviceRegistry::Observer {
 public:
  static constexpr size_t kNotificationsMax = 1024;
  static constexpr const char* kRegister = "bdev_register";
  static constexpr const char* kUnregister = "bdev_unregister";
  static constexpr const char* kResize = "bdev_resize";
  // Not in SPDK. The context says which store and how much of it is free, or which lvol and why.
  static constexpr const char* kLvolSpace = "diskengine_lvol_space";
  static constexpr const char* kLvolDamaged = "diskengine_lvol_damaged";
  // The context says which controller, and what its disk says of itself.
  static constexpr const char* kDiskHealth = "diskengine_disk_health";
  // The context says which device, and which request is outstanding for too long, or that none is any more.
  static constexpr const char* kIoStuck = "diskengine_io_stuck";

  struct Notification {
    uint64_t id;
    const char* type;
    std::string context;  // the device's name, if nothing else is said
  };

  explicit DeviceEvents(DeviceRegistry& devices);
  ~DeviceEvents();
  DeviceEvents(const DeviceEvents&) = delete;
  DeviceEvents& operator=(const DeviceEvents&) = delete;

  // The devices there are, in the order they came.
  std::vector<std::shared_ptr<Device>> in_order() const;
  // The oldest first; older ones than kNotificationsMax are gone.
  const std::deque<Notification>& notifications() const noexcept { return notifications_; }
  // Adds one that does not come from the registry; `type` is one of the names above.
  void announce(const char* type, const std::string& context) { add(type, context); }
  // Told of every notification from now on.
  void set_listener(std::function<void(const Notification&)> listener) { listener_ = std::move(listener); }

 private:
  class Watch;
  struct Present {
    std::string name;
    std::unique_ptr<Watch> watch;
  };

  void on_device_added(const std::shared_ptr<Device>& device) override;
  void on_device_removed(const std::string& name) override;
  void add(const char* type, const std::string& name);

  DeviceRegistry& devices_;
  std::vector<Present> present_;
  std::deque<Notification> notifications_;
  uint64_t next_id_ = 0;
  std::function<void(const Notification&)> listener_;
};

}  // namespace diskengine::rpc
