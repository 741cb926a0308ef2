#include "fabric/rdma/cm.h"

#include <algorithm>
#include <cstdlib>
#include <cstring>

namespace diskengine::fabric::rdma {
namespace {

bool has_parameters(rdma_cm_event_type type) noexcept {
  return type == RDMA_CM_EVENT_CONNECT_REQUEST || type == RDMA_CM_EVENT_ESTABLISHED ||
         type == RDMA_CM_EVENT_CONNECT_RESPONSE || type == RDMA_CM_EVENT_REJECTED;
}

CmEvent copy_of(const rdma_cm_event& from) noexcept {
  CmEvent event{};
  event.type = from.event;
  event.status = from.status;
  event.id = from.id;
  if (!has_parameters(from.event)) return event;
  const rdma_conn_param& connection = from.param.conn;
  event.responder_resources = connection.responder_resources;
  event.initiator_depth = connection.initiator_depth;
  if (connection.private_data == nullptr) return event;
  event.private_bytes = connection.private_data_len;
  std::memcpy(event.private_data.data(), connection.private_data, event.private_bytes);
  return event;
}

}  // namespace

Result<std::unique_ptr<CmChannel>> CmChannel::make(Verbs& verbs, const char* name) {
  TRY_ASSIGN(rdma_event_channel* const channel, verbs.create_event_channel());
  return std::unique_ptr<CmChannel>(new CmChannel(verbs, OwnedChannel(verbs, channel), name));
}

int CmChannel::poll() noexcept {
  int taken = 0;
  while (taken < kPerPollMax) {
    rdma_cm_event* const next = verbs_.next_event(channel_.get());
    if (next == nullptr) break;
    ++taken;
    const CmEvent event = copy_of(*next);
    verbs_.ack_event(next);
    // An identifier on its way to another reactor has no context.
    if (event.id->context != nullptr) static_cast<CmHandler*>(event.id->context)->on_cm_event(event);
  }
  return taken;
}

std::string describe_cm_status(int status) {
  if (status == 0) return "no reason given";
  return std::strerror(std::abs(status));
}

}  // namespace diskengine::fabric::rdma
