// One connected front end: its negotiated features, its memory, and its queues, driven by its messages. It ends when
// the front end goes, breaks the protocol or takes its memory away; then all that its queues had taken is finished
// before the memory is let go.
//
// Main reactor. Input object: Message. Output object: BlkQueue, one for each running ring. Completion: serve() returns.
#pragma once

#include <array>
#include <functional>
#include <memory>
#include <string>

#include "format/virtio_blk.h"
#include "vhost/blk_queue.h"
#include "vhost/message_socket.h"

namespace diskengine::vhost {

// What a session needs of its controller. Main reactor; alive as long as the session.
class SessionHost {
 public:
  virtual const std::string& name() const = 0;
  virtual uint64_t features() const = 0;
  virtual spec::VirtioBlkConfig config() const = 0;
  // Fills in what a queue needs to know of the device; the session fills in the rest. Chooses the queue's reactor.
  virtual void describe_device(unsigned queue, uint64_t features, BlkQueue::Options& options) = 0;
  virtual const std::shared_ptr<Unmapper>& unmapper() const = 0;

 protected:
  ~SessionHost() = default;
};

class Session {
 public:
  // `id` counts the front ends of this controller.
  Session(SessionHost& host, Reactor& main, UniqueFd socket, unsigned id);
  ~Session();

  // Until the front end is gone and everything it had asked for is finished.
  Task<void> serve();
  // Makes serve() end soon.
  void shut_down() noexcept { socket_.shut_down(); }
  bool peer_closed() const noexcept { return socket_.peer_closed(); }
  // Tells the front end, if it wants to know, to read the configuration space again.
  void config_changed();
  void set_coalescing(const Coalescing& coalescing);

  struct QueueState {
    unsigned index;
    uint16_t size;
    std::string reactor;
    uint32_t outstanding;
    uint64_t bad_requests;
    bool broken;
    BlkQueue::Progress progress;
  };
  unsigned id() const noexcept { return id_; }
  // See BlkQueue::leave_failures(); for the queues that there are.
  void leave_failures() noexcept;
  // Has every running queue look at its ring; after the next message from each reactor, queues() is as of then.
  void refresh_progress();
  // The running queues.
  std::vector<QueueState> queues() const;

 private:
  struct Ring {
    uint16_t size = 0;
    bool has_address = false;
    spec::VhostUserVringAddr address{};
    uint16_t base = 0;
    UniqueFd kick;
    UniqueFd call;
    UniqueFd err;
    bool started = false;  // by a kick message
    bool enabled = false;
    bool running = false;             // the queue's start() is over, and went well
    bool stopping = false;            // nothing more may be posted to the queue
    std::unique_ptr<BlkQueue> queue;  // while it runs
  };
  // What goes back for a message that has an answer of its own.
  struct Answer {
    bool present = false;
    spec::VhostUserPayload payload{};
    size_t bytes = 0;
    UniqueFd fd;
    void set_u64(uint64_t value) noexcept;
  };

  Task<Result<void>> handle(Message& message);
  Task<Result<void>> dispatch(Message& message, Answer& answer);
  Result<void> set_features(uint64_t features);
  Result<void> set_protocol_features(uint64_t features);
  void get_config(const Message& message, Answer& answer);
  Task<Result<void>> set_mem_table(Message& message);
  Task<Result<void>> change_region(Message& message, bool add);
  Task<Result<void>> use_memory(std::shared_ptr<const GuestMemory> memory);
  Result<void> set_vring_size(const spec::VhostUserVringState& state);
  Result<void> set_vring_base(const spec::VhostUserVringState& state);
  Result<void> set_vring_address(const spec::VhostUserVringAddr& address);
  Task<Result<void>> get_vring_base(uint32_t index, Answer& answer);
  Task<Result<void>> set_vring_kick(Message& message);
  Result<void> set_vring_event(Message& message, UniqueFd Ring::*event, void (BlkQueue::*forward)(UniqueFd));
  Task<Result<void>> set_vring_enable(const spec::VhostUserVringState& state);
  Task<void> stop_all_rings();
  Result<void> get_inflight(const spec::VhostUserInflight& wish, Answer& answer);
  Result<void> set_inflight(const spec::VhostUserInflight& buffer, int fd);

  Result<Ring*> ring_at(uint64_t index);
  bool enabled(const Ring& ring) const noexcept;
  // Runs the ring if all that is needed for it is there, and it does not run yet.
  Task<Result<void>> start_ring(unsigned index);
  Task<void> stop_ring(unsigned index);
  void memory_faulted();

  SessionHost& host_;
  Reactor& main_;
  MessageSocket socket_;
  const unsigned id_;
  uint64_t features_ = 0;
  uint64_t protocol_features_ = 0;
  std::shared_ptr<const GuestMemory> memory_;
  std::shared_ptr<const Mapping> inflight_;
  spec::VhostUserInflight inflight_shape_{};
  std::unique_ptr<MessageSocket> backend_channel_;
  std::array<Ring, spec::kVhostUserQueuesMax> rings_;
};

}  // namespace diskengine::vhost
