// Get Log Page.
#include <algorithm>
#include <cstring>

#include "nvmf/controller.h"
#include "nvmf/queue.h"
#include "nvmf/subsystem.h"
#include "nvmf/target.h"

namespace diskengine::nvmf {

using fabric::TargetCommand;
using spec::LogPage;
using spec::Status;

namespace {

constexpr size_t kErrorEntries = 1;      // always empty: errors are told by the commands' own status
constexpr uint16_t kTemperatureK = 313;  // nothing here has a temperature: an unremarkable one
constexpr uint8_t kSparePercent = 100;
constexpr uint8_t kSpareThresholdPercent = 10;

template <typename T>
std::vector<uint8_t> bytes_of(const T& value) {
  const auto* at = reinterpret_cast<const uint8_t*>(&value);
  return {at, at + sizeof value};
}

std::vector<uint8_t> smart_log() {
  spec::SmartLog log{};
  log.set_temperature_k(kTemperatureK);
  log.available_spare_percent = kSparePercent;
  log.available_spare_threshold_percent = kSpareThresholdPercent;
  return bytes_of(log);
}

std::vector<uint8_t> firmware_log() {
  spec::FirmwareSlotLog log{};
  log.active = 1;
  std::memset(log.revisions[0], ' ', sizeof log.revisions[0]);
  std::memcpy(log.revisions[0], kFirmwareRevision, std::min(sizeof log.revisions[0], std::strlen(kFirmwareRevision)));
  return bytes_of(log);
}

}  // namespace

std::vector<uint8_t> Controller::changed_namespaces() {
  std::vector<uint8_t> log(spec::kNamespaceListEntries * sizeof(uint32_t));
  std::sort(changed_namespaces_.begin(), changed_namespaces_.end());
  // More changes than the list holds are told by one special entry.
  if (too_many_changed_) changed_namespaces_.assign(1, spec::kNsidAll);
  if (!changed_namespaces_.empty())
    std::memcpy(log.data(), changed_namespaces_.data(), changed_namespaces_.size() * sizeof(uint32_t));
  changed_namespaces_.clear();
  too_many_changed_ = false;
  return log;
}

void Controller::get_log_page(QueueRecord& queue, TargetCommand& command) {
  const auto page = static_cast<uint8_t>(command.sqe.cdw10);
  const uint64_t offset = spec::log_page_offset(command.sqe);
  if (spec::log_page_bytes(command.sqe) != command.data_bytes)
    return set_status(command, Status::invalid_sgl_data_length);
  if (offset % 4 != 0) return set_status(command, Status::invalid_field);
  std::vector<uint8_t> log;
  if (is_discovery()) {
    if (page != LogPage::discovery) return set_status(command, Status::invalid_log_page);
    log = subsystem_.target().discovery_log(host_nqn(), queue);
  } else {
    switch (page) {
      case LogPage::error:
        log.resize(kErrorEntries * sizeof(spec::ErrorLogEntry));
        break;
      case LogPage::smart:
        log = smart_log();
        break;
      case LogPage::firmware_slot:
        log = firmware_log();
        break;
      case LogPage::changed_namespaces:
        log = changed_namespaces();
        break;
      default:
        return set_status(command, Status::invalid_log_page);
    }
  }
  if (offset > log.size()) return set_status(command, Status::invalid_field);
  put_data(command, log.data(), log.size(), offset);
  if ((command.sqe.cdw10 & spec::kLogRetainEvent) == 0) event_read(page);
}

}  // namespace diskengine::nvmf
