#include "vhost/device_handle.h"

#include <utility>

namespace diskengine::vhost {

Result<void> DeviceHandle::acquire() {
  if (channel_ == nullptr && device_ != nullptr) {
    TRY_ASSIGN(channel_, device_->open_channel(reactor_));
    usable_ = channel_.get();
  }
  ++users_;
  return {};
}

void DeviceHandle::release() noexcept {
  DE_ASSERT(users_ > 0);
  if (--users_ > 0 || usable_ == nullptr) return;  // without usable_, remove() closes the channel
  usable_ = nullptr;
  channel_.reset();
}

void DeviceHandle::remove(std::function<void()> closed) {
  usable_ = nullptr;
  if (channel_ == nullptr) {
    device_.reset();
    closed();
    return;
  }
  channel_->when_idle([this, closed = std::move(closed)] {
    channel_.reset();
    device_.reset();
    closed();
  });
}

}  // namespace diskengine::vhost
