#include "rpc/nvme_health.h"

#include <cmath>

#include "nvme/association.h"

namespace diskengine::rpc {
namespace json = boost::json;

namespace {

// SPDK prints 128-bit counters as numbers; those past 64 bits lose their last digits here.
json::value wide(const spec::Uint128& value) {
  if (value.high == 0) return value.low;
  return std::ldexp(static_cast<double>(value.high), 64) + static_cast<double>(value.low);
}

}  // namespace

json::object health_info(const spec::IdentifyController& id, const spec::SmartLog& log, const std::string& address) {
  const auto celsius = [](uint16_t kelvin) { return int64_t{kelvin} - 273; };
  json::object info;
  info["model_number"] = nvme::text_of(id.model_number, sizeof id.model_number);
  info["serial_number"] = nvme::text_of(id.serial_number, sizeof id.serial_number);
  info["firmware_revision"] = nvme::text_of(id.firmware_revision, sizeof id.firmware_revision);
  info["traddr"] = address;
  info["critical_warning"] = log.critical_warning;
  info["temperature_celsius"] = celsius(log.temperature_k());
  info["available_spare_percentage"] = log.available_spare_percent;
  info["available_spare_threshold_percentage"] = log.available_spare_threshold_percent;
  info["percentage_used"] = log.percentage_used;
  info["data_units_read"] = wide(log.data_units_read);
  info["data_units_written"] = wide(log.data_units_written);
  info["host_read_commands"] = wide(log.host_reads);
  info["host_write_commands"] = wide(log.host_writes);
  info["controller_busy_time"] = wide(log.controller_busy_minutes);
  info["power_cycles"] = wide(log.power_cycles);
  info["power_on_hours"] = wide(log.power_on_hours);
  info["unsafe_shutdowns"] = wide(log.unsafe_shutdowns);
  info["media_errors"] = wide(log.media_errors);
  info["num_err_log_entries"] = wide(log.error_log_entries);
  info["warning_temperature_time_minutes"] = log.warning_temperature_minutes;
  info["critical_composite_temperature_time_minutes"] = log.critical_temperature_minutes;
  // One name for every sensor in SPDK's answer, which JSON objects cannot have: the last one that reports.
  for (uint16_t sensor : log.sensor_temperatures_k)
    if (sensor != 0) info["temperature_sensor_celsius"] = celsius(sensor);
  return info;
}

}  // namespace diskengine::rpc
