// The methods of the disks (SPDK: bdev_malloc_*, bdev_uring_*, bdev_aio_*).
#pragma once

#include "block/registry.h"
#include "rpc/examination.h"
#include "rpc/method.h"
#include "runtime/random.h"

namespace diskengine::rpc {

// The references outlive the table. A disk in a file was examined when the call that makes it is answered.
void add_disk_methods(MethodTable& methods, DeviceRegistry& devices, Examination& examination, Random& random);

}  // namespace diskengine::rpc
