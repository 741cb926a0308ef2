// What the nodes of one volume recorded of a stretch of time, in one clock: what the latency doctor looks at. Plain
// data and its reading from diskengine_history_get; any thread.
#pragma once

#include <boost/json/fwd.hpp>
#include <cstdint>
#include <string>
#include <vector>

namespace diskengine::control {

// Whose samples they are. In the order of a write; a layer's latency holds those of the layers after it.
enum class PastRole { volume, leg, lvol, disk, reactor, connections, interface, temperature };

struct PastSample {
  int64_t end_ms = 0;  // unix time of the machine that asks
  int64_t span_ms = 0;
  double ops = 0;           // completed in it
  double kib = 0;           // read and written
  double p99_us = 0;        // of I/Os or of moments, reads or writes, whichever is worst; of what stands still, its age
  double allocate_us = 0;   // lvol: p99 of preparing first writes to clusters, among traced I/O
  double busy_percent = 0;  // reactor
  double sent = 0;          // connections: segments
  double again = 0;         // connections, interface: sent a second time
  double lost = 0;          // interface: dropped or damaged
  double celsius = 0;       // temperature
  double warning_celsius = 0;
};

struct PastSeries {
  PastRole role = PastRole::volume;
  std::string node;
  std::string name;
  std::string leg;                  // leg, lvol, disk, connections: the base bdev of the replica that they belong to
  std::vector<PastSample> samples;  // in order of time
};

struct PastEvent {
  std::string node;
  std::string type;  // docs/history.md lists them
  std::string phase;
  std::string object;
  std::string text;
  int64_t begin_ms = 0;
  int64_t end_ms = 0;
};

// A node or kind of record that could not be looked at.
struct PastGap {
  std::string what;
  std::string why;
};

struct LatencyHistory {
  std::string volume;
  std::string raid;
  std::vector<std::string> controllers;  // of the initiator, to the volume's replicas
  int64_t since_ms = 0;
  int64_t until_ms = 0;
  std::vector<PastSeries> series;
  std::vector<PastEvent> events;
  std::vector<PastGap> gaps;
};

// `answer` is that of diskengine_history_get for one object; `ahead_ms` how far that node's clock is ahead. What is not
// as expected is left out.
std::vector<PastSample> read_samples(const boost::json::value& answer, int64_t ahead_ms);
// Those of networks and temperatures, for each name by itself; `leg` is not set.
std::vector<PastSeries> read_machine(const boost::json::value& answer, const std::string& node, int64_t ahead_ms);
std::vector<PastEvent> read_events(const boost::json::value& answer, const std::string& node, int64_t ahead_ms);

}  // namespace diskengine::control
