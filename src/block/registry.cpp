#include "block/registry.h"

#include <algorithm>

namespace diskengine {

DeviceRegistry::~DeviceRegistry() { DE_ASSERT(observers_.empty()); }

Result<void> DeviceRegistry::add(std::shared_ptr<Device> device) {
  const DeviceInfo& info = device->info();
  if (devices_.size() >= kDevicesMax)
    return Error(Errc::no_space, "cannot add device '" + info.name + "': there are already " +
                                     std::to_string(kDevicesMax) + " devices, the most this process holds");
  std::vector<std::string> names = info.aliases;
  if (!info.uuid.is_nil() && info.uuid.to_string() != info.name) names.push_back(info.uuid.to_string());
  names.push_back(info.name);
  for (const std::string& name : names)
    if (devices_.contains(name) || aliases_.contains(name))
      return Error(Errc::already_exists, "cannot add device '" + info.name + "': the name '" + name + "' is taken");
  names.pop_back();
  for (const std::string& alias : names) aliases_.emplace(alias, info.name);
  devices_.emplace(info.name, device);
  const std::vector<Observer*> observers = observers_;
  for (Observer* observer : observers) observer->on_device_added(device);
  if (auto_examine_)
    for (Observer* observer : observers) observer->on_examine(device);
  return {};
}

Result<void> DeviceRegistry::examine(std::string_view name) {
  TRY_ASSIGN(const std::shared_ptr<Device> device, find(name));
  const std::vector<Observer*> observers = observers_;
  for (Observer* observer : observers) observer->on_examine(device);
  return {};
}

Task<Result<void>> DeviceRegistry::remove(std::string name, uint64_t timeout_ns) {
  constexpr uint64_t kPollNs = 1'000'000;
  Result<std::shared_ptr<Device>> found = find(name);
  CO_TRY_ASSIGN(std::shared_ptr<Device> device, found);
  const std::string real_name = device->name();
  devices_.erase(real_name);
  for (const std::string& alias : device->info().aliases) aliases_.erase(alias);
  const auto by_uuid = aliases_.find(device->info().uuid.to_string());
  if (by_uuid != aliases_.end() && by_uuid->second == real_name) aliases_.erase(by_uuid);
  device->announce_removed();
  const std::vector<Observer*> observers = observers_;
  for (Observer* observer : observers) observer->on_device_removed(real_name);
  // `found` and `device`: the first was moved from, so this frame holds one reference.
  const uint64_t deadline_ns = main_.now_ns() + timeout_ns;
  while (device.use_count() > 1) {
    if (main_.now_ns() >= deadline_ns)
      co_return Error(Errc::timed_out, "device '" + real_name + "' is unlisted but still in use by " +
                                           (device->claimed_by().empty() ? "an open channel" : device->claimed_by()) +
                                           ": its I/O has not drained");
    co_await sleep_for(main_, kPollNs);
  }
  co_return Result<void>{};
}

Result<void> DeviceRegistry::replace_alias(const std::string& name, const std::string& alias,
                                           const std::string& new_alias) {
  TRY_ASSIGN(const std::shared_ptr<Device> device, find(name));
  if (devices_.contains(new_alias) || aliases_.contains(new_alias))
    return Error(Errc::already_exists, "device '" + name + "' cannot be called '" + new_alias + "': that is taken");
  std::vector<std::string>& aliases = device->info_.aliases;
  std::erase(aliases, alias);
  aliases_.erase(alias);
  aliases.push_back(new_alias);
  aliases_.emplace(new_alias, device->name());
  return {};
}

Result<std::shared_ptr<Device>> DeviceRegistry::find(std::string_view name) const {
  auto at = devices_.find(name);
  if (at == devices_.end()) {
    auto alias = aliases_.find(name);
    if (alias != aliases_.end()) at = devices_.find(alias->second);
  }
  if (at == devices_.end()) return Error(Errc::no_device, "there is no device named '" + std::string(name) + "'");
  return at->second;
}

std::vector<std::shared_ptr<Device>> DeviceRegistry::all() const {
  std::vector<std::shared_ptr<Device>> list;
  list.reserve(devices_.size());
  for (const auto& [name, device] : devices_) list.push_back(device);
  return list;
}

void DeviceRegistry::unobserve(Observer& observer) { std::erase(observers_, &observer); }

}  // namespace diskengine
