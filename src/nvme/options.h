// What can be chosen about the NVMe host: for all controllers (bdev_nvme_set_options) and for one
// (bdev_nvme_attach_controller). Plain values; defaults are SPDK's unless said otherwise.
#pragma once

#include <cstdint>
#include <string>

#include "base/uuid.h"
#include "fabric/host.h"

namespace diskengine::nvme {

enum class TimeoutAction : uint8_t { none, reset, abort };

// How long a lost controller is waited for. SPDK's rules between the three are checked by check_loss_policy.
struct LossPolicy {
  // Until it is given up and its devices go away; -1: never; 0: no reconnecting beyond one attempt.
  int32_t controller_loss_s = 0;
  uint32_t reconnect_delay_s = 0;  // between attempts
  uint32_t fast_io_fail_s = 0;     // until I/O fails instead of waiting; 0: it waits as long as there are attempts
};
Result<void> check_loss_policy(const LossPolicy& policy);

struct HostOptions {
  TimeoutAction action_on_timeout = TimeoutAction::none;
  uint64_t timeout_us = 0;        // of an I/O command; 0: not watched
  uint64_t timeout_admin_us = 0;  // of an admin command; 0: as I/O, but never longer than kAdminLimitUs
  uint32_t keep_alive_ms = 10'000;
  uint32_t io_queue_requests = 512;  // commands in flight for each queue, at most fabric::kQueueDepthMax
  int32_t retries = 3;               // of a request before it fails; -1: no limit (bdev_retry_count)
  LossPolicy loss{};
};

struct ControllerOptions {
  std::string name;
  fabric::HostAddress address;
  std::string address_family = "IPv4";
  std::string subsystem_nqn;
  std::string host_nqn;
  Uuid host_id;
  bool header_digest = false;
  bool data_digest = false;
  uint32_t io_queues = 1024;        // wished for; the controller may grant fewer
  uint64_t connect_timeout_us = 0;  // of the fabrics connect command; 0: kAdminLimitUs
  LossPolicy loss;
  bool from_discovery = false;
};

// The longest any admin command is waited for.
inline constexpr uint64_t kAdminLimitUs = 10'000'000;

}  // namespace diskengine::nvme
