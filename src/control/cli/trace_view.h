// One I/O's traces, of the compute node and of the targets that it reached, joined and drawn. Pure functions on what
// diskengine_trace_get_recent answers; any thread.
//
// Times of two machines are never subtracted: of a leg's time between command and answer, what its target says it took
// there is the target's, and the rest the network's, both ways together.
#pragma once

#include <boost/json/object.hpp>
#include <string>
#include <vector>

namespace diskengine::control::cli {

// One leg of a mirrored I/O.
struct TracedLeg {
  boost::json::object visit;   // as the compute node saw it
  std::string node;            // where its replica is; empty: not known
  boost::json::object target;  // the same command's trace there; empty: none
  std::string no_target;       // why not
  bool waited_for = false;
};

struct JoinedTrace {
  std::string volume;
  std::string node;           // compute node
  boost::json::object trace;  // there
  std::vector<TracedLeg> legs;
  bool probe = false;  // a read of our own: the guest did nothing
};

struct JoinedStage {
  std::string name;
  std::string where;  // node
  double us = 0;
};
// Down and up again, along the leg that was waited for; adds up to the total.
std::vector<JoinedStage> stages_of(const JoinedTrace& joined);
// What was unusual, in sentences.
std::vector<std::string> remarks_on(const JoinedTrace& joined);

// The nvme visits of a trace.
std::vector<TracedLeg> legs_of(const boost::json::object& trace);
// Of `candidates` (same host, queue and command id, newest first) the one for the same blocks; nullptr: none.
const boost::json::object* same_command(const boost::json::object& visit, const boost::json::array& candidates);

std::string draw(const JoinedTrace& joined);
boost::json::object to_json(const JoinedTrace& joined);
// For OpenTelemetry collectors: one span for each visit. `now_unix_ns` is when the ages in the traces were taken, and
// the ids are made from it.
boost::json::object to_otlp(const JoinedTrace& joined, int64_t now_unix_ns);

}  // namespace diskengine::control::cli
