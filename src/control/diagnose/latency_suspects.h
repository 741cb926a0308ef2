// Everything that is known to make I/O slow, as the stretches of time in which a recorded history shows it. The doctor
// compares them with the spikes. Pure; any thread.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "control/diagnose/latency_history.h"

namespace diskengine::control {

struct Stretch {
  int64_t begin_ms = 0;
  int64_t end_ms = 0;
  std::string what;  // for people
};

struct Suspect {
  std::string code;                // fixed: docs/diagnosis.md lists them
  std::string layer;               // where it would be: raid, network, target, lvol, disk, ...
  std::string node;                // empty: nowhere in particular
  std::string summary;             // "a snapshot was taken"
  std::string next;                // a command, or what a person does
  std::vector<std::string> fits;   // the layers that it can make slow, on `node` if there is one; empty: any
  bool can_be_certain = false;     // an event with a known effect, rather than something that is high as well
  bool fits_elsewhere = false;     // those layers on other nodes too
  bool is_beside = false;          // on a busy machine high in any case: the layer itself stays a cause beside it
  int64_t slack_ms = 0;            // for so long after its end it may still be felt
  std::vector<Stretch> stretches;  // in order of time; none: it did not happen
};

// All kinds, those that did not happen too: the doctor says that they are excluded.
std::vector<Suspect> suspects_of(const LatencyHistory& history);

}  // namespace diskengine::control
