// The methods that show what I/Os did on their way: diskengine_trace_*.
#pragma once

#include <vector>

#include "block/registry.h"
#include "rpc/method.h"
#include "runtime/reactor.h"

namespace diskengine::rpc {

// The reactors, each with its recorder, outlive the table.
void add_trace_methods(MethodTable& methods, const std::vector<Reactor*>& reactors, DeviceRegistry& devices);

}  // namespace diskengine::rpc
