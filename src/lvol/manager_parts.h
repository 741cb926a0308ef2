// What the manager holds; for its own files only.
#pragma once

#include <array>

#include "lvol/lvol_device.h"
#include "lvol/manager.h"
#include "lvol/names.h"

namespace diskengine::lvol {

struct LvolManager::Held final : DeviceWatcher {
  Held(LvolManager& m, std::shared_ptr<Store> s, std::shared_ptr<Device> d)
      : manager(m), store(std::move(s)), disk(std::move(d)) {
    disk->watch(*this);
  }
  ~Held() {
    if (disk != nullptr) disk->unwatch(*this);
  }
  void on_removed(Device& device) override;

  // While it lives, the store is not closed: held by every operation that waits for something.
  class Use {
   public:
    explicit Use(Held& held) : held_(held) { ++held_.users; }
    Use(const Use&) = delete;
    Use& operator=(const Use&) = delete;
    ~Use() { --held_.users; }

   private:
    Held& held_;
  };

  LvolManager& manager;
  std::shared_ptr<Store> store;
  std::shared_ptr<Device> disk;
  bool closing = false;
  unsigned users = 0;
  // Which thresholds the free space is below.
  std::array<bool, std::size(kThresholdsPercent)> below{};
};

struct LvolManager::Outside final : DeviceWatcher {
  Outside(LvolManager& m, std::string i, std::shared_ptr<Device> d)
      : manager(m), id(std::move(i)), device(std::move(d)) {
    device->watch(*this);
  }
  ~Outside() {
    device->unwatch(*this);
    device->release();
  }
  void on_removed(Device& removed) override;

  LvolManager& manager;
  std::string id;
  std::shared_ptr<Device> device;
};

class LvolManager::Pending {
 public:
  Pending(std::vector<std::string>& names, std::string name) : names_(names), name_(std::move(name)) {
    names_.push_back(name_);
  }
  Pending(const Pending&) = delete;
  Pending& operator=(const Pending&) = delete;
  ~Pending() { names_.erase(std::find(names_.begin(), names_.end(), name_)); }

 private:
  std::vector<std::string>& names_;
  std::string name_;
};

}  // namespace diskengine::lvol
