// The per-reactor handle of a UringDisk. See disk/uring.h for the contract; private to this folder.
#pragma once

#include <array>
#include <cstdint>
#include <memory>

#include "block/device.h"
#include "disk/uring.h"
#include "runtime/dma_buffer.h"

struct io_uring_sqe;

namespace diskengine {

class UringChannel final : public Channel {
 public:
  UringChannel(std::shared_ptr<UringDisk> disk, Reactor& reactor);
  ~UringChannel() override;

 private:
  struct IoOp;
  struct Discard;

  void start(Request& request) noexcept override;
  void begin(Request& request) noexcept;
  void begin_transfer(IoOp& op) noexcept;
  void begin_bounced(IoOp& op) noexcept;
  void begin_write_zeroes(IoOp& op) noexcept;
  void begin_sync(IoOp& op) noexcept;
  bool needs_bounce(const Request& request) const noexcept;

  void submit_whole(IoOp& op) noexcept;
  void submit_piece(IoOp& op) noexcept;
  void submit_chunk(IoOp& op) noexcept;
  void submit_zeroes(IoOp& op) noexcept;
  void submit_range(IoOp& op, int mode) noexcept;
  void submit_again(IoOp& op) noexcept;
  io_uring_sqe* entry() noexcept;
  void hand_over(io_uring_sqe* entry, IoOp& op) noexcept;

  void advance(IoOp& op, int result) noexcept;
  void advance_chunk(IoOp& op, uint64_t bytes) noexcept;
  void range_done(IoOp& op, int result) noexcept;
  void all_transferred(IoOp& op) noexcept;
  void fail(IoOp& op, int positive_errno) noexcept;
  void end(Request& request, IoStatus status) noexcept;

  UringDisk& disk_;
  const int fd_;
  const int registered_;  // index of fd_ in the ring's table, or -1
  const bool direct_;
  const uintptr_t memory_mask_;
  const size_t length_mask_;
  const uint32_t block_size_;

  unsigned in_flight_ = 0;
  List<Request> waiting_;         // for a place among kInFlightMax
  List<Request> bounce_waiting_;  // begun, for a bounce buffer
  DmaBuffer bounce_memory_;
  std::array<uint8_t*, UringDisk::kBounceBuffers> bounce_free_{};
  unsigned bounce_free_count_ = 0;
};

}  // namespace diskengine
