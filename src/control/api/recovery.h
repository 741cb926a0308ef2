// An operator's override of a lost in_sync set: which replica a volume may go on with, and what that loses. Pure; any
// thread.
#pragma once

#include <string>
#include <vector>

#include "base/result.h"
#include "control/store/store.h"

namespace diskengine::control {

struct RecoveryRequest {
  int64_t replica_id = 0;  // 0: the only one that can be chosen
  bool accept_data_loss = false;
};
Result<RecoveryRequest> decode_recovery(const std::string& body);

struct RecoveryPlan {
  Recovery recovery;
  std::vector<std::string> steps;  // what will be done, for people
};

// `conflict`: a replica with current data is reachable, so nothing has to be lost; or data loss is not accepted.
// `invalid_argument`: the replica cannot be chosen, or several can. `now_ms`: unix time.
Result<RecoveryPlan> plan_recovery(const Graph& graph, const Volume& volume, const RecoveryRequest& request,
                                   int64_t now_ms);

}  // namespace diskengine::control
