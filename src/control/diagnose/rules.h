// The rules of diagnose(), one function per part of the path. Each adds the causes that its part's facts show. Pure.
#pragma once

#include <vector>

#include "control/diagnose/diagnose.h"

namespace diskengine::control {

// Limits that the rules go by.
inline constexpr int64_t kStuckUs = 1'000'000;     // a request this old does not wait for an ordinary disk
inline constexpr double kSlowUs = 5'000;           // mean latency of the mirror from which on it is looked into
inline constexpr double kMajorShare = 0.5;         // of the mirror's latency, spent in one stage
inline constexpr double kOtherLegFactor = 4;       // slower than the other leg: the leg, not the load
inline constexpr double kSaturatedShare = 0.9;     // of a reactor's time
inline constexpr int64_t kLoopStoppedMs = 12'000;  // since a loop recorded that it looked; it does every 5 s
inline constexpr int64_t kLoopSurelyStoppedMs = 60'000;

// Whether I/O of the guest stands still somewhere below vhost.
bool is_stuck(const Facts& facts);
// Whether requests of a device wait and none of them completes.
bool stands_still(const Flow& flow);
// Whether a reactor of the node has no time left, which makes everything on it wait.
bool is_saturated(const Facts& facts, const std::string& node);
// Whether something of this replica is known from its storage node.
bool is_known(const Facts& facts, const ReplicaFacts& replica);
// "replica 3 on s1"
std::string describe(const ReplicaFacts& replica);

void add_control_plane_causes(const Facts& facts, std::vector<Cause>* causes);
void add_vhost_causes(const Facts& facts, std::vector<Cause>* causes);
void add_raid_causes(const Facts& facts, std::vector<Cause>* causes);
void add_replica_causes(const Facts& facts, const ReplicaFacts& replica, std::vector<Cause>* causes);
void add_latency_causes(const Facts& facts, std::vector<Cause>* causes);

std::vector<LayerReport> layer_reports(const Facts& facts, const std::vector<Cause>& causes);

}  // namespace diskengine::control
