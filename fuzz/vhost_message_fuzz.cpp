// The shape check of vhost-user messages on arbitrary headers, payloads and numbers of descriptors: what it lets
// through keeps the promises that the session builds on.
#include <cstddef>
#include <cstdint>
#include <cstring>

#include "base/assert.h"
#include "format/vhost_user.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace diskengine::spec;
  VhostUserHeader header;
  VhostUserPayload payload{};
  if (size < 1 + sizeof header) return 0;
  const size_t fds = data[0] % 12;
  std::memcpy(&header, data + 1, sizeof header);
  const size_t bytes = size - 1 - sizeof header;
  if (!check_header(header)) return 0;
  DE_ASSERT(header.size <= sizeof payload);
  if (bytes < header.size) return 0;
  std::memcpy(&payload, data + 1 + sizeof header, header.size);
  if (!check_message(header, payload, fds)) return 0;
  const VhostUserShape* shape = shape_of(header.request);
  if (shape == nullptr) return 0;
  DE_ASSERT(fds >= shape->fds_min && fds <= shape->fds_max);
  switch (shape->request) {
    case VhostUserRequest::set_mem_table:
      DE_ASSERT(payload.memory.regions == fds && fds <= kVhostUserRegionsMax);
      DE_ASSERT(offsetof(VhostUserMemory, region) + fds * sizeof(VhostUserRegion) <= header.size);
      break;
    case VhostUserRequest::get_config:
    case VhostUserRequest::set_config:
      DE_ASSERT(uint64_t{payload.config.offset} + payload.config.size <= kVhostUserConfigBytesMax);
      DE_ASSERT(header.size == kVhostUserConfigHeaderBytes + payload.config.size);
      break;
    case VhostUserRequest::set_vring_kick:
    case VhostUserRequest::set_vring_call:
    case VhostUserRequest::set_vring_err:
      DE_ASSERT((fds == 0) == ((payload.u64 & kVhostUserVringNoFd) != 0));
      break;
    default:
      break;
  }
  return 0;
}
