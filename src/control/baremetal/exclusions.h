// A mirror that lost a leg holds the writes that the leg lacks, and asks for the leg's exclusion. Here it is put on
// record, under the epoch that the mirror is held by, and then confirmed. If the epoch is lost the mirror is fenced.
//
// Level-triggered: it works from what the mirror says it waits for, so a missed event loses nothing, and two threads,
// or two agents, at the same work do no harm. Every decision about in_sync is a compare-and-set on the version of the
// one before, and a leg's exclusion is a decision even if the leg is not in the set: otherwise somebody who saw that
// leg well before could still record it as in sync afterwards.
//
// Called from the thread of a compute node's loops and from its RaidWatcher.
#pragma once

#include <string>
#include <vector>

#include "base/result.h"
#include "control/dataplane/data_plane.h"
#include "control/store/store.h"

namespace diskengine::control {

enum class ExclusionStep {
  none,     // nothing is wanted, or it is not for this control plane to decide
  exclude,  // record `next`, then confirm
  fence,    // the mirror's epoch is over
};

struct ExclusionPlan {
  ExclusionStep step = ExclusionStep::none;
  InSyncChange change;            // of exclude
  std::vector<std::string> legs;  // of exclude: base bdevs to confirm
  int64_t later_epoch = 0;        // of fence
  std::string trouble;            // of none: why writes are held and stay so, for people

  bool operator==(const ExclusionPlan&) const = default;
};

ExclusionPlan plan_exclusion(const Graph& graph, const RaidView& raid);

struct ExclusionOutcome {
  int steps = 0;        // exclusions confirmed, mirrors fenced
  int pending = 0;      // mirrors that still wait: look again soon
  std::string trouble;  // why, for people
};

// Settles what `raids` wait for. An Error is the data plane's trouble; a database that does not answer, or whose
// commit's outcome is unknown, leaves the exclusion pending: it is read again before anything is decided.
Result<ExclusionOutcome> settle_exclusions(Store& store, DataPlane& data_plane, const std::vector<RaidView>& raids);

}  // namespace diskengine::control
