// NVMe/RDMA for the host: one queue pair per queue, and what the queues of a reactor share. The queue itself is
// rdma/host_queue.h.
//
//   Input object: HostAddress. Output object: a HostQueue on the calling reactor. Completion:
//   HostQueueEvents::on_connected.
//
// Threads: the transport from any; a lane and what it has on its reactor.
#pragma once

#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <vector>

#include "fabric/bounce_pool.h"
#include "fabric/host.h"
#include "fabric/rdma/cm.h"
#include "fabric/rdma/memory_map.h"

namespace diskengine::fabric::rdma {

// One device for the queues of one reactor: its protection domain, and registered memory for their data.
class HostDevice {
 public:
  // In runs of whole units; the longest command must fit.
  static constexpr size_t kUnitBytes = 16 * 1024;
  static constexpr size_t kUnits = 1024;

  static Result<std::unique_ptr<HostDevice>> make(const std::shared_ptr<Verbs>& verbs, Reactor& reactor,
                                                  ibv_context* context, Registrar& registrar);
  ~HostDevice();

  ibv_context* context() const noexcept { return context_; }
  const ibv_device_attr& attributes() const noexcept { return attributes_; }
  ibv_pd* pd() const noexcept { return map_->pd(); }
  MemoryMap& map() noexcept { return *map_; }
  BouncePool& pool() noexcept { return pool_; }
  // The key of the pool's memory, for the device and for the controller.
  uint32_t local_key() const noexcept { return pool_mr_->lkey; }
  uint32_t remote_key() const noexcept { return pool_mr_->rkey; }

 private:
  HostDevice(ibv_context* context, const ibv_device_attr& attributes)
      : context_(context), attributes_(attributes), pool_(kUnitBytes, kUnits) {}

  ibv_context* const context_;
  const ibv_device_attr attributes_;
  BouncePool pool_;
  std::shared_ptr<MemoryMap> map_;
  OwnedMr pool_mr_;
};

// What the queues of one reactor share. Held by them; goes with the last, on its reactor.
struct HostLane {
  HostLane(std::shared_ptr<Verbs> v, Reactor& r, Registrar& g) : verbs(std::move(v)), reactor(r), registrar(g) {}

  // Held by queues on it; made anew if nobody has it.
  Result<std::shared_ptr<HostDevice>> device_of(ibv_context* context);

  const std::shared_ptr<Verbs> verbs;
  Reactor& reactor;
  Registrar& registrar;
  std::unique_ptr<CmChannel> channel;
  std::vector<std::weak_ptr<HostDevice>> devices;
};

class HostTransport final : public fabric::HostTransport {
 public:
  using Loader = std::function<Result<std::unique_ptr<Verbs>>()>;

  // `load` is called at the first connect, and again as long as it fails. What `regions` lists is reached where it is.
  // Both outlive the transport, and the transport outlives its queues.
  HostTransport(Loader load, DmaRegions& regions) : load_(std::move(load)), regions_(regions) {}

  // Errc::not_supported or Errc::no_device where there is no RDMA.
  Result<std::unique_ptr<HostQueue>> connect(Reactor& reactor, const HostAddress& address,
                                             const HostQueueOptions& options, HostQueueEvents& events) override;

 private:
  Result<std::shared_ptr<HostLane>> lane_of(Reactor& reactor);

  const Loader load_;
  std::mutex mutex_;  // connects only
  std::shared_ptr<Verbs> verbs_;
  DmaRegions& regions_;
  std::unique_ptr<Registrar> registrar_;  // once there is RDMA
  std::map<Reactor*, std::weak_ptr<HostLane>> lanes_;
};

}  // namespace diskengine::fabric::rdma
