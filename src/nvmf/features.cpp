// Set Features and Get Features.
#include <algorithm>

#include "nvmf/controller.h"
#include "nvmf/queue.h"
#include "nvmf/subsystem.h"
#include "nvmf/target.h"

namespace diskengine::nvmf {

using fabric::TargetCommand;
using spec::Feature;
using spec::Status;

namespace {

constexpr uint32_t kWriteCacheEnabled = 1;

uint32_t events_supported(bool discovery) noexcept {
  return discovery ? spec::kAsyncDiscoveryChange : spec::kAsyncNamespaceAttribute;
}

}  // namespace

void Controller::set_features(QueueRecord& queue, TargetCommand& command) {
  const uint32_t value = command.sqe.cdw11;
  if ((command.sqe.cdw10 & spec::kFeatureSave) != 0) return set_status(command, Status::feature_not_saveable);
  const auto feature = static_cast<uint8_t>(command.sqe.cdw10 & spec::kFeatureIdMask);
  if (is_discovery() && feature != Feature::async_event_config && feature != Feature::keep_alive_timer)
    return set_status(command, Status::invalid_field);
  switch (feature) {
    case Feature::arbitration:
      arbitration_ = value;
      return;
    case Feature::power_management:
      if ((value & 0x1f) != 0) set_status(command, Status::invalid_field);
      return;
    case Feature::temperature_threshold:
      if ((value >> 20 & 3) > 1) return set_status(command, Status::invalid_field);
      temperature_threshold_k_[value >> 20 & 1] = value & 0xffff;
      return;
    case Feature::error_recovery:
      error_recovery_ = value;
      return;
    case Feature::volatile_write_cache:
      // The cache belongs to the device below and stays as it is.
      if (!subsystem_.any_namespace_caches()) return set_status(command, Status::invalid_field);
      if ((value & kWriteCacheEnabled) == 0) set_status(command, Status::feature_not_changeable);
      return;
    case Feature::number_of_queues: {
      if (io_queues() > 0) return set_status(command, Status::command_sequence_error);
      if ((value & 0xffff) == 0xffff || value >> 16 == 0xffff) return set_status(command, Status::invalid_field);
      const uint32_t wanted = std::max(value & 0xffff, value >> 16) + 1;
      command.cqe.cdw0 = spec::queue_count(static_cast<uint16_t>(std::min(wanted, queue.options.max_io_queues)));
      return;
    }
    case Feature::write_atomicity:
      write_atomicity_ = value;
      return;
    case Feature::async_event_config:
      event_mask_ = value & events_supported(is_discovery());
      return;
    case Feature::keep_alive_timer: {
      constexpr uint32_t unit = kKeepAliveGranularity * kKeepAliveUnitMs;
      if (value > UINT32_MAX - unit) return set_status(command, Status::keep_alive_invalid);
      keep_alive_ms_ = (value + unit - 1) / unit * unit;
      return restart_keep_alive();
    }
    case Feature::host_identifier:
      return set_status(command, Status::command_sequence_error);  // over fabrics it comes with Connect
    default:
      return set_status(command, Status::invalid_field);
  }
}

void Controller::get_features(QueueRecord& queue, TargetCommand& command) {
  const auto feature = static_cast<uint8_t>(command.sqe.cdw10 & spec::kFeatureIdMask);
  if ((command.sqe.cdw10 & spec::kFeatureSelectMask) != 0) return set_status(command, Status::invalid_field);
  if (is_discovery() && feature != Feature::async_event_config && feature != Feature::keep_alive_timer)
    return set_status(command, Status::invalid_field);
  uint32_t& result = command.cqe.cdw0;
  switch (feature) {
    case Feature::arbitration:
      result = arbitration_;
      return;
    case Feature::power_management:
      return;
    case Feature::temperature_threshold:
      if ((command.sqe.cdw11 >> 20 & 3) > 1) return set_status(command, Status::invalid_field);
      result = temperature_threshold_k_[command.sqe.cdw11 >> 20 & 1];
      return;
    case Feature::error_recovery:
      result = error_recovery_;
      return;
    case Feature::volatile_write_cache:
      if (!subsystem_.any_namespace_caches()) return set_status(command, Status::invalid_field);
      result = kWriteCacheEnabled;
      return;
    case Feature::number_of_queues:
      result = spec::queue_count(static_cast<uint16_t>(queue.options.max_io_queues));
      return;
    case Feature::write_atomicity:
      result = write_atomicity_;
      return;
    case Feature::async_event_config:
      result = event_mask_;
      return;
    case Feature::keep_alive_timer:
      result = keep_alive_ms_;
      return;
    case Feature::host_identifier:
      if ((command.sqe.cdw11 & 1) == 0 || command.data_bytes != identity_.host_id.bytes.size())
        return set_status(command, Status::invalid_field);
      return put_data(command, identity_.host_id.bytes.data(), identity_.host_id.bytes.size());
    default:
      return set_status(command, Status::invalid_field);
  }
}

}  // namespace diskengine::nvmf
