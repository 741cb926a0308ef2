// The tie between one channel on its reactor and its controller on the main reactor: who may call whom, and how each
// finds out that the other one is gone.
//
// Threads: each member says whose it is. Held by shared_ptr from both sides and from the messages under way.
#pragma once

#include <cstdint>
#include <functional>
#include <string>

#include "base/result.h"
#include "fabric/host.h"
#include "nvme/io_queue.h"
#include "runtime/reactor.h"

namespace diskengine::nvme {

// What the controller tells a channel; on the channel's reactor.
class LinkedChannel {
 public:
  // A new association is up: connect to it.
  virtual void connect(const QueueParams& params) = 0;
  // Close the queue if there is one, hold requests; `closed` runs when nothing of it is left.
  virtual void disconnect(std::function<void()> closed) = 0;
  // There is no connection to wait for: fail what is held and what comes (true), or hold it again (false).
  virtual void set_failing(bool failing) = 0;
  // The process ends: unless the controller answers within `limit_ns`, close the queue and fail everything.
  virtual void fail_overdue(uint64_t limit_ns) = 0;
  virtual fabric::HostQueueStats queue_stats() const = 0;

 protected:
  ~LinkedChannel() = default;
};

struct QueueLink {
  explicit QueueLink(Reactor& r) : reactor(r) {}

  Reactor& reactor;
  // The channel's reactor only; nullptr once the channel is destroyed.
  LinkedChannel* channel = nullptr;

  // The main reactor only.
  uint32_t nsid = 0;
  std::string device_name;
  uint16_t queue_id = 0;  // 0: none
  bool connecting = false;
  bool connected = false;
};

}  // namespace diskengine::nvme
