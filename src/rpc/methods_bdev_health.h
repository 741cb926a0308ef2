// diskengine_bdev_get_health: the health of the disk under a bdev, whoever drives it.
#pragma once

#include "block/registry.h"
#include "nvme/manager.h"
#include "rpc/method.h"

namespace diskengine::rpc {

void add_health_methods(MethodTable& methods, DeviceRegistry& devices, nvme::HostManager& host);

}  // namespace diskengine::rpc
