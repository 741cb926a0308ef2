// How a volume is, from how its replicas and its attachment are. Pure; any thread.
#pragma once

#include "control/model.h"

namespace diskengine::control {

Status volume_status(const Graph& graph, const Volume& volume);

}  // namespace diskengine::control
