// NVMe/RDMA on the wire, beside the commands themselves: the private data with which a queue's connection is asked for,
// accepted and refused, where a command's data is in or beside its capsule, and the checks a receiver makes. NVM
// Express RDMA Transport Specification 1.0; described in docs/formats/nvme-rdma.md. Pure functions, any thread.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "format/nvme.h"

namespace diskengine::spec {

// Why a queue's connection is refused (figure 9), and none of them.
enum class RdmaCmStatus : uint16_t {
  none = 0,
  invalid_length = 1,         // the private data is too short
  invalid_record_format = 2,  // RECFMT is not 0
  invalid_queue_id = 3,
  invalid_host_send_size = 4,     // HSQSIZE
  invalid_host_receive_size = 5,  // HRQSIZE
  no_resources = 6,
  invalid_initiator_depth = 7,      // IRD
  invalid_responder_resources = 8,  // ORD
  invalid_controller_id = 9,
};

// In the connection request.
struct RdmaCmRequest {
  uint16_t record_format = 0;
  uint16_t queue_id = 0;           // 0: the admin queue
  uint16_t host_receive_size = 0;  // HRQSIZE: receives the host keeps posted, that is answers it can take; 1's based
  uint16_t host_send_size = 0;     // HSQSIZE: submission queue entries; 0's based
  uint16_t controller_id = 0;      // of I/O queues; older hosts leave it 0
  uint8_t reserved10[22] = {};
};
static_assert(sizeof(RdmaCmRequest) == 32 && offsetof(RdmaCmRequest, host_receive_size) == 4);
static_assert(offsetof(RdmaCmRequest, host_send_size) == 6 && offsetof(RdmaCmRequest, controller_id) == 8);

// In the acceptance.
struct RdmaCmAccept {
  uint16_t record_format = 0;
  uint16_t controller_receive_size = 0;  // CRQSIZE: commands the controller takes at once
  uint8_t reserved4[28] = {};
};
static_assert(sizeof(RdmaCmAccept) == 32 && offsetof(RdmaCmAccept, controller_receive_size) == 2);

// In the refusal.
struct RdmaCmReject {
  uint16_t record_format = 0;
  RdmaCmStatus status = RdmaCmStatus::none;
};
static_assert(sizeof(RdmaCmReject) == 4 && offsetof(RdmaCmReject, status) == 2);

const char* name_of(RdmaCmStatus status) noexcept;

// A queue as its connection request describes it, or why it is refused.
struct RdmaQueueWish {
  RdmaCmStatus refused = RdmaCmStatus::none;
  uint16_t queue_id = 0;
  uint32_t commands = 0;  // entries of the submission queue
  uint32_t answers = 0;   // responses the host has room for
  bool ok() const noexcept { return refused == RdmaCmStatus::none; }
};
struct RdmaQueueLimits {
  uint32_t queue_id_max = 0;
  uint32_t admin_entries_max = 0;
  uint32_t io_entries_max = 0;
};
// Private data may be longer than the request: connection managers pad it.
RdmaQueueWish read_rdma_request(std::span<const uint8_t> private_data, const RdmaQueueLimits& limits) noexcept;

// What a controller said in its acceptance; 0 commands if it said nothing usable.
uint32_t read_rdma_accept(std::span<const uint8_t> private_data) noexcept;
// Why it refused; none if it did not say.
RdmaCmStatus read_rdma_reject(std::span<const uint8_t> private_data) noexcept;

// Base 2.0 figure 93: memory of the host, reached with a key by RDMA READ and WRITE.
struct KeyedSgl {
  uint64_t address = 0;
  uint32_t length = 0;  // bytes, below 2^24
  uint32_t key = 0;
  bool invalidate = false;  // the response is to invalidate the key
};
inline constexpr uint32_t kKeyedLengthMax = 0xffffff;
KeyedSgl keyed_sgl_of(const SglDescriptor& descriptor) noexcept;
SglDescriptor make_keyed_sgl(const KeyedSgl& sgl) noexcept;

// Where the data of a command is.
struct RdmaDataPlace {
  enum class Kind : uint8_t { none, in_capsule, keyed };
  Status status = Status::success;  // otherwise what is wrong with the data pointer
  Kind kind = Kind::none;
  bool to_controller = false;
  uint32_t bytes = 0;
  uint32_t offset = 0;  // in_capsule: from the end of the SQE
  KeyedSgl keyed;       // also where no data moves, as its key may be there to be invalidated
};
// Checks the data pointer of a command whose capsule brought `capsule_bytes` bytes after the SQE.
RdmaDataPlace place_rdma_data(const Sqe& sqe, uint32_t capsule_bytes, uint32_t transfer_bytes_max) noexcept;

}  // namespace diskengine::spec
