// Ties the latency spikes of a volume to a layer and a cause, from what its nodes recorded. Pure: the same history
// gives the same finding; any thread.
//
// That two things happened at once is no proof. A cause is `likely` only if chance would hardly bring them together so
// often, and `certain` only if besides nearly every spike has it, nearly every time it happened there was a spike, it
// is an event with a known effect, the layer fits, and no other one fits as well.
#pragma once

#include <boost/json/fwd.hpp>
#include <cstdint>
#include <string>
#include <vector>

#include "control/diagnose/diagnose.h"
#include "control/diagnose/latency_history.h"
#include "control/diagnose/latency_spikes.h"
#include "control/diagnose/latency_suspects.h"

namespace diskengine::control {

// Where the time of the spikes was spent: the deepest layer that was slow with the volume.
struct SpikeLayer {
  std::string layer;  // raid, network, target, lvol, disk; "target": network or target, which were not told apart
  std::string node;
  size_t spikes = 0;  // of all, so many
};

struct LatencyCause {
  Suspect suspect;
  Certainty certainty = Certainty::possible;
  std::vector<std::string> evidence;
};

struct LatencyExcluded {
  std::string code;
  std::string node;
  std::string why;
};

struct LatencyFinding {
  std::string headline;
  Usual usual;
  std::vector<Spike> spikes;
  int64_t period_ms = 0;             // 0: none
  std::vector<SpikeLayer> layers;    // the one with the most spikes first
  std::vector<LatencyCause> causes;  // the most certain first
  std::vector<LatencyExcluded> excluded;
};

LatencyFinding find_latency_causes(const LatencyHistory& history);

boost::json::object encode(const LatencyHistory& history, const LatencyFinding& finding);

}  // namespace diskengine::control
