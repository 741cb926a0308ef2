#include "disk/uring_channel.h"

#include <liburing.h>
#include <limits.h>
#include <linux/falloc.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

#include "disk/discard_thread.h"

namespace diskengine {
namespace {

constexpr unsigned kRetriesMax = 64;  // of EAGAIN and EINTR, for one request
constexpr size_t kZeroBytes = 1024 * 1024;

// What write-zeroes writes where the file system cannot zero a range; never written to, so it costs no memory.
const uint8_t* zeroes() {
  static const DmaBuffer buffer(kZeroBytes);
  return buffer.data();
}

uint64_t bytes_of(const Request& request, uint32_t block_size) { return request.blocks * block_size; }

// Copies between `flat` and the bytes [offset, offset + length) of the request's payload.
enum class Way { gather, scatter, compare };
bool copy_payload(const Request& request, uint64_t offset, uint8_t* flat, size_t length, Way way) {
  for (const iovec& piece : request.iov) {
    if (offset >= piece.iov_len) {
      offset -= piece.iov_len;
      continue;
    }
    const size_t part = std::min<size_t>(piece.iov_len - offset, length);
    uint8_t* at = static_cast<uint8_t*>(piece.iov_base) + offset;
    if (way == Way::gather) std::memcpy(flat, at, part);
    if (way == Way::scatter) std::memcpy(at, flat, part);
    if (way == Way::compare && std::memcmp(at, flat, part) != 0) return false;
    flat += part;
    length -= part;
    offset = 0;
    if (length == 0) break;
  }
  return true;
}

}  // namespace

// One request on its way, in the request's context area.
struct UringChannel::IoOp final : RingOp {
  enum class Step : uint8_t {
    whole,    // the request's own pieces in one operation
    piece,    // what a partial completion left, piece by piece
    chunk,    // through a bounce buffer
    zeroes,   // zeroes written from memory
    range,    // fallocate: punch or zero
    syncing,  // fdatasync
  };

  void on_completion(int result, uint32_t) noexcept override { channel->advance(*this, result); }

