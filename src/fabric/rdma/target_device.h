// What the NVMe/RDMA queues of one reactor share on one device: the shared receive queue with its command slots, the
// completion queue, and the registered buffers. Everything is bounded by the number of slots.
//
//   Input: receive and send completions. Output object: TargetSlot, to the queue it came for. Completion: the slot goes
//   back into the shared receive queue.
//
// Threads: the reactor of its lane, but for the counters.
#pragma once

#include <array>
#include <atomic>
#include <memory>
#include <string>
#include <unordered_map>
#include <vector>

#include "fabric/buffer_pool.h"
#include "fabric/rdma/completion_queue.h"
#include "fabric/target.h"
#include "format/nvme_rdma.h"
#include "runtime/dma_buffer.h"

namespace diskengine::fabric::rdma {

class RdmaTargetQueue;

// What a device counted for one reactor. Written by that reactor, read by any thread.
struct TargetDeviceCounters {
  std::string name;
  std::atomic<uint64_t> polls{0}, idle_polls{0}, completions{0}, requests{0};
  std::atomic<uint64_t> waited_for_buffers{0}, waited_for_read{0}, waited_for_send{0};
  std::atomic<uint64_t> send_wrs{0}, send_doorbells{0}, recv_wrs{0}, recv_doorbells{0};
};

inline void count(std::atomic<uint64_t>& counter, uint64_t by = 1) noexcept {
  counter.store(counter.load(std::memory_order_relaxed) + by, std::memory_order_relaxed);
}

// A receive of the shared queue: a command with all that its life needs.
struct TargetSlot final : TargetCommand {
  enum class State : uint8_t {
    posted,     // in the shared receive queue
    waiting,    // for buffers
    blocked,    // ready to READ or answer, but the send queue is full
    reading,    // READs of its data are posted
    lent,       // the handler has it
    answering,  // WRITEs of its data and the SEND of its answer are posted
  };
  // WRITEs or READs, and the answer.
  static constexpr size_t kTransfersMax = 4;
  static constexpr size_t kWrsMax = kTransfersMax + 1;

  RdmaTargetQueue* owner = nullptr;
  State state = State::posted;
  bool answer_next = false;  // blocked: what it waits to do
  uint8_t generation = 0;    // tells completions of an earlier use apart
  uint32_t index = 0;
  uint8_t* own_buffer = nullptr;  // in-capsule data, and any transfer as short
  uint8_t* command = nullptr;     // the submission queue entry as it arrived
  uint8_t* answer = nullptr;      // the completion queue entry as it leaves
  spec::RdmaDataPlace place;
  size_t chunks = 0;  // of `pieces` that belong to the pool
  std::array<iovec, kPiecesMax> pieces;

  ibv_recv_wr recv{};
  std::array<ibv_sge, 2> recv_sges{};
  std::array<ibv_send_wr, kWrsMax> wrs{};
  std::array<ibv_sge, kPiecesMax + 1> sges{};
  uint32_t wrs_posted = 0;
};

// What a work request was, in its wr_id.
enum class WrKind : uint8_t {
  receive,
  part,         // a READ or WRITE that another work request of its slot follows; completes only with an error
  read_end,     // the last READ
  answer_send,  // the SEND of the answer
};

class TargetDevice final : private CompletionQueue::Handler, private TurnEndHook {
 public:
  // On its lane's reactor. Its buffers are listed in `regions` unless that is null.
  static Result<std::unique_ptr<TargetDevice>> make(Verbs& verbs, Reactor& reactor, ibv_context* context,
                                                    const TargetOptions& options, DmaRegions* regions);
  // With no queue left.
  ~TargetDevice();

  ibv_context* context() const noexcept { return context_; }
  Verbs& verbs() const noexcept { return verbs_; }
  const std::shared_ptr<TargetDeviceCounters>& counters() const noexcept { return counters_; }
  // Does not answer, or is going away: nothing can be posted.
  bool broken() const noexcept { return broken_; }
  // It is going away: nothing is posted any more, and no queue is added.
  void leave() noexcept { broken_ = true; }

  // Makes the queue pair of `id`; a READ or WRITE of the longest transfer takes `transfer_wrs()` work requests.
  Result<void> add_queue(rdma_cm_id* id, RdmaTargetQueue& queue, uint32_t send_wrs);
  // Destroys the queue pair; every slot the queue still has goes back.
  void remove_queue(rdma_cm_id* id, RdmaTargetQueue& queue);
  bool has_queues() const noexcept { return !queues_.empty(); }

  size_t own_buffer_bytes() const noexcept { return own_buffer_bytes_; }
  uint32_t transfer_wrs() const noexcept { return transfer_wrs_; }
  uint32_t send_wrs_max() const noexcept { return static_cast<uint32_t>(attributes_.max_qp_wr); }
  uint8_t reads_max() const noexcept { return static_cast<uint8_t>(std::min(attributes_.max_qp_init_rd_atom, 255)); }
  size_t free_slots() const noexcept { return free_slots_; }
  BufferPool& pool() noexcept { return pool_; }

  // Gives the slot back to the shared receive queue, with the turn's others.
  void recycle(TargetSlot& slot) noexcept;

  // Fills in the slot's READs (`read`) or WRITEs of its data, from wrs[0] on; returns how many.
  uint32_t make_transfers(TargetSlot& slot, bool read) noexcept;
  // Fills in wrs[at]: the SEND of the answer.
  void make_answer(TargetSlot& slot, uint32_t at) noexcept;

 private:
  TargetDevice(Verbs& verbs, Reactor& reactor, ibv_context* context, const ibv_device_attr& attributes,
               const TargetOptions& options, uint32_t slots, DmaRegions* regions);
  Result<void> open(uint32_t slots);
  void make_slots(uint32_t slots);
  void on_completion(const ibv_wc& completion) noexcept override;
  void on_broken() noexcept override;
  void on_receive(TargetSlot& slot, const ibv_wc& completion) noexcept;
  void at_turn_end() noexcept override;
  void publish() noexcept;
  ibv_sge sge_of(const TargetSlot& slot, const iovec& piece) const noexcept;

  Verbs& verbs_;
  Reactor& reactor_;
  ibv_context* const context_;
  const ibv_device_attr attributes_;
  const size_t own_buffer_bytes_;
  const uint32_t pieces_per_wr_;
  const uint32_t transfer_wrs_;
  const std::shared_ptr<TargetDeviceCounters> counters_;
  bool broken_ = false;

  BufferPool pool_;
  DmaBuffer own_buffers_;
  DmaRegions::Listed listed_;  // of own_buffers_
  DmaBuffer headers_;          // commands, then answers
  std::vector<TargetSlot> slots_;
  size_t free_slots_ = 0;
  OwnedPd pd_;
  OwnedMr pool_mr_;
  OwnedMr own_mr_;
  OwnedMr header_mr_;
  OwnedSrq srq_;
  std::unique_ptr<CompletionQueue> cq_;
  std::unordered_map<uint32_t, RdmaTargetQueue*> queues_;  // by queue pair number
  ibv_recv_wr* recv_chain_ = nullptr;
  ibv_recv_wr** recv_end_ = &recv_chain_;
};

}  // namespace diskengine::fabric::rdma
