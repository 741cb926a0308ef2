// The load generator's method, diskengine_perf_run.
#pragma once

#include "block/registry.h"
#include "rpc/method.h"

namespace diskengine::rpc {

// `devices` outlives the table. Loads run on the main reactor.
void add_perf_methods(MethodTable& methods, DeviceRegistry& devices);

}  // namespace diskengine::rpc
