// Runs the reconcile loops of the nodes that this process serves: one plain thread per node, a pass every tick or as
// soon as somebody pokes, as long as it has the node's lease (LeaseKeeper); and for each compute node one that waits
// for its mirrors' events (RaidWatcher). Nodes that are added to the database later are taken up, nodes whose data
// plane moved are started anew.
//
// Thread-safe. `store` and `environment` outlive it. It owns its threads; stop() lets each finish its current pass.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "control/environment.h"
#include "control/loop.h"
#include "control/store/store.h"

namespace diskengine::control {

class Supervisor {
 public:
  struct Options {
    std::vector<std::string> roles;  // kRoleStorage, kRoleCompute
    std::vector<std::string> nodes;  // only these; empty: every node of these roles
    LoopLimits limits;
  };
  Supervisor(Store& store, Environment& environment, Options options);
  ~Supervisor();

  void start();
  // Something was asked for: look now instead of at the next tick.
  void poke();
  // Returns when every thread has ended.
  void stop();

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace diskengine::control
