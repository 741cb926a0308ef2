#include "format/vhost_user.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>

namespace diskengine::spec {
namespace {

using enum VhostUserRequest;

constexpr uint16_t kU64 = 8;
constexpr uint16_t kState = sizeof(VhostUserVringState);
constexpr uint16_t kOneRegion = sizeof(VhostUserSingleRegion);
constexpr uint16_t kMemoryMin = offsetof(VhostUserMemory, region);
constexpr uint16_t kConfigMin = kVhostUserConfigHeaderBytes;
constexpr uint16_t kConfigMax = sizeof(VhostUserConfig);
// Without its padding, which not every front end sends.
constexpr uint16_t kInflightMin = offsetof(VhostUserInflight, padding);

// A region may be removed with its descriptor: older front ends send it. set_log_base carries an address, or a size and
// an offset.
constexpr std::array kShapes = {
    VhostUserShape{get_features, 0, 0, 0, 0, true},
    VhostUserShape{set_features, kU64, kU64, 0, 0, false},
    VhostUserShape{set_owner, 0, 0, 0, 0, false},
    VhostUserShape{reset_owner, 0, 0, 0, 0, false},
    VhostUserShape{set_mem_table, kMemoryMin, sizeof(VhostUserMemory), 0, kVhostUserRegionsMax, false},
    VhostUserShape{set_log_base, kU64, 16, 0, 1, true},
    VhostUserShape{set_log_fd, 0, kU64, 0, 1, false},
    VhostUserShape{set_vring_num, kState, kState, 0, 0, false},
    VhostUserShape{set_vring_addr, sizeof(VhostUserVringAddr), sizeof(VhostUserVringAddr), 0, 0, false},
    VhostUserShape{set_vring_base, kState, kState, 0, 0, false},
    VhostUserShape{get_vring_base, kState, kState, 0, 0, true},
    VhostUserShape{set_vring_kick, kU64, kU64, 0, 1, false},
    VhostUserShape{set_vring_call, kU64, kU64, 0, 1, false},
    VhostUserShape{set_vring_err, kU64, kU64, 0, 1, false},
    VhostUserShape{get_protocol_features, 0, 0, 0, 0, true},
    VhostUserShape{set_protocol_features, kU64, kU64, 0, 0, false},
    VhostUserShape{get_queue_num, 0, 0, 0, 0, true},
    VhostUserShape{set_vring_enable, kState, kState, 0, 0, false},
    VhostUserShape{set_backend_req_fd, 0, kU64, 1, 1, false},
    VhostUserShape{get_config, kConfigMin, kConfigMax, 0, 0, true},
    VhostUserShape{set_config, kConfigMin, kConfigMax, 0, 0, false},
    VhostUserShape{get_inflight_fd, kInflightMin, sizeof(VhostUserInflight), 0, 0, true},
    VhostUserShape{set_inflight_fd, kInflightMin, sizeof(VhostUserInflight), 1, 1, false},
    VhostUserShape{get_max_mem_slots, 0, 0, 0, 0, true},
    VhostUserShape{add_mem_reg, kOneRegion, kOneRegion, 1, 1, false},
    VhostUserShape{rem_mem_reg, kOneRegion, kOneRegion, 0, 1, false},
};

Error malformed(const VhostUserHeader& header, const std::string& what) {
  const std::string_view name = name_of(static_cast<VhostUserRequest>(header.request));
  return Error(Errc::protocol, fmt::format("vhost-user message {} ({}): {}", name, header.request, what));
}

Result<void> check_fd_count(const VhostUserHeader& header, size_t fds, size_t expected) {
  if (fds == expected) return {};
  return malformed(header, fmt::format("{} descriptors, not {}", fds, expected));
}

}  // namespace

std::string_view name_of(VhostUserRequest request) noexcept {
  switch (request) {
    case get_features:
      return "GET_FEATURES";
    case set_features:
      return "SET_FEATURES";
    case set_owner:
      return "SET_OWNER";
    case reset_owner:
      return "RESET_OWNER";
    case set_mem_table:
      return "SET_MEM_TABLE";
    case set_log_base:
      return "SET_LOG_BASE";
    case set_log_fd:
      return "SET_LOG_FD";
    case set_vring_num:
      return "SET_VRING_NUM";
    case set_vring_addr:
      return "SET_VRING_ADDR";
    case set_vring_base:
      return "SET_VRING_BASE";
    case get_vring_base:
      return "GET_VRING_BASE";
    case set_vring_kick:
      return "SET_VRING_KICK";
    case set_vring_call:
      return "SET_VRING_CALL";
    case set_vring_err:
      return "SET_VRING_ERR";
    case get_protocol_features:
      return "GET_PROTOCOL_FEATURES";
    case set_protocol_features:
      return "SET_PROTOCOL_FEATURES";
    case get_queue_num:
      return "GET_QUEUE_NUM";
    case set_vring_enable:
      return "SET_VRING_ENABLE";
    case set_backend_req_fd:
      return "SET_BACKEND_REQ_FD";
    case get_config:
      return "GET_CONFIG";
    case set_config:
      return "SET_CONFIG";
    case get_inflight_fd:
      return "GET_INFLIGHT_FD";
    case set_inflight_fd:
      return "SET_INFLIGHT_FD";
    case get_max_mem_slots:
      return "GET_MAX_MEM_SLOTS";
    case add_mem_reg:
      return "ADD_MEM_REG";
    case rem_mem_reg:
      return "REM_MEM_REG";
  }
  return "of unknown type";
}

const VhostUserShape* shape_of(uint32_t request) noexcept {
  const auto at = std::find_if(kShapes.begin(), kShapes.end(), [request](const VhostUserShape& shape) {
    return static_cast<uint32_t>(shape.request) == request;
  });
  return at == kShapes.end() ? nullptr : &*at;
}

Result<void> check_header(const VhostUserHeader& header) {
  if ((header.flags & kVhostUserVersionMask) != kVhostUserVersion)
    return malformed(header, fmt::format("version {}, not 1", header.flags & kVhostUserVersionMask));
  if ((header.flags & kVhostUserReply) != 0) return malformed(header, "is a reply, where a request is expected");
  const VhostUserShape* shape = shape_of(header.request);
  // Of an unknown type only the room for it is checked: it is answered with an error, or the connection ends.
  const uint32_t least = shape != nullptr ? shape->size_min : 0;
  const uint32_t most = shape != nullptr ? shape->size_max : static_cast<uint32_t>(kVhostUserPayloadBytesMax);
  if (header.size < least || header.size > most)
    return malformed(header, fmt::format("payload of {} bytes, not {} to {}", header.size, least, most));
  return {};
}

Result<void> check_message(const VhostUserHeader& header, const VhostUserPayload& payload, size_t fds) {
  const VhostUserShape* shape = shape_of(header.request);
  if (shape == nullptr) return {};
  if (fds < shape->fds_min || fds > shape->fds_max)
    return malformed(header, fmt::format("{} descriptors, not {} to {}", fds, shape->fds_min, shape->fds_max));
  switch (shape->request) {
    case set_mem_table: {
      const uint32_t regions = payload.memory.regions;
      if (regions > kVhostUserRegionsMax) return malformed(header, fmt::format("{} regions, at most 8", regions));
      if (header.size < kMemoryMin + regions * sizeof(VhostUserRegion))
        return malformed(header, fmt::format("{} bytes are too few for {} regions", header.size, regions));
      return check_fd_count(header, fds, regions);
    }
    case set_vring_kick:
    case set_vring_call:
    case set_vring_err:
      return check_fd_count(header, fds, (payload.u64 & kVhostUserVringNoFd) != 0 ? 0 : 1);
    case get_config:
    case set_config: {
      const VhostUserConfig& config = payload.config;
      if (config.size > kVhostUserConfigBytesMax || config.offset > kVhostUserConfigBytesMax - config.size)
        return malformed(header,
                         fmt::format("range {}+{} is outside the configuration space", config.offset, config.size));
      if (header.size != kConfigMin + config.size)
        return malformed(header, fmt::format("{} bytes do not hold a range of {}", header.size, config.size));
      return {};
    }
    default:
      return {};
  }
}

}  // namespace diskengine::spec
