#include "rpc/device_events.h"

namespace diskengine::rpc {

// Registered with its device as long as that is listed.
class DeviceEvents::Watch final : public DeviceWatcher {
 public:
  Watch(DeviceEvents& events, Device& device) : events_(events), device_(&device) { device.watch(*this); }
  ~Watch() { detach(); }

  void on_removed(Device&) override { detach(); }
  void on_resized(Device& device) override { events_.add(kResize, device.name()); }

 private:
  void detach() {
    if (device_ != nullptr) device_->unwatch(*this);
    device_ = nullptr;
  }

  DeviceEvents& events_;
  Device* device_;
};

DeviceEvents::DeviceEvents(DeviceRegistry& devices) : devices_(devices) { devices_.observe(*this); }

DeviceEvents::~DeviceEvents() { devices_.unobserve(*this); }

std::vector<std::shared_ptr<Device>> DeviceEvents::in_order() const {
  std::vector<std::shared_ptr<Device>> devices;
  for (const Present& present : present_) {
    Result<std::shared_ptr<Device>> device = devices_.find(present.name);
    if (device) devices.push_back(std::move(*device));
  }
  return devices;
}

void DeviceEvents::on_device_added(const std::shared_ptr<Device>& device) {
  present_.push_back({device->name(), std::make_unique<Watch>(*this, *device)});
  add(kRegister, device->name());
}

void DeviceEvents::on_device_removed(const std::string& name) {
  std::erase_if(present_, [&](const Present& present) { return present.name == name; });
  add(kUnregister, name);
}

void DeviceEvents::add(const char* type, const std::string& name) {
  notifications_.push_back({next_id_++, type, name});
  if (listener_) listener_(notifications_.back());
  if (notifications_.size() > kNotificationsMax) notifications_.pop_front();
}

}  // namespace diskengine::rpc
