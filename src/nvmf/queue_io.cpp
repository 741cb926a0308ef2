// The I/O commands of a queue: NVM command set to block requests and back.
#include <algorithm>
#include <array>
#include <cstring>

#include "base/checked.h"
#include "base/endian.h"
#include "nvmf/queue.h"
#include "trace/probes.h"

namespace diskengine::nvmf {

using fabric::TargetCommand;
using spec::IoOp;
using spec::Status;

namespace {

// Zeroes to write where a device cannot write zeroes itself: each step writes these many times over.
constexpr size_t kZeroBytes = 64 * 1024;
alignas(4096) const std::array<uint8_t, kZeroBytes> kZeroes{};

bool copies_data(Op op) noexcept { return op == Op::read || op == Op::write || op == Op::compare; }

struct Outcome {
  Status status;
  bool do_not_retry;
};

Outcome outcome_of(const Request& request) noexcept {
  const IoStatus status = request.status;
  if (status.nvme_sct != 0 || status.nvme_sc != 0)
    return {spec::make_status(status.nvme_sct, status.nvme_sc), status.nvme_dnr};
  switch (status.code) {
    case IoCode::ok:
      return {Status::success, false};
    case IoCode::io_error:
      if (request.op == Op::read) return {Status::unrecovered_read_error, false};
      return {request.op == Op::write || request.op == Op::write_zeroes ? Status::write_fault : Status::internal_error,
              false};
    case IoCode::invalid:
      return {Status::lba_out_of_range, true};
    case IoCode::not_supported:
      return {Status::invalid_opcode, true};
    case IoCode::no_space:
      return {Status::capacity_exceeded, true};
    case IoCode::canceled:
    case IoCode::timed_out:
      return {Status::command_interrupted, false};
    case IoCode::disconnected:
      return {Status::namespace_not_ready, false};
    case IoCode::miscompare:
      return {Status::compare_failure, true};
    case IoCode::read_only:
      return {Status::namespace_write_protected, true};
    case IoCode::fenced:
      return {Status::access_denied, true};
  }
  return {Status::internal_error, false};
}

}  // namespace

// A command on its way through one or more block requests.
struct Queue::Io {
  Queue* queue;
  NamespacePort* port;
  uint64_t lba;          // of the next step
  uint64_t blocks_left;  // of the range under way
  uint32_t data_done;    // bytes of the command's data that earlier steps covered
  uint16_t range;        // dataset management: the next one
  uint16_t ranges;
  bool zeroes;  // the device cannot write zeroes: write them
  trace::Visit* traced;
};

void Queue::start_io(TargetCommand& command) noexcept {
  NamespacePort* port = ports_->find(command.sqe.nsid);
  if (port == nullptr) return fail(command, Status::invalid_namespace);
  switch (command.sqe.opcode) {
    case IoOp::read:
      return start_transfer(command, *port, Op::read);
    case IoOp::write:
      return start_transfer(command, *port, Op::write);
    case IoOp::compare:
      if (!port->can_compare) return fail(command, Status::invalid_opcode);
      return start_transfer(command, *port, Op::compare);
    case IoOp::flush:
      begin(command, *port, Op::flush);
      return next_step(command);
    case IoOp::write_zeroes:
      return start_write_zeroes(command, *port);
    case IoOp::dataset_management:
      return start_deallocate(command, *port);
    default:
      return fail(command, Status::invalid_opcode);
  }
}

void Queue::start_transfer(TargetCommand& command, NamespacePort& port, Op op) noexcept {
  const uint64_t lba = command.sqe.slba();
  const uint32_t blocks = (command.sqe.cdw12 & spec::kRwBlocksMask) + 1;
  if (!in_range(lba, blocks, port.size_blocks())) return fail(command, Status::lba_out_of_range);
  if (uint64_t{blocks} * port.block_bytes != command.data_bytes) return fail(command, Status::invalid_sgl_data_length);
  begin(command, port, op);
  Io& io = command.context<Io>();
  io.lba = lba;
  io.blocks_left = blocks;
  next_step(command);
}

void Queue::start_write_zeroes(TargetCommand& command, NamespacePort& port) noexcept {
  const uint64_t lba = command.sqe.slba();
  const uint32_t blocks = (command.sqe.cdw12 & spec::kRwBlocksMask) + 1;
  if (!in_range(lba, blocks, port.size_blocks())) return fail(command, Status::lba_out_of_range);
  begin(command, port, port.can_write_zeroes ? Op::write_zeroes : Op::write);
  command.request.may_unmap = (command.sqe.cdw12 & spec::kRwDeallocate) != 0;
  Io& io = command.context<Io>();
  io.zeroes = !port.can_write_zeroes;
  io.lba = lba;
  io.blocks_left = blocks;
  next_step(command);
}

void Queue::start_deallocate(TargetCommand& command, NamespacePort& port) noexcept {
  const uint32_t ranges = (command.sqe.cdw10 & 0xff) + 1;
  // Linux sends room for 256 ranges, always.
  if (command.data_bytes < ranges * sizeof(spec::DsmRange)) return fail(command, Status::invalid_sgl_data_length);
  // Everything else that this command can say is a hint.
  if ((command.sqe.cdw11 & spec::kDsmDeallocate) == 0 || !port.can_unmap) return fail(command, Status::success);
  // 256 ranges are 4096 bytes: one piece.
  const auto* at = static_cast<const uint8_t*>(command.data.front().iov_base);
  for (uint32_t i = 0; i < ranges; ++i) {
    const auto range = load_le<spec::DsmRange>(at + i * sizeof(spec::DsmRange));
    if (!in_range(range.slba, range.blocks, port.size_blocks())) return fail(command, Status::lba_out_of_range);
  }
  begin(command, port, Op::unmap);
  command.context<Io>().ranges = static_cast<uint16_t>(ranges);
  if (next_range(command)) return next_step(command);
  end_io(command, Status::success, false);
}

// Goes on to the next range that is not empty; false if there is none.
bool Queue::next_range(TargetCommand& command) noexcept {
  Io& io = command.context<Io>();
  if (io.range == io.ranges) return false;
  const auto* at = static_cast<const uint8_t*>(command.data.front().iov_base);
  while (io.range < io.ranges) {
    const auto range = load_le<spec::DsmRange>(at + io.range++ * sizeof(spec::DsmRange));
    if (range.blocks == 0) continue;
    io.lba = range.slba;
    io.blocks_left = range.blocks;
    return true;
  }
  return false;
}

void Queue::begin(TargetCommand& command, NamespacePort& port, Op op) noexcept {
  Io& io = command.make_context<Io>();
  io = {};
  io.queue = this;
  io.port = &port;
  Request& request = command.request;
  request.op = op;
  request.fua = (op == Op::write || op == Op::write_zeroes) && (command.sqe.cdw12 & spec::kRwFua) != 0;
  request.may_unmap = false;
  request.may_lend = false;
  request.lba = 0;
  request.blocks = 0;
  request.iov = {};
  request.done = &Queue::on_io_done;
  request.owner = &command;
  request.submit_ticks = 0;
  ++group_.pending_io;
  DE_PROBE3(nvmf_taken, &request, qid_, command.sqe.cid);
  if (trace::Recorder* recorder = reactor().recorder(); recorder != nullptr)
    io.traced = recorder->begin(port.root, static_cast<uint8_t>(op), 0, 0);
  if (io.traced != nullptr) [[unlikely]]
    describe(command, *io.traced);
}

// What the host knows the command by.
void Queue::describe(const TargetCommand& command, trace::Visit& visit) const noexcept {
  visit.queue_id = qid_;
  visit.command_id = command.sqe.cid;
  if (command.sqe.opcode == IoOp::flush || command.sqe.opcode == IoOp::dataset_management) return;
  visit.lba = command.sqe.slba();
  visit.blocks = (command.sqe.cdw12 & spec::kRwBlocksMask) + 1;
  trace::copy_text(visit.trace->peer, host_nqn_);
}

// Submits as much of what is left as the device takes at once.
void Queue::next_step(TargetCommand& command) noexcept {
  Io& io = command.context<Io>();
  Request& request = command.request;
  const NamespacePort& port = *io.port;
  uint64_t blocks = io.blocks_left;
  if (copies_data(request.op) && port.transfer_blocks_max != 0)
    blocks = std::min<uint64_t>(blocks, port.transfer_blocks_max);
  if (io.zeroes) {
    blocks = std::min<uint64_t>(blocks, command.request_pieces.size() * kZeroBytes / port.block_bytes);
    size_t pieces = 0;
    for (size_t left = blocks * port.block_bytes; left > 0; ++pieces) {
      const size_t length = std::min(left, kZeroBytes);
      command.request_pieces[pieces] = {const_cast<uint8_t*>(kZeroes.data()), length};
      left -= length;
    }
    request.iov = std::span(command.request_pieces).first(pieces);
  } else if (copies_data(request.op) && blocks == io.blocks_left && io.data_done == 0) {
    request.iov = command.data;
    request.may_lend = request.op == Op::read && command.may_lend;
  } else if (copies_data(request.op)) {
    size_t skip = io.data_done;
    size_t left = blocks * port.block_bytes;
    size_t pieces = 0;
    for (const iovec& piece : command.data) {
      if (skip >= piece.iov_len) {
        skip -= piece.iov_len;
        continue;
      }
      if (left == 0) break;
      const size_t length = std::min(left, piece.iov_len - skip);
      command.request_pieces[pieces++] = {static_cast<uint8_t*>(piece.iov_base) + skip, length};
      left -= length;
      skip = 0;
    }
    io.data_done += static_cast<uint32_t>(blocks * port.block_bytes);
    request.iov = std::span(command.request_pieces).first(pieces);
  }
  request.lba = io.lba;
  request.blocks = blocks;
  io.lba += blocks;
  io.blocks_left -= blocks;
  request.visit = io.traced;
  port.channel->submit(request);
}

void Queue::on_io_done(Request& request) noexcept {
  auto& command = *static_cast<TargetCommand*>(request.owner);
  command.context<Io>().queue->io_done(command);
}

void Queue::io_done(TargetCommand& command) noexcept {
  Io& io = command.context<Io>();
  const Outcome outcome = outcome_of(command.request);
  const auto loan = std::exchange(command.request.loan, nullptr);
  if (outcome.status != Status::success) return end_io(command, outcome.status, outcome.do_not_retry);
  if (loan != nullptr) {
    command.loan = loan;
    command.request_pieces[0] = {const_cast<uint8_t*>(command.loan.get()), command.data_bytes};
    command.data = std::span(command.request_pieces).first(1);
  }
  if (io.blocks_left == 0 && !next_range(command)) return end_io(command, Status::success, false);
  // The namespace is going away: the rest would hold it up.
  if (!io.port->open) return end_io(command, Status::namespace_not_ready, false);
  next_step(command);
}

void Queue::end_io(TargetCommand& command, Status status, bool do_not_retry) noexcept {
  --group_.pending_io;
  ++group_.completed_io;
  if (status != Status::success) ++group_.failed_io;
  set_status(command, status, do_not_retry);
  DE_PROBE2(nvmf_answered, &command.request, static_cast<int>(status));
  const Io& io = command.context<Io>();
  trace::Visit* const traced = io.traced;
  if (traced == nullptr && io.port->root != nullptr && command.request.submit_ticks != 0)
    reactor().recorder()->ended_untraced(io.port->root, reactor().batch_ticks() - command.request.submit_ticks);
  finish(command);  // may destroy this queue
  if (traced != nullptr) [[unlikely]]
    traced->leave(status == Status::success);
}

}  // namespace diskengine::nvmf
