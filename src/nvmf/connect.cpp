// Connect: from the first command of a connection to a queue of a controller.
#include <fmt/format.h>

#include <algorithm>
#include <cstring>
#include <optional>

#include "base/endian.h"
#include "base/log.h"
#include "nvmf/target.h"

namespace diskengine::nvmf {

using fabric::TargetCommand;
using spec::Status;

namespace {

constexpr uint16_t kRecordFormat = 0;
// Where the fields of the Connect data are, for telling a host which one is wrong.
constexpr uint16_t kControllerIdAt = offsetof(spec::FabricsConnectData, controller_id);
constexpr uint16_t kHostIdAt = offsetof(spec::FabricsConnectData, host_id);
constexpr uint16_t kSubsystemNqnAt = offsetof(spec::FabricsConnectData, subsystem_nqn);
constexpr uint16_t kHostNqnAt = offsetof(spec::FabricsConnectData, host_nqn);
constexpr uint16_t kQueueSizeAt = offsetof(spec::FabricsConnect, queue_size);

std::optional<std::string> terminated(const char (&field)[256]) {
  const auto* end = static_cast<const char*>(std::memchr(field, 0, sizeof field));
  if (end == nullptr || static_cast<size_t>(end - field) > spec::kNqnBytesMax) return std::nullopt;
  return std::string(field, end);
}

}  // namespace

struct Target::Connect {
  uint16_t queue_id;
  uint32_t entries;
  bool flow_control;
  uint32_t keep_alive_ms;
  uint16_t controller_id;
  Uuid host_id;
  std::string host_nqn;
  Subsystem* subsystem;
};

void Target::refuse(QueueRecord& record, TargetCommand& command, Status status, uint32_t result,
                    const std::string& why) {
  ++counters_.connects_refused;
  LOG_WARN("nvmf", "connection from {}: Connect refused: {}", record.peer_address.to_string(), why);
  set_status(command, status);
  command.cqe.cdw0 = result;
  answer(record, command);
}

void Target::connect(QueueRecord& record, TargetCommand& command) {
  if (command.sqe.opcode != spec::AdminOp::fabrics ||
      static_cast<uint8_t>(command.sqe.nsid) != spec::FabricsType::connect) {
    set_status(command, Status::command_sequence_error);
    return answer(record, command);
  }
  Connect wish{};
  if (!read_connect(record, command, &wish)) return;
  if (wish.queue_id == 0) {
    connect_admin(record, command, wish);
  } else {
    connect_io(record, command, wish);
  }
}

// Takes the command apart; false if it was refused.
bool Target::read_connect(QueueRecord& record, TargetCommand& command, Connect* wish) {
  const auto sqe = load_le<spec::FabricsConnect>(&command.sqe);
  auto bad_field = [&](uint16_t offset, bool in_data, const std::string& why) {
    refuse(record, command, Status::connect_invalid_parameters, spec::connect_bad_field(offset, in_data), why);
    return false;
  };
  if (command.data_bytes < sizeof(spec::FabricsConnectData) || command.data.size() != 1) {
    refuse(record, command, Status::invalid_field, 0, "its data is too short");
    return false;
  }
  const auto data = load_le<spec::FabricsConnectData>(command.data.front().iov_base);
  if (sqe.record_format != kRecordFormat) {
    refuse(record, command, Status::connect_incompatible_format, 0, "unknown record format");
    return false;
  }
  const std::optional<std::string> subsystem_nqn = terminated(data.subsystem_nqn);
  if (!subsystem_nqn) return bad_field(kSubsystemNqnAt, true, "the subsystem NQN has no end");
  const std::optional<std::string> host_nqn = terminated(data.host_nqn);
  if (!host_nqn || host_nqn->empty()) return bad_field(kHostNqnAt, true, "the host NQN is empty or has no end");
  Subsystem* subsystem = stopping_ ? nullptr : find_subsystem(*subsystem_nqn);
  if (subsystem == nullptr)
    return bad_field(kSubsystemNqnAt, true, fmt::format("there is no subsystem {}", *subsystem_nqn));
  if (!subsystem->allows(*host_nqn)) {
    refuse(record, command, Status::connect_invalid_host, 0,
           fmt::format("subsystem {} does not admit host {}", *subsystem_nqn, *host_nqn));
    return false;
  }
  // Discovery is answered wherever anybody listens.
  if (!subsystem->is_discovery() && !subsystem->listens_on(record.listen_address)) {
    refuse(record, command, Status::connect_invalid_host, 0,
           fmt::format("subsystem {} does not listen on {}", *subsystem_nqn, record.listen_address.to_string()));
    return false;
  }
  const uint32_t entries_max = sqe.queue_id == 0 ? record.options.max_admin_depth : record.options.max_queue_depth;
  if (sqe.queue_size == 0 || sqe.queue_size + 1u > entries_max)
    return bad_field(kQueueSizeAt, false,
                     fmt::format("queue size {} is not 2 to {}", sqe.queue_size + 1u, entries_max));
  wish->queue_id = sqe.queue_id;
  wish->entries = sqe.queue_size + 1u;
  wish->flow_control = (sqe.attributes & spec::kConnectNoFlowControl) == 0;
  wish->keep_alive_ms = sqe.keep_alive_ms;
  wish->controller_id = data.controller_id;
  std::memcpy(wish->host_id.bytes.data(), data.host_id, sizeof data.host_id);
  wish->host_nqn = *host_nqn;
  wish->subsystem = subsystem;
  return true;
}

void Target::connect_admin(QueueRecord& record, TargetCommand& command, const Connect& wish) {
  // Controllers are made for hosts as they come (the dynamic model).
  if (wish.controller_id != spec::kControllerIdAny)
    return refuse(record, command, Status::connect_invalid_parameters, spec::connect_bad_field(kControllerIdAt, true),
                  fmt::format("controller {} was asked for, but controllers are assigned", wish.controller_id));
  std::shared_ptr<Controller> controller =
      wish.subsystem->make_controller(wish.host_nqn, wish.host_id, wish.keep_alive_ms, record);
  if (controller == nullptr)
    return refuse(record, command, Status::connect_controller_busy, 0,
                  fmt::format("subsystem {} has no controller left", wish.subsystem->nqn()));
  LOG_INFO("nvmf", "subsystem {}: host {} connected from {}, controller {}", wish.subsystem->nqn(), wish.host_nqn,
           record.peer_address.to_string(), controller->id());
  grant(record, command, wish, std::move(controller));
}

void Target::connect_io(QueueRecord& record, TargetCommand& command, const Connect& wish) {
  const auto& controllers = wish.subsystem->controllers();
  const auto at = controllers.find(wish.controller_id);
  if (at == controllers.end() || at->second->queues().front()->qid != 0 || at->second->queues().front()->closed)
    return refuse(record, command, Status::connect_invalid_parameters, spec::connect_bad_field(kControllerIdAt, true),
                  fmt::format("subsystem {} has no controller {}", wish.subsystem->nqn(), wish.controller_id));
  const std::shared_ptr<Controller> controller = at->second;
  if (controller->host_nqn() != wish.host_nqn)
    return refuse(record, command, Status::connect_invalid_host, spec::connect_bad_field(kHostNqnAt, true),
                  fmt::format("controller {} belongs to host {}", wish.controller_id, controller->host_nqn()));
  if (controller->host_id() != wish.host_id)
    return refuse(record, command, Status::connect_invalid_parameters, spec::connect_bad_field(kHostIdAt, true),
                  fmt::format("controller {} belongs to another host id", wish.controller_id));
  uint16_t bad_field = 0;
  const Status status = controller->check_io_queue(wish.queue_id, wish.entries, &bad_field);
  if (status != Status::success)
    return refuse(record, command, status, spec::connect_bad_field(bad_field, false),
                  fmt::format("controller {} cannot have queue {} of {} entries now", wish.controller_id, wish.queue_id,
                              wish.entries));
  grant(record, command, wish, controller);
  controller->add_queue(record);
}

void Target::grant(QueueRecord& record, TargetCommand& command, const Connect& wish,
                   std::shared_ptr<Controller> controller) {
  record.qid = wish.queue_id;
  record.depth = wish.entries;
  set_status(command, Status::success);
  command.cqe.cdw0 = controller->id();
  record.controller = std::move(controller);
  std::shared_ptr<NamespacePorts> ports;
  if (wish.queue_id != 0) ports = wish.subsystem->ports_on(*record.reactor);
  record.reactor->post([queue = record.queue, qid = wish.queue_id, entries = wish.entries,
                        flow_control = wish.flow_control, host_nqn = wish.host_nqn, ports, &command]() mutable {
    queue->connected(qid, entries, flow_control, std::move(host_nqn), ports);
    queue->finish(command);
  });
}

}  // namespace diskengine::nvmf
