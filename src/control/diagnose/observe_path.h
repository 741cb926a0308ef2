// Looks at one volume's path through the data planes. Blocking: two looks at the counters, `window_ms` apart.
#pragma once

#include "control/diagnose/facts.h"
#include "control/environment.h"

namespace diskengine::control {

// Nodes that cannot be asked are part of the facts, not an error.
Facts observe_path(const ExpectedPath& path, Asker& asker, Environment& environment, int64_t window_ms);

}  // namespace diskengine::control
