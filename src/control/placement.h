// Which disks hold a new volume's replicas. Pure; any thread.
#pragma once

#include <cstdint>
#include <vector>

#include "base/result.h"
#include "control/model.h"

namespace diskengine::control {

struct PlacementWish {
  int64_t size_bytes = 0;
  int64_t block_size = 512;
  int64_t replicas = 2;
};

// `replicas` disks on as many different storage nodes, those with the most room first, each with blocks of the wished
// size and room for `size_bytes` beside what its lvols may already grow to. `no_space` says what each node has.
Result<std::vector<int64_t>> place_replicas(const Graph& graph, const PlacementWish& wish);

}  // namespace diskengine::control
