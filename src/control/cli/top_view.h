// What `diskengine top` shows of the last second: volumes with their stages, and reactors. Pure functions on what
// diskengine_history_get answers; any thread.
#pragma once

#include <boost/json/fwd.hpp>
#include <cstdint>
#include <string>
#include <vector>

namespace diskengine::control::cli {

struct TopStage {
  std::string name;
  double p50_us = 0;
  double p99_us = 0;
};

struct TopVolume {
  std::string name;
  std::string node;
  double iops = 0;
  double mib_s = 0;
  double p50_us = 0;  // of reads or writes, whichever is worse
  double p99_us = 0;
  int64_t outstanding = 0;
  int64_t oldest_ms = 0;
  std::vector<TopStage> stages;  // of its traced I/O, in the order of the path
};

struct TopReactor {
  std::string node;
  std::string name;
  double busy_percent = 0;
  double spinning_percent = 0;  // polled and found nothing
  double asleep_percent = 0;
};

struct TopNode {
  std::string name;
  std::string trouble;  // empty: it was asked
};

struct Top {
  int64_t now_ms = 0;  // unix time
  std::vector<TopNode> nodes;
  std::vector<TopVolume> volumes;    // the busiest first
  std::vector<TopReactor> reactors;  // in order of nodes
};

struct TopTarget {
  std::string volume;  // "data"
  std::string raid;    // "raid_7"
};

// Adds what one node answered for the last moments: of each object the newest record. `fresh_ms`: records that ended
// before then (on the node's clock) are of the past. Volumes that did nothing lately stay out.
void add_node(const std::string& node, const boost::json::value& answer, const std::vector<TopTarget>& targets,
              int64_t fresh_ms, Top* top);
// Puts the busiest volumes first.
void sort(Top* top);

// At most `rows` lines of at most `columns`, without control characters.
std::string draw(const Top& top, size_t columns, size_t rows);
boost::json::object encode(const Top& top);

}  // namespace diskengine::control::cli
