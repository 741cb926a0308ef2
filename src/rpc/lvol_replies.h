// What the lvol methods share: how SPDK answers when they fail, and its ways to name a store. Main reactor.
//
// SPDK checks names first and answers those errors with -errno. What fails later has code -32602, or -32603 when
// something is deleted, and only the text of the errno tells what it was; so that text opens every message here.
#pragma once

#include <boost/json/object.hpp>
#include <string>
#include <string_view>

#include "base/result.h"
#include "lvol/manager.h"
#include "rpc/method.h"

namespace diskengine::rpc {

// "No such device: there is no lvol 'x'"
std::string lvol_message(const Error& error);
// With code -errno.
Fault lvol_fault(const Error& error);
// With the code given.
Fault lvol_fault(const Error& error, int code);
// What has no more to say than that it went well: true, or a fault with code -32602.
Reply lvol_done(const Result<void>& outcome);

// The store named by exactly one of the parameters `uuid_key` and "lvs_name". Errc::invalid_argument: both or none;
// no_device.
Result<lvol::StoreInfo> named_store(const lvol::LvolManager& manager, const boost::json::object& params,
                                    std::string_view uuid_key = "uuid");

// "default", "none", "unmap", "write_zeroes", as the schema allows them.
lvol::ClearMethod clear_method_of(const boost::json::object& params);

}  // namespace diskengine::rpc
