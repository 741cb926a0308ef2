#include "vhost/device_handle.h"

#include <utility>

namespace diskengine::vhost {

Result<void> DeviceHandle::acquire() {
  if (channel_ == nullptr && device_ != nullptr) {
    TRY_ASSIGN(channel_, device_->open_channel(reactor_));
    usable_ = channel_.get();
    if (reactor_.recorder() != nullptr) root_ = reactor_.recorder()->open_root(device_->name(), trace::Layer::vhost);
  }
  ++users_;
  return {};
}

void DeviceHandle::release() noexcept {
  DE_ASSERT(users_ > 0);
  if (--users_ > 0 || usable_ == nullptr) return;  // without usable_, remove() closes the channel
  usable_ = nullptr;
  close_root();
  channel_.reset();
}

void DeviceHandle::close_root() {
  if (root_ != nullptr) reactor_.recorder()->close_root(std::exchange(root_, nullptr));
}

void DeviceHandle::remove(std::function<void()> closed) {
  usable_ = nullptr;
  if (channel_ == nullptr) {
    device_.reset();
    closed();
    return;
  }
  channel_->when_idle([this, closed = std::move(closed)] {
    close_root();
    channel_.reset();
    device_.reset();
    closed();
  });
}

}  // namespace diskengine::vhost
