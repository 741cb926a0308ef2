// The methods that read the process's past, and what it keeps of calls that change something.
#pragma once

#include "history/archive.h"
#include "rpc/method.h"

namespace diskengine::rpc {

// `archive` outlives the table; nullptr: no history is kept, and the method says so.
void add_history_methods(MethodTable& methods, history::Archive* archive);

// A table whose handlers are those of `methods`, but for calls that change how I/O flows (snapshots, clones, legs,
// paths, decorators...): those that succeeded are kept as events of type "rpc", with the objects they name and how long
// they took. Failed ones are left out: loops repeat them.
MethodTable with_history(const MethodTable& methods, history::Archive& archive);

}  // namespace diskengine::rpc
