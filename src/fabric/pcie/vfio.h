// PCI devices through Linux's VFIO: bound to vfio-pci, behind an IOMMU, which lets them reach only what was mapped. A
// device sees memory at the addresses this process has it at, so addresses need no translation.
//
// One container for all devices of the process: memory is mapped, and counted against the limit of locked memory, once.
//
// Threads: any.
#pragma once

#include <memory>
#include <mutex>

#include "fabric/pcie/pci_device.h"

namespace diskengine::fabric::pcie {

class VfioContainer;

class VfioBus final : public PciBus {
 public:
  // Of one device; queues beyond are not made.
  static constexpr unsigned kVectorsMax = 129;

  Result<std::shared_ptr<PciDevice>> open(const std::string& address) override;
  std::vector<std::string> list() const override;

 private:
  std::mutex mutex_;  // opening only
  std::weak_ptr<VfioContainer> container_;
};

}  // namespace diskengine::fabric::pcie
