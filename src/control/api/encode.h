// The database's rows as the API shows them: names instead of ids where people look, and the names of the data planes'
// objects beside them.
#pragma once

#include <boost/json/fwd.hpp>

#include "control/model.h"

namespace diskengine::control {

boost::json::object encode(const Graph& graph, const Node& node);
boost::json::object encode(const Graph& graph, const Disk& disk);
boost::json::object encode(const Graph& graph, const Volume& volume);
boost::json::object encode(const Graph& graph, const VolumeLvolMapping& replica);
boost::json::object encode(const Graph& graph, const VolumeVmMapping& attachment);
boost::json::object encode(const Event& event);
boost::json::object encode(const Operation& operation);

}  // namespace diskengine::control
