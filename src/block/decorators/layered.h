// What decorators share: a device over one other device, its base, which it claims and passes requests on to.
//
//   Input object: Request. Output object: a child Request for the base, from a pool made with the channel
//   (kChildrenMax; requests beyond wait in order). Completion callback: base_done().
//
// Threads and owners as for every Device. When the base is removed, the device removes itself from the registry first.
#pragma once

#include <memory>
#include <span>
#include <string>

#include "block/device.h"
#include "block/registry.h"

namespace diskengine {

class LayeredDevice : public Device, private DeviceWatcher {
 public:
  ~LayeredDevice() override;
  Device& base() const noexcept { return *base_; }
  void on_remove() override;
  // A decorator holds nothing back that it has completed.
  Uuid cache_instance() const override { return base_->cache_instance(); }

 protected:
  // The base is claimed already.
  LayeredDevice(DeviceInfo info, std::shared_ptr<Device> base, DeviceRegistry& registry);
  // What the base is, under a name of one's own.
  static DeviceInfo info_over(const Device& base, std::string name, std::string product_name, const Uuid& uuid);
  DeviceRegistry& registry() const noexcept { return registry_; }

 private:
  void on_removed(Device& base) override;
  void on_resized(Device& base) override;
  void on_cache_lost(Device& base, const std::shared_ptr<void>& hold) override;

  std::shared_ptr<Device> base_;
  DeviceRegistry& registry_;
};

class LayeredChannel : public Channel {
 public:
  static constexpr unsigned kChildrenMax = 256;

  ~LayeredChannel() override;

 protected:
  LayeredChannel(std::shared_ptr<Device> device, Reactor& reactor, std::unique_ptr<Channel> base);

  // What the request's context area holds while it is passed on. The rest is for the decorator.
  struct Passed {
    std::span<const iovec> iov;  // the payload to pass on
    iovec* own_iov = nullptr;
    uint64_t deadline_ns = 0;
    uint64_t token = 0;  // whatever the decorator wants to know at the end
    IoStatus status;
    bool marked = false;
  };
  // Prepares the request's context area; first of all in start().
  static Passed& take(Request& request) noexcept;
  void pass_on(Request& request) noexcept;
  // The base has answered: finish() the request, now or later.
  virtual void base_done(Request& request, IoStatus status) noexcept = 0;
  uint64_t passed_on() const noexcept { return base_->outstanding(); }

 private:
  struct Child;
  static void on_child_done(Request& child) noexcept;
  void submit_child(Child& child, Request& request) noexcept;

  std::unique_ptr<Channel> base_;
  std::unique_ptr<Child[]> children_;
  List<Child, ListHook> free_;
  List<Request> waiting_;
};

}  // namespace diskengine
