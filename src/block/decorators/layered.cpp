#include "block/decorators/layered.h"

#include <utility>

namespace diskengine {

LayeredDevice::LayeredDevice(DeviceInfo info, std::shared_ptr<Device> base, DeviceRegistry& registry)
    : Device(std::move(info)), base_(std::move(base)), registry_(registry) {
  base_->watch(*this);
}

LayeredDevice::~LayeredDevice() {
  if (ListHook::linked()) base_->unwatch(*this);
  // The last reference may be dropped by a channel on another reactor.
  Reactor& main = registry_.main_reactor();
  if (Reactor::current() == nullptr || main.is_current()) {
    base_->release();
  } else {
    main.post([base = base_] { base->release(); });
  }
}

DeviceInfo LayeredDevice::info_over(const Device& base, std::string name, std::string product_name, const Uuid& uuid) {
  DeviceInfo info = base.info();
  info.name = std::move(name);
  info.aliases.clear();
  info.product_name = std::move(product_name);
  info.uuid = uuid;
  return info;
}

void LayeredDevice::on_remove() {
  if (ListHook::linked()) base_->unwatch(*this);
}

void LayeredDevice::on_removed(Device&) { spawn<Result<void>>(registry_.remove(name())); }

void LayeredDevice::on_resized(Device& base) { set_size_blocks(base.size_blocks()); }

void LayeredDevice::on_cache_lost(Device&, const std::shared_ptr<void>& hold) { announce_cache_lost(hold); }

struct LayeredChannel::Child final : Request {
  LayeredChannel* channel = nullptr;
  Request* parent = nullptr;
};

LayeredChannel::LayeredChannel(std::shared_ptr<Device> device, Reactor& reactor, std::unique_ptr<Channel> base)
    : Channel(std::move(device), reactor), base_(std::move(base)), children_(new Child[kChildrenMax]) {
  for (unsigned i = 0; i < kChildrenMax; ++i) {
    children_[i].channel = this;
    free_.push_back(children_[i]);
  }
}

LayeredChannel::~LayeredChannel() {
  DE_ASSERT(waiting_.empty());
  while (!free_.empty()) free_.pop_front();
}

LayeredChannel::Passed& LayeredChannel::take(Request& request) noexcept {
  Passed& passed = request.make_context<Passed>();
  passed.iov = request.iov;
  return passed;
}

void LayeredChannel::pass_on(Request& request) noexcept {
  if (free_.empty()) {
    waiting_.push_back(request);
  } else {
    submit_child(free_.pop_front(), request);
  }
}

void LayeredChannel::submit_child(Child& child, Request& request) noexcept {
  child.op = request.op;
  child.fua = request.fua;
  child.may_unmap = request.may_unmap;
  child.lba = request.lba;
  child.blocks = request.blocks;
  child.iov = request.context<Passed>().iov;
  child.visit = request.visit;
  child.done = on_child_done;
  child.parent = &request;
  base_->submit(child);
}

void LayeredChannel::on_child_done(Request& request) noexcept {
  auto& child = static_cast<Child&>(request);
  LayeredChannel& channel = *child.channel;
  Request& parent = *child.parent;
  const IoStatus status = child.status;
  if (channel.waiting_.empty()) {
    channel.free_.push_back(child);
  } else {
    channel.submit_child(child, channel.waiting_.pop_front());
  }
  channel.base_done(parent, status);
}

}  // namespace diskengine
