// The methods of the disks (SPDK: bdev_malloc_*, bdev_uring_*, bdev_aio_*).
#pragma once

#include "block/registry.h"
#include "rpc/method.h"
#include "runtime/random.h"

namespace diskengine::rpc {

// `devices` and `random` outlive the table.
void add_disk_methods(MethodTable& methods, DeviceRegistry& devices, Random& random);

}  // namespace diskengine::rpc
