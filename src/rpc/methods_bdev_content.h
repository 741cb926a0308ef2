// diskengine_bdev_get_content: what a device holds, to be asked before it is overwritten.
#pragma once

#include "block/registry.h"
#include "rpc/method.h"

namespace diskengine::rpc {

void add_content_methods(MethodTable& methods, DeviceRegistry& devices);

}  // namespace diskengine::rpc
