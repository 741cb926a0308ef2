// The health of an NVMe disk as SPDK's bdev_nvme_get_controller_health_info prints it, whoever asked the disk.
#pragma once

#include <boost/json/object.hpp>
#include <string>

#include "format/nvme_identify.h"

namespace diskengine::rpc {

// `address` is where the disk is: an IP address, a PCI address, a path.
boost::json::object health_info(const spec::IdentifyController& id, const spec::SmartLog& log,
                                const std::string& address);

}  // namespace diskengine::rpc
