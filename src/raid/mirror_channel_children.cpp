// The lower edge of a mirror's channel: its handles on the legs and the child requests that go there.
#include <algorithm>
#include <cerrno>

#include "base/log.h"
#include "raid/mirror_channel.h"

namespace diskengine::raid {
namespace {

// What the same leg may do a moment later. The request that failed is over in the layers below: a second one may be
// sent.
bool may_pass(IoStatus status) noexcept {
  const bool passing =
      status.code == IoCode::io_error || status.code == IoCode::timed_out || status.code == IoCode::disconnected;
  return passing && !status.nvme_dnr;
}

}  // namespace

MirrorChannel::Child& MirrorChannel::take_child(Request& parent, unsigned tag) noexcept {
  DE_ASSERT(free_ != nullptr);
  Child& child = *free_;
  free_ = child.next_free;
  --free_count_;
  child.parent = &parent;
  child.tag = tag;
  child.zero_blocks_left = 0;
  child.retries = 0;
  return child;
}

void MirrorChannel::give_back(Child& child) noexcept {
  child.parent = nullptr;
  child.next_free = std::exchange(free_, &child);
  ++free_count_;
  if (waiting_count_ > 0 || held_for_writes_ > 0) schedule_resume();
}

// Sends the parent's request to one leg, in the form that leg supports.
void MirrorChannel::submit_child(Child& child) noexcept {
  Request& parent = *child.parent;
  const Payload* payload = parent.context<Io>().payload;
  Port& port = ports_[child.tag];
  const DeviceInfo& leg = port.leg->device().info();
  child.op = parent.op;
  child.fua = parent.fua;
  child.may_unmap = parent.may_unmap;
  child.lba = parent.lba + port.leg->data_offset();
  child.blocks = parent.blocks;
  child.iov = payload == nullptr ? parent.iov : std::span<const iovec>(&payload->piece, 1);
  child.visit = parent.visit;
  ++port.outstanding;
  // What is unmapped reads as zeroes on legs that unmap; a leg that cannot gets zeroes, or the legs would differ.
  if (child.op == Op::unmap && !leg.can_unmap) child.op = Op::write_zeroes;
  if (child.op == Op::write_zeroes && !leg.can_write_zeroes) [[unlikely]] {
    child.op = Op::write;
    child.zero_blocks_left = parent.blocks;
    child.blocks = 0;
    submit_zero_piece(child);
    return;
  }
  port.channel->submit(child);
}

void MirrorChannel::submit_zero_piece(Child& child) noexcept {
  Port& port = ports_[child.tag];
  const DeviceInfo& leg = port.leg->device().info();
  uint64_t most = kZeroBytes / leg.block_size;
  if (leg.max_transfer_blocks != 0) most = std::min<uint64_t>(most, leg.max_transfer_blocks);
  child.lba += child.blocks;
  child.blocks = std::min(child.zero_blocks_left, most);
  child.zero_blocks_left -= child.blocks;
  child.zero_piece = {zeroes_->data(), child.blocks * leg.block_size};
  child.iov = {&child.zero_piece, 1};
  child.visit = child.parent->visit;
  port.channel->submit(child);
}

void MirrorChannel::on_child(Request& request) noexcept {
  static_cast<MirrorChannel*>(request.owner)->child_done(static_cast<Child&>(request));
}

void MirrorChannel::child_done(Child& child) noexcept {
  if (child.zero_blocks_left > 0 && child.status.ok()) [[unlikely]] {
    submit_zero_piece(child);
    return;
  }
  Port& port = ports_[child.tag];
  DE_ASSERT(port.outstanding > 0);
  const bool one_leg = goes_to_one_leg(child.parent->op);  // then another leg may serve it
  if (!child.status.ok() && !one_leg && retry(child)) [[unlikely]]
    return;
  if (--port.outstanding == 0 && port.leaving) [[unlikely]]
    schedule_resume();
  Request& request = *child.parent;
  if (one_leg) {
    read_answered(child);
    return;
  }
  Io& io = request.context<Io>();
  if (child.status.ok()) [[likely]] {
    io.ok |= mask_of(child.tag);
  } else {
    if (io.failed == 0) io.error = child.status;
    io.failed |= mask_of(child.tag);
    if (child.status.code == IoCode::disconnected) io.cut_off |= mask_of(child.tag);
    port.leg->write_errors.fetch_add(1, std::memory_order_relaxed);
  }
  give_back(child);
  if (--io.pending > 0) return;
  drop_payload(io);
  settle(request);
}

// --- A second try
// ------------------------------------------------------------------------------------------------------

// Puts a child that failed aside to be sent again, unless that is not worth trying: then its leg is to blame.
bool MirrorChannel::retry(Child& child) noexcept {
  const Port& port = ports_[child.tag];
  if (!may_pass(child.status) || port.leaving || (reported_ & mask_of(child.tag)) != 0) return false;
  const uint64_t now_ns = reactor().now_ns();
  if (child.retries == 0) child.failed_first_ns = now_ns;
  if (child.retries == kRetriesMax || now_ns - child.failed_first_ns >= kRetryTimeNs) return false;
  child.retry_at_ns = now_ns + (kRetryFirstWaitNs << (2 * child.retries));
  ++child.retries;
  retrying_.push_back(child);
  arm_retries();
  return true;
}

void MirrorChannel::arm_retries() noexcept {
  uint64_t soonest_ns = UINT64_MAX;
  retrying_.for_each(
      [&](Request& request) { soonest_ns = std::min(soonest_ns, static_cast<Child&>(request).retry_at_ns); });
  if (soonest_ns == UINT64_MAX) {
    retry_timer_.cancel();
    return;
  }
  const uint64_t now_ns = reactor().now_ns();
  retry_timer_.arm(reactor(), soonest_ns > now_ns ? soonest_ns - now_ns : 0);
}

// Sends what is due. What waits for a leg that leaves or was reported meanwhile has failed for good.
void MirrorChannel::run_retries() noexcept {
  if (retrying_.empty()) return;
  const uint64_t now_ns = reactor().now_ns();
  const bool nested = std::exchange(resuming_, true);
  List<Request> before;
  before.splice_back(retrying_);
  while (!before.empty()) {
    auto& child = static_cast<Child&>(before.pop_front());
    Port& port = ports_[child.tag];
    if (port.leaving || (reported_ & mask_of(child.tag)) != 0) {
      child.retries = kRetriesMax;
      child_done(child);
    } else if (child.retry_at_ns <= now_ns) {
      child.visit = child.parent->visit;
      trace::note(child.visit, trace::Note::retried);
      port.channel->submit(child);
    } else {
      retrying_.push_back(child);
    }
  }
  resuming_ = nested;
  if (!concluded_.empty()) schedule_resume();
  arm_retries();
}

void MirrorChannel::open_port(const std::shared_ptr<Leg>& leg) noexcept {
  Port& port = ports_[leg->tag()];
  DE_ASSERT(port.leg == nullptr && port.outstanding == 0);
  port = Port{};
  port.leg = leg;
  Result<std::unique_ptr<Channel>> opened = leg->device().open_channel(reactor());
  if (opened) {
    port.channel = std::move(opened).value();
    return;
  }
  LOG_WARN("raid", "{}: cannot open a channel to its leg {}: {}", device().name(), leg->device().name(),
           opened.error().message());
  board_->report(
      {.tag = leg->tag(), .leg = leg.get(), .op = Op::write, .status = IoStatus::error(IoCode::disconnected)});
}

// A leg's tag is free for another one once its last port is closed. What a write remembers of its legs by tag must not
// be taken for the next leg's.
void MirrorChannel::close_idle_ports() noexcept {
  if (leaving_ == 0) return;
  LegMask remembered = 0;
  const auto look = [&](Request& request) { remembered |= request.context<Io>().sent; };
  sent_.for_each(look);
  parked_.for_each(look);
  for (unsigned tag = 0; tag < kTagsMax; ++tag) {
    Port& port = ports_[tag];
    if (!port.leaving || port.outstanding > 0 || (remembered & mask_of(tag)) != 0) continue;
    port = Port{};
    leaving_ &= static_cast<LegMask>(~mask_of(tag));
  }
}

}  // namespace diskengine::raid
