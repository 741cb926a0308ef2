// reconcile_exports: every replica on this node is exported as its own NVMe-oF subsystem with one namespace, backed by
// the lvol bdev, on the node's TCP address; it admits exactly the host NQN of the volume's current writer, or nobody.
//
// It is also the fence: once the export admits only the writer of the volume's epoch, and no controller of another host
// is left (then all of their I/O is drained), that is recorded as the replica's `fenced_epoch`, together with the host.
// Only then the writer connects, and nothing is assembled before. A host is admitted only while the database, asked
// right before, has its epoch.
//
// A replica with a superblock is also found by the storage node's own data plane, which then holds it for a mirror that
// is none of its business: it is made to let go of it first.
//
// Runs on the thread of its node's loops.
#pragma once

#include <string>

#include "base/result.h"
#include "control/loop.h"

namespace diskengine::control {

// How one replica's export should be.
struct ExportWish {
  std::string nqn;
  std::string bdev_name;  // the lvol's UUID
  std::string address;
  int64_t port = 0;
  std::string host;  // the one host NQN to admit; empty: none
  int64_t volume_id = 0;
  int64_t epoch = 0;   // the volume's
  int64_t writer = 0;  // that the host NQN belongs to
  bool wanted = true;
  std::string lvol_reason;  // why the lvol has no bdev yet
};

enum class ExportStep {
  none,
  release_leg,
  create_transport,
  create_subsystem,
  delete_subsystem,
  add_namespace,
  remove_namespace,
  add_listener,
  disallow_any_host,
  remove_host,
  admit_host,
};

struct ExportPlan {
  ExportStep step = ExportStep::none;
  std::string host;  // for remove_host
  std::string raid;  // for release_leg
  int64_t nsid = 0;  // for remove_namespace
  Status status;     // to record when no step is taken

  bool operator==(const ExportPlan&) const = default;
};

ExportWish export_wish(const Graph& graph, const VolumeLvolMapping& replica);
// The one next step towards the wish. Hosts that must not write are removed before the one that may is admitted.
ExportPlan plan_export(const ExportWish& wish, const TargetView& view);

// One step for each replica of the node.
Result<int> reconcile_exports(LoopContext& context, const Graph& graph, const TargetView& view);

}  // namespace diskengine::control
