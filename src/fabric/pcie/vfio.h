// PCI devices through Linux's VFIO: bound to vfio-pci, behind an IOMMU, which lets them reach only what was mapped; a
// device then sees memory at the addresses this process has it at. Without an IOMMU, where that is allowed, a device
// sees physical addresses and can reach everything: only huge pages of the kernel's pool are given to it, and data of
// others is copied.
//
// One container for all devices of the process: memory is mapped, and counted against the limit of locked memory, once.
//
// Threads: any.
#pragma once

#include <array>
#include <memory>
#include <mutex>

#include "fabric/pcie/pci_device.h"

namespace diskengine::fabric::pcie {

class VfioContainer;

class VfioBus final : public PciBus {
 public:
  // Of one device; queues beyond are not made.
  static constexpr unsigned kVectorsMax = 129;

  explicit VfioBus(bool allow_no_iommu = false) noexcept : allow_no_iommu_(allow_no_iommu) {}

  Result<std::shared_ptr<PciDevice>> open(const std::string& address) override;
  std::vector<std::string> list() const override;

 private:
  const bool allow_no_iommu_;
  std::mutex mutex_;                                        // opening only
  std::array<std::weak_ptr<VfioContainer>, 2> containers_;  // with an IOMMU, without
};

}  // namespace diskengine::fabric::pcie
