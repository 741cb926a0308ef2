// NVMe over PCIe for the host: the queues of controllers that this process drives by itself. A queue is
// pcie/host_queue.h.
//
//   Input object: HostAddress with a PCI address. Output object: a HostQueue on the calling reactor. Completion:
//   HostQueueEvents::on_connected.
//
// Threads: the transport from any.
#pragma once

#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <utility>

#include "fabric/host.h"
#include "fabric/pcie/controller.h"
#include "fabric/pcie/lane.h"

namespace diskengine::fabric::pcie {

class HostTransport final : public fabric::HostTransport {
 public:
  // What `regions` lists is reached where it is. Both outlive the transport, and the transport outlives its queues.
  HostTransport(PciBus& bus, DmaRegions& regions) : bus_(bus), regions_(regions) {}

  Result<std::unique_ptr<HostQueue>> connect(Reactor& reactor, const HostAddress& address,
                                             const HostQueueOptions& options, HostQueueEvents& events) override;
  std::vector<std::string> addresses() const override { return bus_.list(); }

 private:
  Registrar& registrar();
  std::unique_ptr<HostQueue> open_admin(Reactor& reactor, const std::string& address, const HostQueueOptions& options,
                                        HostQueueEvents& events);
  Result<std::shared_ptr<Lane>> lane_of(Reactor& reactor, const std::shared_ptr<DmaDomain>& domain);

  PciBus& bus_;
  DmaRegions& regions_;
  std::mutex mutex_;  // connects only
  std::unique_ptr<Registrar> registrar_;
  std::map<std::string, std::weak_ptr<PcieController>> controllers_;  // by address
  std::map<std::pair<Reactor*, DmaDomain*>, std::weak_ptr<Lane>> lanes_;
};

}  // namespace diskengine::fabric::pcie
