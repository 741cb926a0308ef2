// What the queues of one reactor to the devices of one domain share: memory through which data passes that the devices
// do not reach where it is, and what is listed and reached.
//
// Threads: its reactor. Held by its queues.
#pragma once

#include <memory>

#include "fabric/bounce_pool.h"
#include "fabric/pcie/pci_device.h"
#include "fabric/region_map.h"

namespace diskengine::fabric::pcie {

class Lane {
 public:
  static constexpr size_t kUnitBytes = 16 * 1024;
  static constexpr size_t kUnits = 1024;

  static Result<std::shared_ptr<Lane>> make(Reactor& reactor, std::shared_ptr<DmaDomain> domain, Registrar& registrar);
  ~Lane();

  Reactor& reactor() const noexcept { return reactor_; }
  BouncePool& pool() noexcept { return memory_->pool; }
  const DmaMapping& pool_mapping() const noexcept { return memory_->mapping; }
  // The address at which devices reach all of [at, at + bytes), if they do.
  bool find(const void* at, size_t bytes, uint64_t* iova) noexcept {
    const RegionMap::Entry* const entry = map_->find(at, bytes);
    if (entry == nullptr || entry->registration == nullptr) return false;
    *iova = static_cast<const DmaMapping*>(entry->registration.get())->iova_of(at);
    return true;
  }

 private:
  struct Memory {
    explicit Memory(DmaBuffer buffer) : pool(kUnitBytes, std::move(buffer)) {}
    BouncePool pool;
    DmaMapping mapping;
  };

  explicit Lane(Reactor& reactor) : reactor_(reactor) {}

  Reactor& reactor_;
  std::shared_ptr<Memory> memory_;
  std::shared_ptr<RegionMap> map_;
};

}  // namespace diskengine::fabric::pcie
