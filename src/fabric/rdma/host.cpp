#include "fabric/rdma/host.h"

#include <fmt/format.h>

#include "fabric/rdma/host_queue.h"

namespace diskengine::fabric::rdma {

Result<std::unique_ptr<HostDevice>> HostDevice::make(const std::shared_ptr<Verbs>& verbs, Reactor& reactor,
                                                     ibv_context* context, Registrar& registrar) {
  TRY_ASSIGN(const ibv_device_attr attributes, verbs->query_device(context));
  std::unique_ptr<HostDevice> device(new HostDevice(context, attributes));
  TRY_ASSIGN(ibv_pd* const pd, verbs->alloc_pd(context));
  device->map_ = std::make_shared<MemoryMap>(verbs, reactor, OwnedPd(*verbs, pd), registrar);
  const std::span<uint8_t> memory = device->pool_.memory();
  TRY_ASSIGN(ibv_mr* const mr,
             verbs->reg_mr(pd, memory.data(), memory.size(),
                           IBV_ACCESS_LOCAL_WRITE | IBV_ACCESS_REMOTE_READ | IBV_ACCESS_REMOTE_WRITE));
  device->pool_mr_ = OwnedMr(*verbs, mr);
  return device;
}

// To take the registrations of guests back would hold the reactor up.
HostDevice::~HostDevice() {
  pool_mr_.reset();
  if (map_ == nullptr) return;
  RegistrarWork& work = map_->work();
  work.dispose(std::move(map_));
}

Result<std::shared_ptr<HostDevice>> HostLane::device_of(ibv_context* context) {
  std::erase_if(devices, [](const auto& device) { return device.expired(); });
  for (const auto& known : devices)
    if (std::shared_ptr<HostDevice> device = known.lock(); device->context() == context) return device;
  TRY_ASSIGN(std::unique_ptr<HostDevice> made, HostDevice::make(verbs, reactor, context, registrar));
  std::shared_ptr<HostDevice> device = std::move(made);
  devices.push_back(device);
  return device;
}

Result<std::shared_ptr<HostLane>> HostTransport::lane_of(Reactor& reactor) {
  const std::lock_guard lock(mutex_);
  if (verbs_ == nullptr) {
    TRY_ASSIGN(std::unique_ptr<Verbs> loaded, load_());
    verbs_ = std::move(loaded);
    registrar_ = std::make_unique<Registrar>(regions_);
  }
  std::weak_ptr<HostLane>& known = lanes_[&reactor];
  if (std::shared_ptr<HostLane> lane = known.lock()) return lane;
  auto lane = std::make_shared<HostLane>(verbs_, reactor, *registrar_);
  TRY_ASSIGN(lane->channel, CmChannel::make(*verbs_, "nvme_rdma_cm"));
  lane->channel->open(reactor);
  known = lane;
  return lane;
}

Result<std::unique_ptr<HostQueue>> HostTransport::connect(Reactor& reactor, const HostAddress& address,
                                                          const HostQueueOptions& options, HostQueueEvents& events) {
  if (options.header_digest || options.data_digest)
    return Error(Errc::invalid_argument, "digests are NVMe/TCP's: RDMA has its own checksums");
  TRY_ASSIGN(const SocketAddress to, SocketAddress::parse(address.address, address.service));
  SocketAddress from;
  if (!address.host_address.empty()) {
    const std::string service = address.host_service.empty() ? "0" : address.host_service;
    TRY_ASSIGN(from, SocketAddress::parse(address.host_address, service));
  }
  TRY_ASSIGN(std::shared_ptr<HostLane> lane, lane_of(reactor));
  auto queue = std::make_unique<RdmaHostQueue>(std::move(lane), to.to_string(), options, events);
  TRY(queue->begin(to, address.host_address.empty() ? nullptr : &from));
  return std::unique_ptr<HostQueue>(std::move(queue));
}

}  // namespace diskengine::fabric::rdma
