// A protection domain of one reactor's device, and the memory that is registered in it where it is (region_map.h).
//
// Threads: its reactor; registrations are made and end on the registrar's thread.
#pragma once

#include <memory>

#include "fabric/rdma/verbs.h"
#include "fabric/region_map.h"

namespace diskengine::fabric::rdma {

class MemoryMap {
 public:
  MemoryMap(std::shared_ptr<Verbs> verbs, Reactor& reactor, OwnedPd pd, Registrar& registrar);

  ibv_pd* pd() const noexcept { return domain_->pd.get(); }
  RegistrarWork& work() const noexcept { return map_->work(); }
  // The registration that covers all of [at, at + bytes), or nullptr. Valid until the region leaves the list.
  const ibv_mr* find(const void* at, size_t bytes) noexcept {
    const RegionMap::Entry* const entry = map_->find(at, bytes);
    return entry == nullptr ? nullptr : static_cast<const Registration*>(entry->registration.get())->mr.get();
  }

 private:
  // Kept by the registrations in it.
  struct Domain {
    std::shared_ptr<Verbs> verbs;
    OwnedPd pd;
  };
  struct Registration {
    std::shared_ptr<Domain> domain;
    OwnedMr mr;
  };

  const std::shared_ptr<Domain> domain_;
  const std::shared_ptr<RegionMap> map_;
};

}  // namespace diskengine::fabric::rdma
