// Decides from the facts of a volume's path what is wrong with it: first whether the graph exists, then layer by layer
// as the write goes, then the causes in order. Pure: the same facts give the same diagnosis; any thread.
//
// A cause is `certain` only when the facts leave no other one: a single RPC that looks healthy (a mirror that is
// online, a controller that is enabled, a disk that is well) is never taken for proof of the whole path.
#pragma once

#include <boost/json.hpp>
#include <string>
#include <string_view>
#include <vector>

#include "control/diagnose/facts.h"

namespace diskengine::control {

enum class Certainty { possible, likely, certain };
std::string_view name_of(Certainty certainty) noexcept;

// What it does to the guest, from nothing to everything.
enum class Impact { none, slow, redundancy, outage };
std::string_view name_of(Impact impact) noexcept;

struct Cause {
  std::string layer;  // control-plane, guest, vhost, raid, initiator, network, target, lvol, disk
  std::string code;   // "host-not-admitted", fixed: docs/diagnosis.md lists them
  std::string node;   // where; empty: nowhere in particular
  std::string object;
  Certainty certainty = Certainty::possible;
  Impact impact = Impact::none;
  std::string summary;
  std::vector<std::string> evidence;
  std::string next;  // a command, or what a person does
};

enum class LayerState { ok, amiss, unknown };
std::string_view name_of(LayerState state) noexcept;

struct LayerReport {
  std::string layer;
  std::string node;
  LayerState state = LayerState::unknown;
  std::string text;
};

struct Diagnosis {
  bool graph_exists = false;  // every object of the path that could be asked for is there
  std::string headline;
  std::vector<LayerReport> layers;
  std::vector<Cause> causes;  // the first one is the one to act on
};

Diagnosis diagnose(const Facts& facts);

boost::json::object encode(const Diagnosis& diagnosis);

}  // namespace diskengine::control
