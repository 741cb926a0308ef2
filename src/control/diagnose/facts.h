// What was seen of one volume's path: the control plane's view, two looks at the counters of every data plane that can
// be asked, and the state of each object. Plain values: observe() makes them, diagnose() decides from them and from
// nothing else.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "control/diagnose/expected_path.h"
#include "control/diagnose/node_access.h"

namespace diskengine::control {

// One device between the two looks.
struct Flow {
  bool exists = false;
  int64_t completed = 0;     // reads and writes
  int64_t errors = 0;        // of any operation
  int64_t total_errors = 0;  // since it was made
  double mean_us = 0;        // of what completed; 0: nothing did
  int64_t outstanding = 0;   // at the second look
  int64_t oldest_us = 0;     // how long the oldest of those has waited
};

struct QueueFacts {
  int64_t index = 0;
  int64_t inflight = 0;   // taken, not returned to the guest
  int64_t waiting = 0;    // in the ring at both looks, not taken
  int64_t unseen = 0;     // completions that the guest had not looked at, at both looks
  int64_t completed = 0;  // between the looks
  int64_t notified = 0;   // since the queue began
  bool broken = false;
};

struct VhostFacts {
  bool exists = false;
  bool tells_bdev = false;  // whether the data plane says which bdev is behind it
  std::string bdev;         // empty: it lost its bdev
  bool connected = false;
  bool tells_sessions = false;
  std::vector<QueueFacts> queues;
};

struct RaidFacts {
  bool exists = false;
  std::string state;
  bool fenced = false;
  int64_t held_writes = 0;
  std::string exclusions_wanted;  // "leg: reason", empty if none
  std::string rebuild_target;     // base bdev, empty if none
  int64_t rebuild_percent = 0;
  bool waiting = false;  // no leg in sync can be reached
  int64_t waited_ms = 0;
  int64_t wait_limit_s = 0;
  bool gave_up = false;  // that passed: I/O fails
  bool stopped = false;  // every leg may have lost what was acknowledged; until it is told to go on
  std::string reason;    // why it is stopped, waits, or is not online
  Flow flow;
};

// A replica as the compute node has it.
struct LegFacts {
  bool in_mirror = false;  // configured
  std::string state;       // as the mirror says, where it does
  std::string reason;
  bool controller = false;
  std::string controller_state;
  std::string controller_reason;
  std::string where;     // address:port it is connected to
  std::string host_nqn;  // as whom
  int64_t paths = 0;
  int64_t lost_paths = 0;
  Flow base;
};

// A replica as its storage node has it.
struct ExportFacts {
  bool transport = false;
  bool subsystem = false;
  bool listener = false;
  bool admitted = false;  // the current writer
  bool any_host = false;
  std::string other_hosts;  // admitted besides, separated by spaces
  std::string namespaces;   // the bdevs behind them
  bool ns_is_lvol = false;
  bool connected = false;  // the current writer has a controller
  std::string other_connected;
  bool store = false;
  int64_t free_clusters = 0;
  int64_t total_clusters = 0;
  std::string frozen;
  std::string damage;  // of the lvol: why it could not be loaded
  Flow lvol;
  Flow disk;
};

struct ReplicaFacts {
  ExpectedReplica expected;
  LegFacts leg;
  ExportFacts exported;
};

struct NodeFacts {
  ExpectedNode expected;
  NodeReach reach;
  int64_t seen_age_ms = -1;  // since the control plane's loop last saw it; -1: never
  double busiest_share = 0;  // of its time, the busiest reactor was working
  std::string busiest_name;
  bool ages_known = false;  // it can say how old requests are
};

struct Facts {
  ExpectedPath path;
  int64_t window_ms = 0;  // between the two looks
  std::vector<NodeFacts> nodes;
  VhostFacts vhost;
  RaidFacts raid;
  std::vector<ReplicaFacts> replicas;

  const NodeFacts* node(std::string_view name) const;
  bool answers(std::string_view node) const;
};

}  // namespace diskengine::control
