#include "nvmf/controller.h"

#include <algorithm>
#include <cstring>

#include "base/endian.h"
#include "base/log.h"
#include "nvmf/queue.h"
#include "nvmf/subsystem.h"
#include "nvmf/target.h"

namespace diskengine::nvmf {

using fabric::TargetCommand;
using spec::AdminOp;
using spec::FabricsType;
using spec::Property;
using spec::Status;

namespace {

constexpr uint32_t kReadyTimeoutMs = 15'000;  // CAP.TO
constexpr uint32_t kVersion = spec::nvme_version(1, 4);

}  // namespace

void put_data(TargetCommand& command, const void* bytes, size_t size, size_t offset) noexcept {
  const auto* from = static_cast<const uint8_t*>(bytes) + std::min(offset, size);
  size_t left = size - std::min(offset, size);
  for (const iovec& piece : command.data) {
    const size_t copied = std::min(left, piece.iov_len);
    if (copied > 0) std::memcpy(piece.iov_base, from, copied);
    std::memset(static_cast<uint8_t*>(piece.iov_base) + copied, 0, piece.iov_len - copied);
    from += copied;
    left -= copied;
  }
}

Controller::Controller(Subsystem& subsystem, Identity identity, QueueRecord& admin)
    : subsystem_(subsystem),
      identity_(std::move(identity)),
      cap_(spec::make_cap(admin.options.max_queue_depth, kReadyTimeoutMs)),
      keep_alive_([this] {
        LOG_WARN("nvmf", "subsystem {}: controller {} of host {}: no keep-alive within {} ms, disconnecting",
                 subsystem_.nqn(), id(), host_nqn(), keep_alive_ms_);
        subsystem_.target().counters().keep_alive_timeouts++;
        disconnect("keep-alive expired");
      }),
      keep_alive_ms_((identity_.keep_alive_ms + kKeepAliveGranularity * kKeepAliveUnitMs - 1) /
                     (kKeepAliveGranularity * kKeepAliveUnitMs) * (kKeepAliveGranularity * kKeepAliveUnitMs)) {
  add_queue(admin);
  restart_keep_alive();
}

Controller::~Controller() { DE_ASSERT(queues_.empty() && event_requests_.empty()); }

bool Controller::is_discovery() const noexcept { return subsystem_.is_discovery(); }

void Controller::restart_keep_alive() {
  if (keep_alive_ms_ == 0) {
    keep_alive_.cancel();
  } else {
    keep_alive_.arm(subsystem_.target().main_reactor(), uint64_t{keep_alive_ms_} * 1'000'000 + kKeepAliveGraceNs);
  }
}

Status Controller::check_io_queue(uint16_t qid, uint32_t entries, uint16_t* bad_field) const noexcept {
  *bad_field = offsetof(spec::FabricsConnect, queue_id);
  if (is_discovery() || !enabled()) return Status::connect_invalid_parameters;
  const QueueRecord& admin = *queues_.front();
  if (qid > admin.options.max_io_queues) return Status::connect_invalid_parameters;
  for (const QueueRecord* queue : queues_)
    if (queue->qid == qid) return Status::connect_invalid_parameters;
  if ((cc_ & (spec::kCcSqEntrySizeMask | spec::kCcCqEntrySizeMask)) != spec::kCcEntrySizes)
    return Status::connect_invalid_parameters;
  if (entries > cap_.queue_entries_max()) {
    *bad_field = offsetof(spec::FabricsConnect, queue_size);
    return Status::connect_invalid_parameters;
  }
  return Status::success;
}

void Controller::add_queue(QueueRecord& queue) { queues_.push_back(&queue); }

void Controller::queue_closed(QueueRecord& queue) {
  if (queue.qid != 0) return;
  keep_alive_.cancel();
  for (TargetCommand* command : std::exchange(event_requests_, {})) {
    set_status(*command, Status::aborted_sq_deletion);
    subsystem_.target().answer(queue, *command);
  }
  disconnect("the admin queue is gone");
}

bool Controller::queue_gone(QueueRecord& queue) {
  std::erase(queues_, &queue);
  if (queue.qid == 0) has_admin_ = false;
  return queues_.empty();
}

void Controller::disconnect(const char* why) {
  for (QueueRecord* queue : queues_) subsystem_.target().disconnect(*queue, why);
}

bool Controller::execute(QueueRecord& queue, TargetCommand& command) {
  set_status(command, Status::success);
  if (command.sqe.opcode == AdminOp::fabrics) {
    switch (static_cast<uint8_t>(command.sqe.nsid)) {
      case FabricsType::property_get:
        if (queue.qid == 0) return property_get(command), true;
        break;
      case FabricsType::property_set:
        if (queue.qid == 0) return property_set(command), true;
        break;
      case FabricsType::connect:
        set_status(command, Status::command_sequence_error);
        return true;
      default:
        break;
    }
    set_status(command, Status::invalid_opcode);
    return true;
  }
  if (!enabled()) {
    set_status(command, Status::command_sequence_error);
    return true;
  }
  if (command.sqe.opcode == AdminOp::async_event) return hold_event_request(command);
  execute_admin(queue, command);
  return true;
}

void Controller::execute_admin(QueueRecord& queue, TargetCommand& command) {
  const uint8_t opcode = command.sqe.opcode;
  if (is_discovery() && opcode != AdminOp::identify && opcode != AdminOp::get_log_page &&
      opcode != AdminOp::keep_alive && opcode != AdminOp::set_features && opcode != AdminOp::get_features &&
      opcode != AdminOp::abort)
    return set_status(command, Status::invalid_opcode);
  switch (opcode) {
    case AdminOp::identify:
      return identify(queue, command);
    case AdminOp::get_log_page:
      return get_log_page(queue, command);
    case AdminOp::set_features:
      return set_features(queue, command);
    case AdminOp::get_features:
      return get_features(queue, command);
    case AdminOp::keep_alive:
      return restart_keep_alive();
    case AdminOp::abort:
      return abort(command);
    default:
      return set_status(command, Status::invalid_opcode);
  }
}

void Controller::property_get(TargetCommand& command) {
  const auto property = load_le<spec::FabricsProperty>(&command.sqe);
  const bool eight_bytes = (property.size & 7) == 1;
  uint64_t value = 0;
  switch (property.offset) {
    case Property::cap:
      if (!eight_bytes) return set_status(command, Status::invalid_field);
      value = cap_.value;
      break;
    case Property::vs:
      value = kVersion;
      break;
    case Property::cc:
      value = cc_;
      break;
    case Property::csts:
      value = csts_;
      break;
    case Property::nssr:
    case Property::crto:
      break;
    default:
      return set_status(command, Status::invalid_field);
  }
  if (property.offset != Property::cap && eight_bytes) return set_status(command, Status::invalid_field);
  command.cqe.set_result(value);
}

void Controller::property_set(TargetCommand& command) {
  const auto property = load_le<spec::FabricsProperty>(&command.sqe);
  if (property.offset != Property::cc || (property.size & 7) != 0) return set_status(command, Status::invalid_field);
  set_status(command, set_configuration(static_cast<uint32_t>(property.value)));
}

// Controller configuration: enable, disable (a reset: I/O queues go) and shutdown.
Status Controller::set_configuration(uint32_t value) {
  const bool enable = (value & spec::kCcEnable) != 0;
  const bool was_enabled = (cc_ & spec::kCcEnable) != 0;
  if (enable && !was_enabled &&
      (value & (spec::kCcCommandSetMask | spec::kCcPageSizeMask | spec::kCcArbitrationMask)) != 0)
    return Status::invalid_field;
  const bool shut_down = (value & spec::kCcShutdownMask) != 0 && (cc_ & spec::kCcShutdownMask) == 0;
  cc_ = value;
  if (enable && !was_enabled) {
    csts_ = spec::kCstsReady;
    restart_keep_alive();
  }
  if (shut_down) csts_ = (csts_ & ~spec::kCstsShutdownMask) | spec::kCstsShutdownDone;
  if (!enable && was_enabled) {
    csts_ &= ~spec::kCstsReady;
    cc_ &= ~spec::kCcShutdownMask;
  }
  if ((!enable && was_enabled) || shut_down)
    for (QueueRecord* queue : queues_)
      if (queue->qid != 0) subsystem_.target().disconnect(*queue, "the host disabled the controller");
  return Status::success;
}

bool Controller::hold_event_request(TargetCommand& command) {
  if (event_requests_.size() >= kAsyncEventsMax) {
    set_status(command, Status::async_event_limit_exceeded);
    return true;
  }
  event_requests_.push_back(&command);
  send_events();
  return false;
}

// A command at a device cannot be taken back, which the answer says; an event request can.
void Controller::abort(TargetCommand& command) {
  const auto sq_id = static_cast<uint16_t>(command.sqe.cdw10);
  const auto cid = static_cast<uint16_t>(command.sqe.cdw10 >> 16);
  command.cqe.cdw0 = 1;
  if (sq_id != 0) return;
  const auto held = std::find_if(event_requests_.begin(), event_requests_.end(),
                                 [cid](const TargetCommand* request) { return request->sqe.cid == cid; });
  if (held == event_requests_.end()) return;
  TargetCommand& aborted = **held;
  event_requests_.erase(held);
  set_status(aborted, Status::aborted_by_request);
  subsystem_.target().answer(*queues_.front(), aborted);
  command.cqe.cdw0 = 0;
}

void Controller::raise(const Event& event) {
  const bool reported =
      std::find(pages_reported_.begin(), pages_reported_.end(), event.log_page) != pages_reported_.end();
  const bool queued = std::find(events_.begin(), events_.end(), event) != events_.end();
  if (reported || queued || events_.size() >= kEventsQueuedMax) return;
  events_.push_back(event);
  send_events();
}

void Controller::send_events() {
  while (!events_.empty() && !event_requests_.empty()) {
    const Event event = events_.front();
    events_.erase(events_.begin());
    TargetCommand& command = *event_requests_.front();
    event_requests_.erase(event_requests_.begin());
    set_status(command, Status::success);
    command.cqe.cdw0 = spec::async_event(event.type, event.information, event.log_page);
    pages_reported_.push_back(event.log_page);
    subsystem_.target().answer(*queues_.front(), command);
  }
}

// The host has read the page that an event pointed to: the next change is news again.
void Controller::event_read(uint8_t log_page) { std::erase(pages_reported_, log_page); }

void Controller::namespace_changed(uint32_t nsid) {
  if (std::find(changed_namespaces_.begin(), changed_namespaces_.end(), nsid) == changed_namespaces_.end()) {
    if (changed_namespaces_.size() >= spec::kNamespaceListEntries) {
      too_many_changed_ = true;
    } else {
      changed_namespaces_.push_back(nsid);
    }
  }
  if ((event_mask_ & spec::kAsyncNamespaceAttribute) != 0)
    raise({spec::AsyncEventType::notice, spec::AsyncNotice::namespace_attribute, spec::LogPage::changed_namespaces});
}

void Controller::discovery_changed() {
  if ((event_mask_ & spec::kAsyncDiscoveryChange) != 0)
    raise({spec::AsyncEventType::notice, spec::AsyncNotice::discovery_change, spec::LogPage::discovery});
}

}  // namespace diskengine::nvmf
