#include "format/nvme_rdma.h"

#include "base/endian.h"

namespace diskengine::spec {
namespace {

// Which way the command's data goes. Fabrics commands say it with their type.
DataDirection direction_of(const Sqe& sqe) noexcept {
  return data_direction(sqe.opcode == AdminOp::fabrics ? static_cast<uint8_t>(sqe.nsid) : sqe.opcode);
}

bool is_keyed(uint8_t type) noexcept {
  return type == SglType::keyed_data_block || type == SglType::keyed_data_block_invalidate;
}

RdmaDataPlace wrong(Status status) noexcept {
  RdmaDataPlace place;
  place.status = status;
  return place;
}

}  // namespace

const char* name_of(RdmaCmStatus status) noexcept {
  switch (status) {
    case RdmaCmStatus::none:
      return "no reason given";
    case RdmaCmStatus::invalid_length:
      return "invalid private data length";
    case RdmaCmStatus::invalid_record_format:
      return "invalid record format";
    case RdmaCmStatus::invalid_queue_id:
      return "invalid queue id";
    case RdmaCmStatus::invalid_host_send_size:
      return "invalid host send queue size";
    case RdmaCmStatus::invalid_host_receive_size:
      return "invalid host receive queue size";
    case RdmaCmStatus::no_resources:
      return "no resources";
    case RdmaCmStatus::invalid_initiator_depth:
      return "invalid inbound RDMA read depth";
    case RdmaCmStatus::invalid_responder_resources:
      return "invalid outbound RDMA read depth";
    case RdmaCmStatus::invalid_controller_id:
      return "invalid controller id";
  }
  return "unknown reason";
}

RdmaQueueWish read_rdma_request(std::span<const uint8_t> private_data, const RdmaQueueLimits& limits) noexcept {
  RdmaQueueWish wish;
  const auto refuse = [&wish](RdmaCmStatus status) {
    wish.refused = status;
    return wish;
  };
  if (private_data.size() < sizeof(RdmaCmRequest)) return refuse(RdmaCmStatus::invalid_length);
  const auto request = load_le<RdmaCmRequest>(private_data.data());
  if (request.record_format != 0) return refuse(RdmaCmStatus::invalid_record_format);
  if (request.queue_id > limits.queue_id_max) return refuse(RdmaCmStatus::invalid_queue_id);
  wish.queue_id = request.queue_id;
  wish.commands = request.host_send_size + 1u;
  wish.answers = request.host_receive_size;
  const uint32_t most = request.queue_id == 0 ? limits.admin_entries_max : limits.io_entries_max;
  if (wish.commands < 2 || wish.commands > most) return refuse(RdmaCmStatus::invalid_host_send_size);
  // A host that takes fewer answers than it sends commands would be overrun.
  if (wish.answers < request.host_send_size) return refuse(RdmaCmStatus::invalid_host_receive_size);
  return wish;
}

uint32_t read_rdma_accept(std::span<const uint8_t> private_data) noexcept {
  if (private_data.size() < sizeof(RdmaCmAccept)) return 0;
  const auto accept = load_le<RdmaCmAccept>(private_data.data());
  return accept.record_format == 0 ? accept.controller_receive_size : 0;
}

RdmaCmStatus read_rdma_reject(std::span<const uint8_t> private_data) noexcept {
  if (private_data.size() < sizeof(RdmaCmReject)) return RdmaCmStatus::none;
  const auto reject = load_le<RdmaCmReject>(private_data.data());
  return reject.record_format == 0 ? reject.status : RdmaCmStatus::none;
}

// Address (8), length (3), key (4), type (1).
KeyedSgl keyed_sgl_of(const SglDescriptor& descriptor) noexcept {
  const auto* bytes = reinterpret_cast<const uint8_t*>(&descriptor);
  KeyedSgl sgl;
  sgl.address = descriptor.address;
  sgl.length = load_le<uint32_t>(bytes + 8) & kKeyedLengthMax;
  sgl.key = load_le<uint32_t>(bytes + 11);
  sgl.invalidate = descriptor.type == SglType::keyed_data_block_invalidate;
  return sgl;
}

SglDescriptor make_keyed_sgl(const KeyedSgl& sgl) noexcept {
  SglDescriptor descriptor;
  auto* bytes = reinterpret_cast<uint8_t*>(&descriptor);
  descriptor.address = sgl.address;
  store_le<uint32_t>(bytes + 8, sgl.length & kKeyedLengthMax);
  store_le<uint32_t>(bytes + 11, sgl.key);
  descriptor.type = sgl.invalidate ? SglType::keyed_data_block_invalidate : SglType::keyed_data_block;
  return descriptor;
}

RdmaDataPlace place_rdma_data(const Sqe& sqe, uint32_t capsule_bytes, uint32_t transfer_bytes_max) noexcept {
  RdmaDataPlace place;
  const SglDescriptor& sgl = sqe.data;
  const bool keyed = is_keyed(sgl.type);
  if (keyed) place.keyed = keyed_sgl_of(sgl);
  const uint32_t length = keyed ? place.keyed.length : sgl.length;
  const DataDirection direction = direction_of(sqe);
  if (direction == DataDirection::none || length == 0) return place;
  if (direction == DataDirection::both) return wrong(Status::invalid_opcode);
  place.to_controller = direction == DataDirection::to_controller;
  place.bytes = length;
  if (keyed) {
    // Data in the capsule that the command does not speak of.
    if (capsule_bytes > 0) return wrong(Status::invalid_sgl_type);
    if (length > transfer_bytes_max) return wrong(Status::invalid_field);
    if (place.keyed.address > UINT64_MAX - length) return wrong(Status::invalid_sgl_data_length);
    place.kind = RdmaDataPlace::Kind::keyed;
    return place;
  }
  if (sgl.type != SglType::in_capsule || !place.to_controller) return wrong(Status::invalid_sgl_type);
  if (sgl.address > capsule_bytes) return wrong(Status::invalid_sgl_offset);
  if (length > capsule_bytes - sgl.address) return wrong(Status::invalid_sgl_data_length);
  place.kind = RdmaDataPlace::Kind::in_capsule;
  place.offset = static_cast<uint32_t>(sgl.address);
  return place;
}

}  // namespace diskengine::spec
