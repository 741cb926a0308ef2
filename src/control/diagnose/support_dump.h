// Collects what somebody who helps from afar needs of a fleet: the state of every data plane that can be asked, the
// control plane's rows and recent events, versions. Secrets are taken out. Blocking; one thread.
#pragma once

#include <boost/json.hpp>
#include <functional>
#include <string>
#include <vector>

#include "control/diagnose/node_access.h"

namespace diskengine::control {

struct DumpFile {
  std::string name;  // of the member of the archive
  boost::json::value content;
};

// One directory for each node: an answer, or the error, for each read-only method; nothing is changed anywhere.
std::vector<DumpFile> dump_node(const std::string& node, Asker& asker);

// The archive of these files, each redacted and indented. `modified_s`: unix time.
Result<std::string> pack(const std::vector<DumpFile>& files, int64_t modified_s,
                         const std::function<std::string(const boost::json::value&)>& render);

}  // namespace diskengine::control
