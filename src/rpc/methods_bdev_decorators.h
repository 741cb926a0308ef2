// The methods of the error and delay devices (SPDK: bdev_error_*, bdev_delay_*).
#pragma once

#include "block/registry.h"
#include "rpc/method.h"
#include "runtime/random.h"

namespace diskengine::rpc {

// `devices` and `random` outlive the table.
void add_decorator_methods(MethodTable& methods, DeviceRegistry& devices, Random& random);

}  // namespace diskengine::rpc
