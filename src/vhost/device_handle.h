// One reactor's way to the device behind a controller, shared by the queues on that reactor: one channel, opened when
// the first queue starts and closed after the last one stopped, or when the device goes away.
//
// Created and destroyed by its controller on the main reactor; everything else is for its own reactor.
#pragma once

#include <functional>
#include <memory>

#include "base/assert.h"
#include "base/result.h"
#include "block/device.h"
#include "trace/recorder.h"

namespace diskengine::vhost {

class DeviceHandle {
 public:
  DeviceHandle(Reactor& reactor, std::shared_ptr<Device> device) : reactor_(reactor), device_(std::move(device)) {}
  ~DeviceHandle() { DE_ASSERT(users_ == 0 && channel_ == nullptr); }
  DeviceHandle(const DeviceHandle&) = delete;
  DeviceHandle& operator=(const DeviceHandle&) = delete;

  Reactor& reactor() const noexcept { return reactor_; }

  // A queue starts. Without error and without channel() once the device is gone: the queue then fails its requests.
  Result<void> acquire();
  // It stopped, with nothing outstanding. Not from within a completion of the channel.
  void release() noexcept;
  // nullptr once the device is going away.
  Channel* channel() const noexcept { return usable_; }
  // The first visit of a request that is to be traced, else nullptr.
  trace::Visit* trace(Op op, uint64_t lba, uint64_t blocks) noexcept {
    trace::Recorder* recorder = reactor_.recorder();
    return recorder == nullptr ? nullptr : recorder->begin(root_, static_cast<uint8_t>(op), lba, blocks);
  }
  // One that was not traced took so many ticks.
  void ended_untraced(uint64_t took_ticks) noexcept {
    if (root_ != nullptr) reactor_.recorder()->ended_untraced(root_, took_ticks);
  }

  // The device is going away: no new I/O; `closed` runs once the channel is closed and the device let go.
  void remove(std::function<void()> closed);

 private:
  void close_root();

  Reactor& reactor_;
  trace::Root* root_ = nullptr;  // while the channel is open
  std::shared_ptr<Device> device_;
  std::unique_ptr<Channel> channel_;
  Channel* usable_ = nullptr;
  unsigned users_ = 0;
};

}  // namespace diskengine::vhost
