// Asks the data planes of a volume's path for what they recorded. One thread; blocks, each call with a time-out.
#pragma once

#include <cstdint>

#include "control/diagnose/expected_path.h"
#include "control/diagnose/latency_history.h"
#include "control/diagnose/node_access.h"
#include "control/environment.h"

namespace diskengine::control {

// The last `since_ms` before now: by the second for up to an hour and a quarter, else by the minute. Nodes that cannot
// be asked, or keep no history, are gaps of it.
LatencyHistory fetch_history(const ExpectedPath& path, Asker& asker, Environment& environment, int64_t since_ms);

}  // namespace diskengine::control
