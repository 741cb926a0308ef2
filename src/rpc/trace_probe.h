// One traced read of our own, for volumes whose guest does nothing.
#pragma once

#include "block/registry.h"
#include "rpc/method.h"

namespace diskengine::rpc {

// Reads the first block of the bdev in `params` and answers with its trace, as diskengine_trace_get_recent has it. A
// read changes nothing, whoever uses the bdev: it needs no claim, no lock and no room. Errors: no_device, would_block
// if the reactor has more I/O than it traces, io_error, not_supported without tracing.
Task<Reply> probe(DeviceRegistry& devices, boost::json::object params);

}  // namespace diskengine::rpc
