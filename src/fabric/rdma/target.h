// The NVMe/RDMA transport of the target: listeners on the main reactor, connections spread over all reactors in turn.
// The connection itself is rdma/target_queue.h, what connections share rdma/target_device.h.
//
//   Input object: an RDMA connection request. Output object: a TargetQueue on one of the reactors. Completion:
//   TargetAcceptor::on_connected.
//
// Threads: made, asked to listen and stopped on the main reactor; stats() from any thread.
#pragma once

#include <functional>
#include <memory>
#include <mutex>
#include <vector>

#include "fabric/rdma/cm.h"
#include "fabric/rdma/target_device.h"
#include "fabric/target.h"

namespace diskengine::fabric::rdma {

class RdmaTargetQueue;
struct LaneHook : ListHook {};

// What the connections of one reactor share. Belongs to that reactor, but for the counters.
struct TargetLane {
  TargetLane(Reactor& r, Verbs& v, const TargetOptions& o, DmaRegions* d)
      : reactor(r), verbs(v), options(o), dma_regions(d) {}

  // The part of the device behind an identifier, made when it is first needed: that registers all its memory.
  Result<TargetDevice*> device_of(ibv_context* context);
  // Lets go of devices that have no queue left and never will.
  void drop_broken_devices();
  // Takes everything off the reactor. With no queue left.
  void close();

  Reactor& reactor;
  Verbs& verbs;
  const TargetOptions options;
  DmaRegions* const dma_regions;  // where the buffers are listed, or null
  TargetAcceptor* acceptor = nullptr;
  std::unique_ptr<CmChannel> channel;
  std::vector<std::unique_ptr<TargetDevice>> devices;
  List<RdmaTargetQueue, LaneHook> queues;
  size_t queue_count = 0;
  bool stopping = false;
  std::function<void()> on_empty;  // once stopping and no queue is left

  struct Counters {
    std::atomic<uint64_t> connections{0}, protocol_errors{0}, refused{0};
    mutable std::mutex mutex;  // of `devices`
    std::vector<std::shared_ptr<TargetDeviceCounters>> devices;
  } counters;
};

class RdmaTarget final : public TargetTransport {
 public:
  // Connections on one reactor; more are refused.
  static constexpr size_t kQueuesPerReactorMax = 16384;
  // How often a listener whose device went away tries to come back.
  static constexpr uint64_t kListenRetryNs = 1'000'000'000;

  // `reactors` in their order, the main one first. The acceptor outlives the transport, and so do `regions`, where
  // its buffers are listed, so that disks may reach them; null: nowhere. Errc::no_device where the machine has no RDMA
  // device.
  static Result<std::unique_ptr<RdmaTarget>> create(std::unique_ptr<Verbs> verbs, std::vector<Reactor*> reactors,
                                                    TargetAcceptor& acceptor, TargetOptions options,
                                                    DmaRegions* regions = nullptr);
  ~RdmaTarget() override;

  Result<std::unique_ptr<TargetListener>> listen(const Address& address) override;
  TargetTransportStats stats(size_t reactor_index) const override;
  void stop(std::function<void()> done) override;

 private:
  class Listener;
  RdmaTarget(std::unique_ptr<Verbs> verbs, TargetOptions options);
  void place(const CmEvent& event, const Address& listen_address);
  void device_leaves(ibv_context* context);
  void refuse(rdma_cm_id* id, spec::RdmaCmStatus status, const Address& listen_address);

  std::unique_ptr<Verbs> verbs_;
  std::unique_ptr<CmChannel> channel_;  // of the listeners
  std::vector<std::shared_ptr<TargetLane>> lanes_;
  size_t next_lane_ = 0;
};

// Refuses a connection request and lets go of its identifier.
void refuse_request(Verbs& verbs, rdma_cm_id* id, spec::RdmaCmStatus status);

}  // namespace diskengine::fabric::rdma
