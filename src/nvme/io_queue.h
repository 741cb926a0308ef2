// One I/O queue of a controller on one reactor: connects the transport, sends the fabrics Connect, then carries
// commands until it is lost or closed. A new one is made for each connection.
//
//   Input object: fabric::HostCommand. Output: the transport's queue. Completion: HostCommand::done.
//
// Threads: its reactor. Created by make(), destroys itself after it told its owner on_queue_closed, or after abandon().
#pragma once

#include <functional>
#include <memory>
#include <string>

#include "fabric/host.h"
#include "format/nvme_fabrics.h"
#include "nvme/association.h"
#include "nvme/options.h"

namespace diskengine::nvme {

// Everything a queue needs to connect, copied to its reactor.
struct QueueParams {
  fabric::HostTransport* transport = nullptr;
  ControllerOptions controller;
  ControllerLimits limits;
  HostOptions host;
  uint16_t queue_id = 0;
  uint64_t epoch = 0;  // counts the associations of the controller
};

class IoQueue final : private fabric::HostQueueEvents {
 public:
  class Owner {
   public:
    virtual void on_queue_ready() noexcept = 0;
    // The connection is lost: nothing may be submitted any more. on_queue_closed() follows.
    virtual void on_queue_lost() noexcept = 0;
    // The queue did not come up, is lost or closed; all its commands completed before. The queue is gone after this.
    virtual void on_queue_closed(const Error& reason) noexcept = 0;

   protected:
    ~Owner() = default;
  };

  // Begins to connect; failures come through the owner too.
  static IoQueue* make(Reactor& reactor, const QueueParams& params, uint32_t depth, Owner& owner);

  void submit(fabric::HostCommand& command) noexcept { queue_->submit(command); }
  // Closes now; the owner is told later.
  void close() noexcept;
  // Closes now; the owner, which is going away, is not told, but `closed` runs at the end.
  void abandon(std::function<void()> closed);
  fabric::HostQueueStats stats() const noexcept { return queue_ ? queue_->stats() : fabric::HostQueueStats{}; }
  uint64_t epoch() const noexcept { return epoch_; }
  uint16_t queue_id() const noexcept { return queue_id_; }

 private:
  IoQueue(Reactor& reactor, const QueueParams& params, Owner& owner);
  void begin(const QueueParams& params, uint32_t depth);
  void on_connected() noexcept override;
  void on_disconnected(const Error& reason) noexcept override;
  void on_connect_answer() noexcept;
  void finish(Error reason);

  Reactor& reactor_;
  Owner* owner_;
  const uint64_t epoch_;
  const uint16_t queue_id_;
  std::string name_;
  std::unique_ptr<fabric::HostQueue> queue_;
  std::function<void()> abandoned_;
  std::unique_ptr<Error> reason_;  // why it was closed, if it is known better than the transport's

  fabric::HostCommand connect_;
  spec::FabricsConnectData connect_data_;
  iovec connect_iov_{};
  uint32_t sq_entries_ = 0;
  uint64_t connect_limit_ns_ = 0;
  Timer connect_timer_;
};

}  // namespace diskengine::nvme
