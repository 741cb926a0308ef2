#include "fabric/pcie/lane.h"

#include <span>
#include <utility>

namespace diskengine::fabric::pcie {

Result<std::shared_ptr<DmaMapping>> DmaDomain::map_region(const std::shared_ptr<DmaDomain>& domain,
                                                          const DmaRegions::Region& region) {
  const std::lock_guard lock(domain->mutex_);
  std::erase_if(domain->regions_, [](const auto& known) { return known.second.expired(); });
  std::weak_ptr<DmaMapping>& known = domain->regions_[region.id];
  if (std::shared_ptr<DmaMapping> mapping = known.lock()) return mapping;
  TRY_ASSIGN(DmaMapping made, DmaMapping::make(domain, region.base, region.bytes));
  auto mapping = std::make_shared<DmaMapping>(std::move(made));
  known = mapping;
  return mapping;
}

Result<std::shared_ptr<Lane>> Lane::make(Reactor& reactor, std::shared_ptr<DmaDomain> domain, Registrar& registrar) {
  TRY_ASSIGN(DmaBuffer buffer, domain->allocate(kUnitBytes * kUnits));
  std::shared_ptr<Lane> lane(new Lane(reactor));
  lane->memory_ = std::make_shared<Memory>(std::move(buffer));
  lane->map_ = registrar.make_map(reactor, [domain](const DmaRegions::Region& region) -> Result<std::shared_ptr<void>> {
    if (!domain->maps_any_memory()) return std::shared_ptr<void>();
    TRY_ASSIGN(std::shared_ptr<DmaMapping> mapping, DmaDomain::map_region(domain, region));
    return std::shared_ptr<void>(std::move(mapping));
  });
  const std::span<uint8_t> pool = lane->memory_->pool.memory();
  TRY_ASSIGN(lane->memory_->mapping, DmaMapping::make(std::move(domain), pool.data(), pool.size()));
  return lane;
}

Lane::~Lane() {
  RegistrarWork& work = map_->work();
  work.dispose(std::move(memory_));
  work.dispose(std::move(map_));
}

}  // namespace diskengine::fabric::pcie
