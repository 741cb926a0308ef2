#include "format/nvme_rdma.h"

#include <gtest/gtest.h>

#include <cstring>
#include <vector>

#include "base/endian.h"

namespace diskengine::spec {
namespace {

constexpr RdmaQueueLimits kLimits{.queue_id_max = 127, .admin_entries_max = 128, .io_entries_max = 1024};

std::vector<uint8_t> bytes_of(const RdmaCmRequest& request, size_t size = 56) {
  std::vector<uint8_t> bytes(size, 0);
  std::memcpy(bytes.data(), &request, std::min(size, sizeof request));
  return bytes;
}

RdmaCmStatus refusal(RdmaCmRequest request, size_t size = 56) {
  return read_rdma_request(bytes_of(request, size), kLimits).refused;
}

TEST(NvmeRdma, ARequestIsTakenApart) {
  // As Linux sends it for an I/O queue of 128 entries: the connection manager pads it to its own length.
  const std::vector<uint8_t> wire{0, 0, 3, 0, 128, 0, 127, 0, 0, 0};
  std::vector<uint8_t> padded(56, 0);
  std::copy(wire.begin(), wire.end(), padded.begin());
  const RdmaQueueWish wish = read_rdma_request(padded, kLimits);
  ASSERT_TRUE(wish.ok());
  EXPECT_EQ(wish.queue_id, 3);
  EXPECT_EQ(wish.commands, 128u);
  EXPECT_EQ(wish.answers, 128u);
}

TEST(NvmeRdma, EachWrongFieldOfARequestHasItsStatus) {
  RdmaCmRequest good;
  good.queue_id = 1;
  good.host_receive_size = 32;
  good.host_send_size = 31;
  EXPECT_EQ(refusal(good), RdmaCmStatus::none);
  EXPECT_EQ(refusal(good, 32), RdmaCmStatus::none);
  EXPECT_EQ(refusal(good, 31), RdmaCmStatus::invalid_length);
  EXPECT_EQ(read_rdma_request({}, kLimits).refused, RdmaCmStatus::invalid_length);
  const auto with = [&good](auto change) {
    RdmaCmRequest request = good;
    change(request);
    return refusal(request);
  };
  EXPECT_EQ(with([](auto& r) { r.record_format = 1; }), RdmaCmStatus::invalid_record_format);
  EXPECT_EQ(with([](auto& r) { r.queue_id = 128; }), RdmaCmStatus::invalid_queue_id);
  EXPECT_EQ(with([](auto& r) { r.host_send_size = 0; }), RdmaCmStatus::invalid_host_send_size);
  EXPECT_EQ(with([](auto& r) { r.host_send_size = 1024; }), RdmaCmStatus::invalid_host_send_size);
  EXPECT_EQ(with([](auto& r) { r.host_send_size = 0xffff; }), RdmaCmStatus::invalid_host_send_size);
  EXPECT_EQ(with([](auto& r) { r.host_receive_size = 30; }), RdmaCmStatus::invalid_host_receive_size);
  // The admin queue has a limit of its own.
  EXPECT_EQ(with([](auto& r) { r.queue_id = 0, r.host_receive_size = 200, r.host_send_size = 127; }),
            RdmaCmStatus::none);
  EXPECT_EQ(with([](auto& r) { r.queue_id = 0, r.host_receive_size = 200, r.host_send_size = 128; }),
            RdmaCmStatus::invalid_host_send_size);
}

TEST(NvmeRdma, AnswersToARequestAreReadOrIgnored) {
  RdmaCmAccept accept;
  accept.controller_receive_size = 64;
  std::vector<uint8_t> bytes(196, 0);
  std::memcpy(bytes.data(), &accept, sizeof accept);
  EXPECT_EQ(read_rdma_accept(bytes), 64u);
  EXPECT_EQ(read_rdma_accept(std::span(bytes).first(31)), 0u);
  bytes[0] = 1;
  EXPECT_EQ(read_rdma_accept(bytes), 0u);

  RdmaCmReject reject;
  reject.status = RdmaCmStatus::no_resources;
  std::vector<uint8_t> refusal_bytes(148, 0);
  std::memcpy(refusal_bytes.data(), &reject, sizeof reject);
  EXPECT_EQ(read_rdma_reject(refusal_bytes), RdmaCmStatus::no_resources);
  EXPECT_EQ(read_rdma_reject(std::span(refusal_bytes).first(3)), RdmaCmStatus::none);
  for (uint16_t code = 0; code <= 10; ++code) EXPECT_NE(name_of(static_cast<RdmaCmStatus>(code)), nullptr);
}

TEST(NvmeRdma, AKeyedSglIsLaidOutAsTheSpecificationSays) {
  const KeyedSgl sgl{.address = 0x1122334455667788, .length = 0x00abcdef, .key = 0xcafef00d, .invalidate = true};
  const SglDescriptor descriptor = make_keyed_sgl(sgl);
  const uint8_t wire[16] = {0x88, 0x77, 0x66, 0x55, 0x44, 0x33, 0x22, 0x11,
                            0xef, 0xcd, 0xab, 0x0d, 0xf0, 0xfe, 0xca, 0x4f};
  EXPECT_EQ(std::memcmp(&descriptor, wire, sizeof wire), 0);
  const KeyedSgl back = keyed_sgl_of(descriptor);
  EXPECT_EQ(back.address, sgl.address);
  EXPECT_EQ(back.length, sgl.length);
  EXPECT_EQ(back.key, sgl.key);
  EXPECT_TRUE(back.invalidate);
  EXPECT_EQ(make_keyed_sgl({.address = 1, .length = 2, .key = 3}).type, SglType::keyed_data_block);
}

Sqe command(uint8_t opcode, const SglDescriptor& data) {
  Sqe sqe;
  sqe.opcode = opcode;
  sqe.data = data;
  return sqe;
}

SglDescriptor in_capsule(uint64_t offset, uint32_t length) {
  SglDescriptor sgl;
  sgl.address = offset;
  sgl.length = length;
  sgl.type = SglType::in_capsule;
  return sgl;
}

TEST(NvmeRdma, DataIsPlacedInTheCapsuleOrWithTheHost) {
  const RdmaDataPlace inside = place_rdma_data(command(IoOp::write, in_capsule(512, 4096)), 8192, 1 << 20);
  ASSERT_EQ(inside.status, Status::success);
  EXPECT_EQ(inside.kind, RdmaDataPlace::Kind::in_capsule);
  EXPECT_EQ(inside.offset, 512u);
  EXPECT_EQ(inside.bytes, 4096u);
  EXPECT_TRUE(inside.to_controller);

  const SglDescriptor keyed = make_keyed_sgl({.address = 4096, .length = 1 << 20, .key = 7, .invalidate = true});
  const RdmaDataPlace outside = place_rdma_data(command(IoOp::read, keyed), 0, 1 << 20);
  ASSERT_EQ(outside.status, Status::success);
  EXPECT_EQ(outside.kind, RdmaDataPlace::Kind::keyed);
  EXPECT_FALSE(outside.to_controller);
  EXPECT_EQ(outside.keyed.key, 7u);

  // A fabrics command's type says which way its data goes.
  Sqe connect = command(AdminOp::fabrics, keyed);
  connect.nsid = 1;
  EXPECT_TRUE(place_rdma_data(connect, 0, 1 << 20).to_controller);
  // No data: whatever the descriptor's type is.
  EXPECT_EQ(place_rdma_data(command(IoOp::flush, in_capsule(0, 0)), 0, 1 << 20).kind, RdmaDataPlace::Kind::none);
  EXPECT_EQ(place_rdma_data(command(IoOp::write_zeroes, keyed), 0, 1 << 20).kind, RdmaDataPlace::Kind::none);
}

TEST(NvmeRdma, AWrongDataPointerHasItsStatus) {
  const auto status = [](const Sqe& sqe, uint32_t capsule_bytes) {
    return place_rdma_data(sqe, capsule_bytes, 65536).status;
  };
  EXPECT_EQ(status(command(IoOp::write, in_capsule(4097, 1)), 4096), Status::invalid_sgl_offset);
  EXPECT_EQ(status(command(IoOp::write, in_capsule(UINT64_MAX, 512)), 4096), Status::invalid_sgl_offset);
  EXPECT_EQ(status(command(IoOp::write, in_capsule(1, 4096)), 4096), Status::invalid_sgl_data_length);
  EXPECT_EQ(status(command(IoOp::write, in_capsule(0, UINT32_MAX)), 4096), Status::invalid_sgl_data_length);
  EXPECT_EQ(status(command(IoOp::read, in_capsule(0, 512)), 4096), Status::invalid_sgl_type);
  SglDescriptor other = in_capsule(0, 512);
  other.type = SglType::transport_data;
  EXPECT_EQ(status(command(IoOp::write, other), 4096), Status::invalid_sgl_type);
  EXPECT_EQ(status(command(IoOp::write, make_keyed_sgl({.address = 0, .length = 65537, .key = 1})), 0),
            Status::invalid_field);
  EXPECT_EQ(status(command(IoOp::write, make_keyed_sgl({.address = 0, .length = 512, .key = 1})), 512),
            Status::invalid_sgl_type);
  EXPECT_EQ(status(command(IoOp::write, make_keyed_sgl({.address = UINT64_MAX, .length = 512, .key = 1})), 0),
            Status::invalid_sgl_data_length);
  EXPECT_EQ(status(command(0x03, make_keyed_sgl({.address = 0, .length = 512, .key = 1})), 0), Status::invalid_opcode);
}

}  // namespace
}  // namespace diskengine::spec
