// How `diskengine doctor latency` draws its finding for people: pure, any thread.
#pragma once

#include <string>

#include "control/diagnose/latency_doctor.h"

namespace diskengine::control::cli {

// At most 80 columns wide: latency over time, below it when what was found and what else happened.
std::string draw_timeline(const LatencyHistory& history, const LatencyFinding& finding);
// The finding in words.
std::string tell(const LatencyHistory& history, const LatencyFinding& finding);

}  // namespace diskengine::control::cli
