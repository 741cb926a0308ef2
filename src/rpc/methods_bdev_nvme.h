// The methods of the NVMe host (SPDK: bdev_nvme_*).
#pragma once

#include <vector>

#include "nvme/manager.h"
#include "rpc/method.h"
#include "runtime/reactor.h"

namespace diskengine::rpc {

// `host` outlives the table. `reactors`: all of the process, the main one first.
void add_bdev_nvme_methods(MethodTable& methods, nvme::HostManager& host, std::vector<Reactor*> reactors);

}  // namespace diskengine::rpc
