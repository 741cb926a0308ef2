#include "fabric/rdma/memory_map.h"

#include <utility>

namespace diskengine::fabric::rdma {

MemoryMap::MemoryMap(std::shared_ptr<Verbs> verbs, Reactor& reactor, OwnedPd pd, Registrar& registrar)
    : domain_(std::make_shared<Domain>(Domain{std::move(verbs), std::move(pd)})),
      map_(registrar.make_map(
          reactor, [domain = domain_](const DmaRegions::Region& region) -> Result<std::shared_ptr<void>> {
            constexpr int kAccess = IBV_ACCESS_LOCAL_WRITE | IBV_ACCESS_REMOTE_READ | IBV_ACCESS_REMOTE_WRITE;
            TRY_ASSIGN(ibv_mr* const mr, domain->verbs->reg_mr(domain->pd.get(), region.base, region.bytes, kAccess));
            return std::shared_ptr<void>(
                std::make_shared<Registration>(Registration{domain, OwnedMr(*domain->verbs, mr)}));
          })) {}

}  // namespace diskengine::fabric::rdma
