// How a person asks a data plane the same question: a command line ready for a shell. Pure; any thread.
#pragma once

#include <boost/json/fwd.hpp>
#include <string>

namespace diskengine::control {

// diskengine rpc --node s1 bdev_get_bdevs '{"name":"x"}'
std::string rpc_command(const std::string& node, const std::string& method, const boost::json::object& params);

}  // namespace diskengine::control
