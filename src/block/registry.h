// All devices of this process by name, alias and UUID. Lives on the main reactor; nothing on the I/O path looks here.
#pragma once

#include <functional>
#include <map>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "block/device.h"
#include "runtime/task.h"

namespace diskengine {

class DeviceRegistry {
 public:
  static constexpr size_t kDevicesMax = 65536;

  class Observer {
   public:
    // Told of every device.
    virtual void on_device_added(const std::shared_ptr<Device>& device) { static_cast<void>(device); }
    // To be looked at for what stands on it (a member of a mirror, a lvol store): told after on_device_added of every
    // observer, or when examine() asks for it.
    virtual void on_examine(const std::shared_ptr<Device>& device) { static_cast<void>(device); }
    virtual void on_device_removed(const std::string& name) { static_cast<void>(name); }

   protected:
    ~Observer() = default;
  };

  explicit DeviceRegistry(Reactor& main) : main_(main) {}
  ~DeviceRegistry();

  Reactor& main_reactor() const noexcept { return main_; }

  // Errc::already_exists if its name, an alias or its UUID is taken.
  Result<void> add(std::shared_ptr<Device> device);
  // Unlists the device, tells its watchers, and returns once nobody else holds a reference (its users let go) or with
  // Errc::timed_out: it is then unlisted but still draining.
  Task<Result<void>> remove(std::string name, uint64_t timeout_ns = 30'000'000'000);

  // A listed device gets another alias in place of one. Errc::no_device, already_exists.
  Result<void> replace_alias(const std::string& name, const std::string& alias, const std::string& new_alias);

  // By name, alias or UUID text. Errc::no_device with the name in the message.
  Result<std::shared_ptr<Device>> find(std::string_view name) const;
  // In order of names.
  std::vector<std::shared_ptr<Device>> all() const;

  // Whether devices are examined when they appear; they are unless told otherwise.
  void set_auto_examine(bool wanted) noexcept { auto_examine_ = wanted; }
  bool auto_examine() const noexcept { return auto_examine_; }
  // Has a listed device examined. Errc::no_device.
  Result<void> examine(std::string_view name);

  void observe(Observer& observer) { observers_.push_back(&observer); }
  void unobserve(Observer& observer);

 private:
  Reactor& main_;
  std::map<std::string, std::shared_ptr<Device>, std::less<>> devices_;
  std::map<std::string, std::string, std::less<>> aliases_;  // alias or UUID -> name
  std::vector<Observer*> observers_;
  bool auto_examine_ = true;
};

}  // namespace diskengine
