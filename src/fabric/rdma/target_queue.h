// One NVMe/RDMA connection at the target: a queue pair, commands to the handler, data and answers to the host.
//
//   Input object: TargetSlot, by on_receive. Output object: the same as TargetCommand to the handler; READ, WRITE and
//   SEND work requests. Completion: complete(), then on_sent().
//
// A command goes through: waiting for buffers, READs of its data, lent to the handler, WRITEs and the SEND of its
// answer. Its slot goes back to the shared receive queue after that. What a turn posts leaves in one call.
//
// Threads: the reactor it was placed on.
#pragma once

#include <memory>
#include <string>

#include "fabric/rdma/cm.h"
#include "fabric/rdma/target.h"
#include "fabric/rdma/target_device.h"

namespace diskengine::fabric::rdma {

// A connection request on its way to its reactor.
struct TargetRequest {
  rdma_cm_id* id = nullptr;
  spec::RdmaQueueWish wish;
  uint8_t reads = 0;  // RDMA READs that the host lets us have outstanding
  Address listen_address;
};

class RdmaTargetQueue final : public TargetQueue,
                              public LaneHook,
                              private CmHandler,
                              private BufferPool::Waiter,
                              private Deferred,
                              private TurnEndHook {
 public:
  // Buffers from the pool that one queue may hold, in bytes: one queue cannot starve the others.
  static constexpr size_t kPoolBytesPerQueueMax = 16 * 1024 * 1024;
  // A connection that is not a connected queue after this long is closed.
  static constexpr uint64_t kHandshakeLimitNs = 30'000'000'000;
  // How long work requests of a broken connection are waited for. After it the queue pair is destroyed, and with it the
  // device's hold on their memory.
  static constexpr uint64_t kDrainLimitNs = 5'000'000'000;
  // Receives that the queue pair took from the shared queue complete within this time after it is in the error state.
  static constexpr uint64_t kLingerNs = 20'000'000;

  // Makes the queue of a connection request, on the lane's reactor; refuses it if it cannot be had.
  static void accept(const std::shared_ptr<TargetLane>& lane, const TargetRequest& request);
  ~RdmaTargetQueue() override;

  Reactor& reactor() const noexcept override { return lane_->reactor; }
  const Address& listen_address() const noexcept override { return listen_address_; }
  const Address& local_address() const noexcept override { return local_address_; }
  const Address& peer_address() const noexcept override { return peer_address_; }
  const TargetOptions& options() const noexcept override { return lane_->options; }
  void set_depth(uint32_t entries, bool flow_control) override;
  void complete(TargetCommand& command) noexcept override;
  void disconnect(const char* why) noexcept override;
  void release() noexcept override;

  // From the device.
  void on_receive(TargetSlot& slot, uint32_t bytes) noexcept;
  void on_receive_error(ibv_wc_status status) noexcept;
  void on_sent(TargetSlot& slot, WrKind kind, ibv_wc_status status) noexcept;
  // The queue pair is gone, and with it what the slot had posted.
  void abandon(TargetSlot& slot) noexcept;

 private:
  RdmaTargetQueue(std::shared_ptr<TargetLane> lane, TargetDevice& device, const TargetRequest& request);
  Result<void> open();

  void on_cm_event(const CmEvent& event) noexcept override;
  void on_chunks_free() noexcept override;
  void run() noexcept override;
  void at_turn_end() noexcept override;

  void start(TargetSlot& slot, uint32_t capsule_bytes) noexcept;
  bool take_buffers(TargetSlot& slot) noexcept;
  void buffers_taken(TargetSlot& slot) noexcept;
  void lend(TargetSlot& slot) noexcept;
  bool try_post(TargetSlot& slot) noexcept;
  void post_or_wait(TargetSlot& slot) noexcept;
  void start_blocked() noexcept;
  void start_waiting() noexcept;
  void free_slot(TargetSlot& slot) noexcept;
  void protocol_error(const std::string& what) noexcept;
  void end_if_drained() noexcept;
  void end() noexcept;

  const std::shared_ptr<TargetLane> lane_;
  TargetDevice& device_;
  OwnedId id_;
  const Address listen_address_;
  const Address local_address_;
  const Address peer_address_;
  TargetQueueHandler* handler_ = nullptr;
  Timer handshake_;
  Timer drain_;

  uint32_t commands_max_;        // entries of the submission queue
  uint32_t send_wrs_max_ = 0;    // of the queue pair
  uint32_t reads_max_;           // READs outstanding
  uint32_t unanswered_ = 0;      // commands
  uint32_t send_wrs_used_ = 0;   // posted, or about to be at the end of this turn
  uint32_t reads_ = 0;           // of them, READs
  size_t pool_bytes_ = 0;        // held of the pool
  List<TargetCommand> waiting_;  // for buffers
  List<TargetCommand> blocked_;  // for room in the send queue
  ibv_send_wr* chain_ = nullptr;
  ibv_send_wr** chain_end_ = &chain_;

  bool opened_ = false;    // has a queue pair
  bool over_ = false;      // nothing is taken or posted any more
  bool told_ = false;      // the handler knows
  bool released_ = false;  // by the handler
  bool lingered_ = false;
  bool ended_ = false;  // to be destroyed
  const char* why_ = nullptr;
};

Address address_of(const sockaddr* address);

}  // namespace diskengine::fabric::rdma
