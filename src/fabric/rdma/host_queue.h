// One NVMe/RDMA queue of the host.
//
//   Input object: HostCommand. Output: a capsule by SEND; data by the controller's READs and WRITEs. Completion:
//   HostCommand::done, once the answer is there and the capsule's SEND is over.
//
// Memory of the caller that is registered as a whole (memory_map.h) is reached where it is. Other data moves through
// registered memory: a page of each command, or a run of the reactor's pool, which commands wait for in order. A short
// write goes in its capsule. What the controller sends is hostile: an answer that fits no command
// ends the connection.
//
// Threads: its reactor.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "fabric/command_slots.h"
#include "fabric/host.h"
#include "fabric/rdma/completion_queue.h"
#include "fabric/rdma/host.h"
#include "fabric/tcp/socket.h"
#include "format/nvme_rdma.h"

namespace diskengine::fabric::rdma {

using tcp::SocketAddress;

class RdmaHostQueue final : public HostQueue,
                            private CmHandler,
                            private CompletionQueue::Handler,
                            private BouncePool::Waiter,
                            private Deferred,
                            private TurnEndHook {
 public:
  // How long connecting may take, and each look-up of it.
  static constexpr uint64_t kSetupLimitNs = 10'000'000'000;
  static constexpr int kResolveLimitMs = 3000;
  // Registered memory of each command.
  static constexpr size_t kOwnBytes = 4096;
  // RDMA READs that the controller may have outstanding, if the device takes as many.
  static constexpr int kReadsMax = 128;

  RdmaHostQueue(std::shared_ptr<HostLane> lane, std::string peer, const HostQueueOptions& options,
                HostQueueEvents& events);
  ~RdmaHostQueue() override;
  // Errors are those that are seen at once.
  Result<void> begin(const SocketAddress& to, const SocketAddress* from);

  void submit(HostCommand& command) noexcept override;
  uint32_t outstanding() const noexcept override { return slots_.in_flight(); }
  void disconnect() noexcept override;
  HostQueueStats stats() const noexcept override;

 private:
  enum class State : uint8_t { resolving_address, resolving_route, connecting, ready, ending, closed };

  struct Slot : CommandSlot {
    bool sending = false;   // the SEND of its capsule is not over
    bool answered = false;  // command->cqe is there
    uint8_t* capsule = nullptr;
    uint8_t* own = nullptr;
    uint8_t* data = nullptr;  // registered, where its data passes: own, of the pool, or the caller's memory
    bool direct = false;      // the caller's
    uint32_t key = 0;         // of it, for the controller
    ibv_send_wr wr{};
    ibv_sge sges[2]{};
  };
  // Room for one answer.
  struct Answer {
    ibv_recv_wr wr{};
    ibv_sge sge{};
  };

  void on_cm_event(const CmEvent& event) noexcept override;
  void on_completion(const ibv_wc& completion) noexcept override;
  void on_broken() noexcept override;
  void on_memory_free() noexcept override;
  void run() noexcept override;
  void at_turn_end() noexcept override;

  Result<void> make_queue_pair();
  void make_slots();
  Result<void> connect();
  Error refusal(const CmEvent& event) const;

  bool take_memory(Slot& slot) noexcept;
  bool reach_directly(Slot& slot) noexcept;
  void send(Slot& slot) noexcept;
  void post_answer_room(Answer& answer) noexcept;
  void on_answer(Answer& answer, uint32_t bytes) noexcept;
  void finish_if_over(Slot& slot) noexcept;
  void complete(Slot& slot, HostOutcome outcome) noexcept;
  void protocol_error(const std::string& what) noexcept;
  void end(Error reason) noexcept;

  const std::shared_ptr<HostLane> lane_;
  HostQueueEvents& events_;
  const HostQueueOptions options_;
  const std::string peer_;
  const uint32_t entries_;  // of the submission queue: one more than commands in flight, but for the admin queue
  State state_ = State::resolving_address;
  Error reason_;  // why the queue ends
  Timer setup_timer_;

  OwnedId id_;
  std::shared_ptr<HostDevice> device_;
  std::unique_ptr<CompletionQueue> cq_;
  DmaBuffer memory_;  // capsules, answers, then a page for each command
  OwnedMr mr_;
  CommandSlots<Slot> slots_;
  std::vector<Answer> answers_;
  List<Slot> waiting_;  // for memory of the pool
  ibv_send_wr* send_chain_ = nullptr;
  ibv_send_wr** send_end_ = &send_chain_;
  ibv_recv_wr* recv_chain_ = nullptr;
  ibv_recv_wr** recv_end_ = &recv_chain_;
  HostQueueStats stats_;
};

}  // namespace diskengine::fabric::rdma
