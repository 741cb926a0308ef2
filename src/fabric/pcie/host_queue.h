// One NVMe/PCIe queue of the host: an admin queue or an I/O queue of a controller that this process drives by itself.
//
//   Input object: HostCommand. Output: a submission queue entry, and one doorbell for all of a turn. Completion:
//   HostCommand::done, out of the completion queue.
//
// Memory of the caller that the controller reaches (lane.h) is named where it is, by page pointers or, where those
// cannot, by SGLs if the controller has them. Other data moves through a page of each command, or a run of the
// reactor's pool, which commands wait for in order. What the controller writes is hostile: a completion that fits no
// command ends the queue.
//
// Polled while it is busy; while it is idle its interrupt is waited for. A queue that is busy for long has its
// interrupt switched off.
//
// Threads: its reactor.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "fabric/command_slots.h"
#include "fabric/host.h"
#include "fabric/pcie/controller.h"
#include "fabric/pcie/lane.h"

namespace diskengine::fabric::pcie {

class PcieQueue : public HostQueue, private Source, private Deferred, private TurnEndHook, private BouncePool::Waiter {
 public:
  // Memory of each command: its data, or the list of where its data is.
  static constexpr size_t kOwnBytes = spec::kPrpPageBytes;
  // In one poll; then the other sources get their turn.
  static constexpr int kPerPollMax = 1024;
  // After so long without a pause interrupts cost more than switching them off.
  static constexpr uint64_t kInterruptsOffNs = 10'000'000;

  ~PcieQueue() override;

  void submit(HostCommand& command) noexcept override;
  uint32_t outstanding() const noexcept override { return slots_.in_flight() + answering_; }
  void disconnect() noexcept override;
  HostQueueStats stats() const noexcept override;

 protected:
  enum class State : uint8_t { opening, ready, ending, retiring, closed };

  PcieQueue(std::shared_ptr<PcieController> controller, Reactor& reactor, const HostQueueOptions& options,
            HostQueueEvents& events);

  // Memory for `depth` commands and queues one longer.
  Result<void> make_rings(std::shared_ptr<Lane> lane, uint32_t depth);
  // Begins to take commands and to look for completions; `vector` is its interrupt.
  void open(unsigned vector);
  void queue_command(HostCommand& command) noexcept;
  // Completes a command that the transport carries out itself, later.
  void answer(HostCommand& command, spec::Status status, uint64_t result = 0) noexcept;
  void end(Error reason) noexcept;
  // What was under way elsewhere came back after the queue was ended: go on with that.
  void run_again() noexcept;

  // A command for the transport itself: true if it is answered.
  virtual bool serve(HostCommand& command) noexcept = 0;
  virtual void on_answer(HostCommand& command) noexcept { static_cast<void>(command); }
  // Makes sure that the controller reaches nothing of this queue any more, then calls retired() on this reactor.
  virtual void retire() = 0;
  void retired() noexcept;

  const std::shared_ptr<PcieController> controller_;
  Reactor& reactor_;
  const HostQueueOptions options_;
  HostQueueEvents& events_;
  State state_ = State::opening;
  bool busy_opening_ = false;  // something of it is under way elsewhere, and comes back
  std::unique_ptr<QueuePair> rings_;
  uint64_t iova_of(const void* at) const noexcept { return memory_->iova_of(at); }

 private:
  struct Slot : CommandSlot {
    bool sent = false;
    bool bounced = false;  // its data passes through `data`
    uint8_t* own = nullptr;
    uint8_t* data = nullptr;
  };

  int poll() noexcept override;
  bool arm() noexcept override;
  void disarm() noexcept override;
  void run() noexcept override;
  void at_turn_end() noexcept override;
  void on_memory_free() noexcept override;

  bool place(Slot& slot) noexcept;
  bool name_in_place(Slot& slot) noexcept;
  bool name_by_pages(Slot& slot) noexcept;
  bool name_by_sgl(Slot& slot) noexcept;
  template <typename Builder>
  bool add_pieces(const HostCommand& command, Builder& builder) noexcept;
  bool bounce(Slot& slot) noexcept;
  void send(Slot& slot) noexcept;
  bool take_completion(spec::Cqe cqe) noexcept;
  void complete(Slot& slot, HostOutcome outcome) noexcept;
  void complete_answered() noexcept;
  void let_go_of_memory() noexcept;

  Error reason_;  // why the queue ends
  std::shared_ptr<Lane> lane_;
  std::shared_ptr<DmaMemory> memory_;  // the rings, then a page for each command
  unsigned vector_ = 0;
  bool interrupts_on_ = false;  // surely: what the last queue with this vector left is not known
  uint64_t busy_since_ns_ = 0;
  CommandSlots<Slot> slots_;
  List<Slot> waiting_;  // for memory of the pool
  List<HostCommand> answered_;
  uint32_t answering_ = 0;  // of answered_
  HostQueueStats stats_;
};

// The admin queue: opens the device, and carries out the fabrics commands with the controller's registers. It also
// keeps alive: the keep-alive of fabrics looks whether the controller is still there and well.
class PcieAdminQueue final : public PcieQueue, private PcieController::AdminPort {
 public:
  PcieAdminQueue(std::shared_ptr<PcieController> controller, const HostQueueOptions& options, HostQueueEvents& events);
  ~PcieAdminQueue() override;
  void begin(PciBus& bus, Registrar& registrar);

 private:
  // Readable once the kernel wants the device back.
  class RemovalWatch final : public diskengine::Source {
   public:
    explicit RemovalWatch(PcieAdminQueue& queue) : diskengine::Source("nvme_removal"), queue_(queue) {}
    int poll() noexcept override;

   private:
    PcieAdminQueue& queue_;
  };

  bool serve(HostCommand& command) noexcept override;
  void on_answer(HostCommand& command) noexcept override;
  void retire() override;
  bool usable() const noexcept override { return state_ == State::ready; }
  void submit_own(HostCommand& command) noexcept override { queue_command(command); }
  void give_up(Error reason) noexcept override { end(std::move(reason)); }

  void on_opened(Result<std::shared_ptr<PciDevice>> opened, Registrar& registrar);
  void serve_fabrics(HostCommand& command) noexcept;
  void get_property(HostCommand& command, uint32_t offset, bool wide) noexcept;
  void keep_alive(HostCommand& command) noexcept;

  RemovalWatch removal_;
};

class PcieIoQueue final : public PcieQueue {
 public:
  PcieIoQueue(std::shared_ptr<PcieController> controller, Reactor& reactor, const HostQueueOptions& options,
              HostQueueEvents& events)
      : PcieQueue(std::move(controller), reactor, options, events) {}
  Result<void> begin(std::shared_ptr<Lane> lane);

 private:
  bool serve(HostCommand& command) noexcept override;
  void retire() override;
  void on_created(Result<void> created, const ShadowDoorbells& shadow);
};

}  // namespace diskengine::fabric::pcie
