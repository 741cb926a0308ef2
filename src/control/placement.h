// Which disks hold a new volume's replicas. Pure; any thread.
#pragma once

#include <cstdint>
#include <vector>

#include "base/result.h"
#include "control/model.h"

namespace diskengine::control {

// `replicas` disks on as many different storage nodes, those with the most room first, each with room for `size_bytes`
// beside what its lvols may already grow to. `no_space` says what each node has.
Result<std::vector<int64_t>> place_replicas(const Graph& graph, int64_t size_bytes, int64_t replicas);

}  // namespace diskengine::control
