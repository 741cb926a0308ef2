#include "fabric/target.h"

#include <fmt/format.h>

#include "base/checked.h"

namespace diskengine::fabric {

Result<void> check_target_options(const TargetOptions& o) {
  auto wrong = [](const char* what, uint64_t value, const char* range) {
    return Error(Errc::invalid_argument, fmt::format("{} {} is not {}", what, value, range));
  };
  if (o.max_queue_depth < 2 || o.max_queue_depth > 4096)
    return wrong("queue depth", o.max_queue_depth, "between 2 and 4096");
  if (o.max_admin_depth < 2 || o.max_admin_depth > 4096)
    return wrong("admin queue depth", o.max_admin_depth, "between 2 and 4096");
  if (o.max_io_queues < 1 || o.max_io_queues > 1023) return wrong("I/O queues", o.max_io_queues, "between 1 and 1023");
  if (o.in_capsule_bytes > 65536 || o.in_capsule_bytes % 512 != 0)
    return wrong("in-capsule data size", o.in_capsule_bytes, "a multiple of 512 up to 65536");
  if (o.max_io_bytes < 8192 || o.max_io_bytes > 1024 * 1024 || !is_power_of_two(o.max_io_bytes))
    return wrong("transfer size", o.max_io_bytes, "a power of two between 8192 and 1048576");
  if (o.buffer_bytes < 65536 || o.buffer_bytes > o.max_io_bytes * 16u || o.buffer_bytes % 4096 != 0)
    return wrong("buffer size", o.buffer_bytes, "a multiple of 4096 from 65536 on");
  if (o.srq_entries < 16 || o.srq_entries > 65536)
    return wrong("shared receive queue depth", o.srq_entries, "between 16 and 65536");
  if (o.backlog < 1 || o.backlog > 65535) return wrong("backlog", o.backlog, "between 1 and 65535");
  if (uint64_t{o.buffers} * o.buffer_bytes < o.max_io_bytes || o.buffers > 65536)
    return wrong("number of buffers", o.buffers, "enough for one transfer, and at most 65536");
  return {};
}

}  // namespace diskengine::fabric
