// The trace checklist of one volume: every object that its path consists of, by name, with the one RPC that proves it.
// build_checklist() only names them; run_checklist() asks and judges. Both know nothing of how the answers came.
#pragma once

#include <boost/json.hpp>
#include <functional>
#include <string>
#include <string_view>
#include <vector>

#include "control/diagnose/expected_path.h"
#include "control/diagnose/node_access.h"

namespace diskengine::control {

enum class Verdict { pass, warn, fail };
std::string_view name_of(Verdict verdict) noexcept;

struct Finding {
  Verdict verdict = Verdict::fail;
  std::string evidence;  // what was found, and for anything but pass what was expected
};

struct Check {
  std::string layer;   // vhost, raid, initiator, target, lvol, disk
  std::string node;    // whose data plane is asked
  std::string object;  // its expected name
  std::string proves;  // what a pass says
  std::string method;
  boost::json::object params;
  std::function<Finding(const boost::json::value& answer)> judge;  // of a successful answer
};

// In the order of the write's path: from the guest to the disks.
std::vector<Check> build_checklist(const ExpectedPath& path);

struct CheckedItem {
  const Check* check;
  Finding finding;
};

// A node that could not be asked from here is a warning that says where to ask; one that is dead is a failure. An error
// that the data plane answered is a failure with that error: the object is not there.
std::vector<CheckedItem> run_checklist(const std::vector<Check>& checks, Asker& asker);

}  // namespace diskengine::control
