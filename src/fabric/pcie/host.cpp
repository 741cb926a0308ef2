#include "fabric/pcie/host.h"

#include <fmt/format.h>

#include "fabric/pcie/host_queue.h"

namespace diskengine::fabric::pcie {

Registrar& HostTransport::registrar() {
  if (registrar_ == nullptr) registrar_ = std::make_unique<Registrar>(regions_);
  return *registrar_;
}

Result<std::shared_ptr<Lane>> HostTransport::lane_of(Reactor& reactor, const std::shared_ptr<DmaDomain>& domain) {
  std::erase_if(lanes_, [](const auto& lane) { return lane.second.expired(); });
  std::weak_ptr<Lane>& known = lanes_[{&reactor, domain.get()}];
  if (std::shared_ptr<Lane> lane = known.lock()) return lane;
  TRY_ASSIGN(std::shared_ptr<Lane> lane, Lane::make(reactor, domain, registrar()));
  known = lane;
  return lane;
}

std::unique_ptr<HostQueue> HostTransport::open_admin(Reactor& reactor, const std::string& address,
                                                     const HostQueueOptions& options, HostQueueEvents& events) {
  auto controller = std::make_shared<PcieController>(reactor, address, registrar().work());
  controllers_[address] = controller;
  auto queue = std::make_unique<PcieAdminQueue>(std::move(controller), options, events);
  queue->begin(bus_, registrar());
  return queue;
}

Result<std::unique_ptr<HostQueue>> HostTransport::connect(Reactor& reactor, const HostAddress& address,
                                                          const HostQueueOptions& options, HostQueueEvents& events) {
  if (options.header_digest || options.data_digest)
    return Error(Errc::invalid_argument, "digests are NVMe/TCP's: PCIe has its own checksums");
  TRY_ASSIGN(const std::string at, normal_pci_address(address.address));
  const std::lock_guard lock(mutex_);
  std::erase_if(controllers_, [](const auto& known) { return known.second.expired(); });
  const auto known = controllers_.find(at);
  std::shared_ptr<PcieController> controller = known == controllers_.end() ? nullptr : known->second.lock();
  if (options.queue_id == 0) {
    if (controller != nullptr) return Error(Errc::busy, fmt::format("the controller at {} is attached already", at));
    return open_admin(reactor, at, options, events);
  }
  if (controller == nullptr || !controller->attached())
    return Error(Errc::unreachable, fmt::format("the controller at {} is not attached", at));
  TRY_ASSIGN(std::shared_ptr<Lane> lane, lane_of(reactor, controller->device().domain()));
  auto queue = std::make_unique<PcieIoQueue>(std::move(controller), reactor, options, events);
  TRY(queue->begin(std::move(lane)));
  return std::unique_ptr<HostQueue>(std::move(queue));
}

}  // namespace diskengine::fabric::pcie