  UringChannel* channel = nullptr;
  Request* request = nullptr;
  uint64_t done_bytes = 0;
  uint8_t* bounce = nullptr;
  iovec piece{};
  int range_mode = 0;
  uint16_t retries = 0;
  Step step = Step::whole;
};

// An unmap of a block device.
struct UringChannel::Discard final : DiscardJob {
  void deliver() noexcept override {
    if (positive_errno != 0) channel->disk_.note_failure(request->op, request->lba, positive_errno);
    channel->end(*request, io_status_from_errno(positive_errno));
  }
  UringChannel* channel = nullptr;
  Request* request = nullptr;
};

UringChannel::UringChannel(std::shared_ptr<UringDisk> disk, Reactor& reactor)
    : Channel(disk, reactor),
      disk_(*disk),
      fd_(disk->backing().fd()),
      registered_(reactor.register_file(fd_)),
      direct_(disk->backing().direct()),
      memory_mask_(disk->backing().memory_align() - 1),
      length_mask_(disk->backing().length_align() - 1),
      block_size_(disk->info().block_size),
      bounce_memory_(UringDisk::kBounceBuffers * UringDisk::kBounceBytes) {
  for (size_t i = 0; i < UringDisk::kBounceBuffers; ++i)
    bounce_free_[bounce_free_count_++] = bounce_memory_.data() + i * UringDisk::kBounceBytes;
}

UringChannel::~UringChannel() {
  DE_ASSERT(in_flight_ == 0 && waiting_.empty() && bounce_waiting_.empty());
  DE_ASSERT(bounce_free_count_ == UringDisk::kBounceBuffers);
  reactor().unregister_file(registered_);
}

void UringChannel::start(Request& request) noexcept {
  if (request.op == Op::flush && !disk_.info().write_cache) {
    finish(request, IoStatus::success());
    return;
  }
  if (in_flight_ >= UringDisk::kInFlightMax) {
    waiting_.push_back(request);
    return;
  }
  begin(request);
}

void UringChannel::begin(Request& request) noexcept {
  ++in_flight_;
  if (request.op == Op::unmap && disk_.discards() != nullptr) {
    Discard& job = request.make_context<Discard>();
    job.channel = this;
    job.request = &request;
    job.reactor = &reactor();
    job.offset_bytes = request.lba * block_size_;
    job.length_bytes = bytes_of(request, block_size_);
    disk_.discards()->submit(job);
    return;
  }
  IoOp& op = request.make_context<IoOp>();
  op.channel = this;
  op.request = &request;
  switch (request.op) {
    case Op::read:
    case Op::write:
      begin_transfer(op);
      break;
    case Op::compare:
      begin_bounced(op);
      break;
    case Op::flush:
      begin_sync(op);
      break;
    case Op::unmap:
      op.step = IoOp::Step::range;
      submit_range(op, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE);
      break;
    case Op::write_zeroes:
      begin_write_zeroes(op);
      break;
  }
}

bool UringChannel::needs_bounce(const Request& request) const noexcept {
  if (request.iov.size() > IOV_MAX) return true;
  if (!direct_) return false;
  for (const iovec& piece : request.iov)
    if ((reinterpret_cast<uintptr_t>(piece.iov_base) & memory_mask_) != 0 || (piece.iov_len & length_mask_) != 0)
      return true;
  return false;
}

void UringChannel::begin_transfer(IoOp& op) noexcept {
  if (needs_bounce(*op.request)) {
    begin_bounced(op);
  } else {
    op.step = IoOp::Step::whole;
    submit_whole(op);
  }
}

void UringChannel::begin_bounced(IoOp& op) noexcept {
  op.step = IoOp::Step::chunk;
  if (bounce_free_count_ == 0) {
    bounce_waiting_.push_back(*op.request);
    return;
  }
  op.bounce = bounce_free_[--bounce_free_count_];
  submit_chunk(op);
}

void UringChannel::begin_write_zeroes(IoOp& op) noexcept {
  if (disk_.zero_range_refused().load(std::memory_order_relaxed)) {
    op.step = IoOp::Step::zeroes;
    submit_zeroes(op);
    return;
  }
  // A hole reads as zeroes, on a file and (the kernel sees to it) on a block device.
  op.step = IoOp::Step::range;
  const int how = op.request->may_unmap && disk_.info().can_unmap ? FALLOC_FL_PUNCH_HOLE : FALLOC_FL_ZERO_RANGE;
  submit_range(op, how | FALLOC_FL_KEEP_SIZE);
}

void UringChannel::begin_sync(IoOp& op) noexcept {
  if (!disk_.info().write_cache) {
    end(*op.request, IoStatus::success());
    return;
  }
  op.step = IoOp::Step::syncing;
  io_uring_sqe* sqe = entry();
  io_uring_prep_fsync(sqe, fd_, IORING_FSYNC_DATASYNC);
  hand_over(sqe, op);
}

io_uring_sqe* UringChannel::entry() noexcept { return reactor().sqe(); }

void UringChannel::hand_over(io_uring_sqe* sqe, IoOp& op) noexcept {
  if (registered_ >= 0) {
    sqe->fd = registered_;
    sqe->flags |= IOSQE_FIXED_FILE;
  }
  const bool writes = op.step != IoOp::Step::range && op.step != IoOp::Step::syncing &&
                      (op.request->op == Op::write || op.request->op == Op::write_zeroes);
  if (writes && op.request->fua && disk_.info().write_cache) sqe->rw_flags = RWF_DSYNC;
  reactor().submit(sqe, op);
}

void UringChannel::submit_whole(IoOp& op) noexcept {
  const Request& request = *op.request;
  const uint64_t offset = request.lba * block_size_;
  const auto count = static_cast<unsigned>(request.iov.size());
  io_uring_sqe* sqe = entry();
  if (request.op == Op::read) {
    io_uring_prep_readv(sqe, fd_, request.iov.data(), count, offset);
  } else {
    io_uring_prep_writev(sqe, fd_, request.iov.data(), count, offset);
  }
  hand_over(sqe, op);
}

void UringChannel::submit_piece(IoOp& op) noexcept {
  const Request& request = *op.request;
  uint64_t skip = op.done_bytes;
  const iovec* piece = request.iov.data();
  while (skip >= piece->iov_len) skip -= (piece++)->iov_len;
  op.piece = {static_cast<uint8_t*>(piece->iov_base) + skip, piece->iov_len - skip};
  const uint64_t offset = request.lba * block_size_ + op.done_bytes;
  io_uring_sqe* sqe = entry();
  if (request.op == Op::read) {
    io_uring_prep_readv(sqe, fd_, &op.piece, 1, offset);
  } else {
    io_uring_prep_writev(sqe, fd_, &op.piece, 1, offset);
  }
  hand_over(sqe, op);
}

void UringChannel::submit_chunk(IoOp& op) noexcept {
  Request& request = *op.request;
  const uint64_t left = bytes_of(request, block_size_) - op.done_bytes;
  op.piece = {op.bounce, std::min<uint64_t>(left, UringDisk::kBounceBytes)};
  const uint64_t offset = request.lba * block_size_ + op.done_bytes;
  io_uring_sqe* sqe = entry();
  if (request.op == Op::write) {
    copy_payload(request, op.done_bytes, op.bounce, op.piece.iov_len, Way::gather);
    io_uring_prep_writev(sqe, fd_, &op.piece, 1, offset);
  } else {
    io_uring_prep_readv(sqe, fd_, &op.piece, 1, offset);
  }
  hand_over(sqe, op);
}

void UringChannel::submit_zeroes(IoOp& op) noexcept {
  const uint64_t left = bytes_of(*op.request, block_size_) - op.done_bytes;
  op.piece = {const_cast<uint8_t*>(zeroes()), std::min<uint64_t>(left, kZeroBytes)};
  io_uring_sqe* sqe = entry();
  io_uring_prep_writev(sqe, fd_, &op.piece, 1, op.request->lba * block_size_ + op.done_bytes);
  hand_over(sqe, op);
}

void UringChannel::submit_range(IoOp& op, int mode) noexcept {
  op.range_mode = mode;
  io_uring_sqe* sqe = entry();
  io_uring_prep_fallocate(sqe, fd_, mode, static_cast<off_t>(op.request->lba * block_size_),
                          static_cast<off_t>(bytes_of(*op.request, block_size_)));
  hand_over(sqe, op);
}

void UringChannel::submit_again(IoOp& op) noexcept {
  switch (op.step) {
    case IoOp::Step::whole:
      submit_whole(op);
      break;
    case IoOp::Step::piece:
      submit_piece(op);
      break;
    case IoOp::Step::chunk:
      submit_chunk(op);
      break;
    case IoOp::Step::zeroes:
      submit_zeroes(op);
      break;
    case IoOp::Step::range:
      submit_range(op, op.range_mode);
      break;
    case IoOp::Step::syncing:
      begin_sync(op);
      break;
  }
}

// The kernel's answer to the operation under way.
void UringChannel::advance(IoOp& op, int result) noexcept {
  if ((result == -EAGAIN || result == -EINTR) && op.retries < kRetriesMax) {
    ++op.retries;
    submit_again(op);
    return;
  }
  if (op.step == IoOp::Step::range) {
    range_done(op, result);
    return;
  }
  if (result < 0) {
    fail(op, -result);
    return;
  }
  if (op.step == IoOp::Step::syncing) {
    end(*op.request, IoStatus::success());
    return;
  }
  if (result == 0) {  // past the end: the file was cut short under us
    fail(op, EIO);
    return;
  }
  const auto bytes = static_cast<uint64_t>(result);
  if (op.step == IoOp::Step::chunk) {
    advance_chunk(op, bytes);
    return;
  }
  // Direct I/O goes on only where a unit begins; ending within one means that the file does.
  if ((bytes & length_mask_) != 0) {
    fail(op, EIO);
    return;
  }
  op.done_bytes += bytes;
  if (op.done_bytes >= bytes_of(*op.request, block_size_)) {
    all_transferred(op);
    return;
  }
  if (op.step == IoOp::Step::whole) op.step = IoOp::Step::piece;
  submit_again(op);
}

void UringChannel::advance_chunk(IoOp& op, uint64_t bytes) noexcept {
  Request& request = *op.request;
  // A part of a block is done again with the next chunk.
  bytes -= bytes % block_size_;
  if (bytes == 0) {
    fail(op, EIO);
    return;
  }
  if (request.op == Op::read) copy_payload(request, op.done_bytes, op.bounce, bytes, Way::scatter);
  if (request.op == Op::compare && !copy_payload(request, op.done_bytes, op.bounce, bytes, Way::compare)) {
    end(request, IoStatus::error(IoCode::miscompare));
    return;
  }
  op.done_bytes += bytes;
  if (op.done_bytes >= bytes_of(request, block_size_)) {
    all_transferred(op);
  } else {
    submit_chunk(op);
  }
}

void UringChannel::range_done(IoOp& op, int result) noexcept {
  if (result == 0) {
    all_transferred(op);
    return;
  }
  const bool refused = result == -EOPNOTSUPP || result == -ENOSYS || result == -EINVAL || result == -ENODEV;
  if (!refused || op.request->op != Op::write_zeroes) {
    fail(op, -result);
    return;
  }
  if ((op.range_mode & FALLOC_FL_PUNCH_HOLE) != 0) {
    submit_range(op, FALLOC_FL_ZERO_RANGE | FALLOC_FL_KEEP_SIZE);
    return;
  }
  disk_.zero_range_refused().store(true, std::memory_order_relaxed);
  op.step = IoOp::Step::zeroes;
  submit_zeroes(op);
}

void UringChannel::all_transferred(IoOp& op) noexcept {
  // Writes carried RWF_DSYNC; a zeroed range needs its own sync.
  if (op.step == IoOp::Step::range && op.request->op == Op::write_zeroes && op.request->fua) {
    begin_sync(op);
    return;
  }
  end(*op.request, IoStatus::success());
}

void UringChannel::fail(IoOp& op, int positive_errno) noexcept {
  disk_.note_failure(op.request->op, op.request->lba, positive_errno);
  end(*op.request, io_status_from_errno(positive_errno));
}

// Completes the request and gives what it held to those who wait. The channel may be gone afterwards.
void UringChannel::end(Request& request, IoStatus status) noexcept {
  DE_ASSERT(in_flight_ > 0);
  --in_flight_;
  const bool discarded = request.op == Op::unmap && disk_.discards() != nullptr;
  uint8_t* bounce = discarded ? nullptr : request.context<IoOp>().bounce;
  if (bounce != nullptr) {
    bounce_free_[bounce_free_count_++] = bounce;
    if (!bounce_waiting_.empty()) begin_bounced(bounce_waiting_.pop_front().context<IoOp>());
  }
  if (!waiting_.empty()) begin(waiting_.pop_front());
  finish(request, status);
}

}  // namespace diskengine
