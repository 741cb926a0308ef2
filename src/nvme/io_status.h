// What an NVMe controller answered, as the block layer's outcome. The table is in docs/formats/nvme.md. Any thread.
#pragma once

#include <string>

#include "block/io_status.h"
#include "format/nvme.h"

namespace diskengine::nvme {

// `status_field` is Cqe::status.
IoStatus io_status_of(uint16_t status_field) noexcept;
// True if the same command may well succeed a moment later, on this path or another one.
bool is_transient(uint16_t status_field) noexcept;
// "invalid field in command (0/02, do not retry)".
std::string describe_status(uint16_t status_field);

}  // namespace diskengine::nvme
