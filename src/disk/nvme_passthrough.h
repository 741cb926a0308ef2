// The health of an NVMe disk that the kernel drives: its own words, by admin commands passed through /dev/nvme<n>.
#pragma once

#include <string>

#include "base/result.h"
#include "format/nvme_identify.h"

namespace diskengine {

struct NvmeHealth {
  std::string controller;  // "/dev/nvme0"
  spec::IdentifyController identity;
  spec::SmartLog log;
};

// Any thread; blocks until the disk has answered, 10 s for each command at most. `path` is a block device: a namespace
// or a partition of one. Errc::not_supported: it is no NVMe disk of the kernel's. Needs the right to open /dev/nvme<n>.
Result<NvmeHealth> read_nvme_health(const std::string& path);

}  // namespace diskengine
