// The methods that set how much is logged (SPDK: log_set_level and friends).
#pragma once

#include "rpc/method.h"

namespace diskengine::rpc {

void add_log_methods(MethodTable& methods);

}  // namespace diskengine::rpc
