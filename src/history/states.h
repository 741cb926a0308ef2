// Turns states that are looked at once a second into events: what began, what changed, what ended. For what layers do
// not announce by themselves: paths, rebuilds, scrubs, requests that are stuck.
//
// Threads: one owner.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include "format/history.h"

namespace diskengine::history {

// Something that is not as it is most of the time.
struct ObjectState {
  std::string kind;  // "path", "leg", "rebuild", "scrub", "stuck"
  std::string object;
  std::string text;  // for people; another one is a change worth an event
};

class StateBook {
 public:
  static constexpr size_t kStatesMax = 4096;  // further ones are not noted

  // `now` has all that are under way; of each that began, changed or ended since the last call there is an event.
  std::vector<spec::HistoryRecord> look(const std::vector<ObjectState>& now, uint64_t now_ms);

 private:
  struct Under {
    std::string text;
    uint64_t since_ms = 0;
    bool seen = true;
  };
  std::map<std::pair<std::string, std::string>, Under> under_way_;
};

spec::HistoryRecord event(std::string type, std::string object, std::string text, uint64_t now_ms,
                          spec::HistoryPhase phase = spec::HistoryPhase::moment, uint64_t took_ms = 0);

}  // namespace diskengine::history
