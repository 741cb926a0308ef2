// The methods that tell what happened to devices (SPDK: notify_*).
#pragma once

#include "rpc/device_events.h"
#include "rpc/method.h"

namespace diskengine::rpc {

// `events` outlives the table.
void add_notify_methods(MethodTable& methods, const DeviceEvents& events);

}  // namespace diskengine::rpc
