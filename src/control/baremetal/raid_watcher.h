// Waits in a compute node's data plane for the event that a leg failed, and has its exclusion recorded and confirmed at
// once (exclusions.h): the guest's write is held meanwhile. The event only says that there is something to look at;
// what is missed, by either side's restart, the next look finds, here or in the loops' next pass.
//
// One thread runs it; its connection is its own. `store` and `environment` outlive it.
#pragma once

#include <atomic>
#include <functional>
#include <string>

#include "base/result.h"
#include "control/dataplane/data_plane.h"
#include "control/environment.h"
#include "control/store/store.h"

namespace diskengine::control {

class RaidWatcher {
 public:
  // How long one call waits for an event: the bound on how long the end of the watcher takes, not on how late it is.
  static constexpr int64_t kWaitMs = 500;
  static constexpr int64_t kPauseMs = 200;  // before the next try when something does not answer

  // `on_change` is called after an exclusion was settled, so that the loops go on at once.
  RaidWatcher(Store& store, Environment& environment, const std::string& rpc_socket, std::function<void()> on_change);

  // Until `is_stopping`. Outlives every restart of the data plane and of the database.
  void run(const std::atomic<bool>& is_stopping);

  // One wait and what follows from it. False: nothing can be waited for now, pause before the next.
  Result<bool> round();

 private:
  Store& store_;
  Environment& environment_;
  DataPlane data_plane_;
  std::function<void()> on_change_;
  bool is_able_ = false;     // the data plane has the methods, as far as is known
  bool is_pending_ = false;  // an exclusion could not be settled yet
  std::string told_;         // the trouble that was logged last
  std::string instance_;
  int64_t after_ = 0;
};

}  // namespace diskengine::control
