#include "raid/mirror_channel.h"

#include <bit>
#include <cerrno>

#include "raid/mutation.h"

namespace diskengine::raid {
namespace {

// The device rejected the request as such and wrote nothing. If every leg says so, none is to blame.
bool is_refusal(IoCode code) noexcept {
  return code == IoCode::invalid || code == IoCode::not_supported || code == IoCode::read_only;
}

// A flush overlaps nothing: its range says nothing.
bool overlap(const Request& a, const Request& b) noexcept {
  return a.op != Op::flush && a.lba < b.lba + b.blocks && b.lba < a.lba + a.blocks;
}

template <typename Visit>
void for_each_tag(LegMask mask, Visit&& visit) {
  for (unsigned rest = mask; rest != 0; rest &= rest - 1) visit(static_cast<unsigned>(std::countr_zero(rest)));
}

}  // namespace

MirrorChannel::MirrorChannel(std::shared_ptr<Device> device, Reactor& on, std::shared_ptr<Board> board,
                             std::shared_ptr<DmaBuffer> zeroes)
    : Channel(std::move(device), on),
      board_(std::move(board)),
      zeroes_(std::move(zeroes)),
      retry_timer_([this] { run_retries(); }),
      children_(kChildrenMax),
      marks_(std::make_shared<MarkExchange>(on, board_, static_cast<MarkTaker&>(*this))),
      granule_shift_(
          static_cast<unsigned>(std::countr_zero(WriteOrder::kGranuleBytes / this->device().info().block_size))),
      tracker_(this->device().info().block_size),
      resumer_(*this) {
  for (Child& child : children_) {
    child.done = &MirrorChannel::on_child;
    child.owner = this;
    child.next_free = std::exchange(free_, &child);
  }
  free_count_ = kChildrenMax;
  board_->join(*this, &view_, &released_);
  for (const std::shared_ptr<Leg>& leg : view_->legs)
    if (leg != nullptr) open_port(leg);
}

MirrorChannel::~MirrorChannel() {
  board_->leave(*this);
  marks_->detach();
  DE_ASSERT(free_count_ == kChildrenMax);
  for (const Port& port : ports_) DE_ASSERT(port.outstanding == 0);
  if (resumer_.linked()) resumer_.unlink();
  // Nothing is in flight, so nothing is left to drain.
  for (const RangeLock& lock : draining_)
    if (lock.ticket != nullptr) lock.ticket->drop();
}

void MirrorChannel::start(Request& request) noexcept {
  taken_.store(taken_.load(std::memory_order_relaxed) + 1, std::memory_order_relaxed);
  request.make_context<Io>();
  if (view_->fenced) [[unlikely]] {
    conclude(request, IoStatus::error(IoCode::fenced));
    return;
  }
  if (waiting_count_ == 0 && !paused() && begin(request)) [[likely]]
    return;
  if (waiting_count_ == kWaitingMax) {
    conclude(request, IoStatus::error(IoCode::io_error, EAGAIN));
    return;
  }
  trace::note(request.visit, trace::Note::queued);
  waiting_.push_back(request);
  ++waiting_count_;
}

// False if there are not enough children for it now.
bool MirrorChannel::begin(Request& request) noexcept {
  if (goes_to_one_leg(request.op)) {
    if (free_count_ == 0) return false;
    send_read(request);
    return true;
  }
  if (!has_room(request)) return false;
  if (request.op == Op::flush) {
    send_to_all(request);
    return true;
  }
  Io& io = request.context<Io>();
  const trace::Note why = must_hold(request, io)     ? (io.held_for_write ? trace::Note::ordered : trace::Note::locked)
                          : !may_write(request, io)  ? trace::Note::marked
                          : !take_order(request, io) ? trace::Note::ordered
                                                     : trace::Note{};
  const bool hold = why != trace::Note{};
  if (why == trace::Note::marked && view_->gave_up) [[unlikely]] {
    conclude(request, IoStatus::error(IoCode::disconnected));  // what it asked for may not come for long
    return true;
  }
  trace::note(request.visit, why);
  track(request);
  if (hold) {
    held_.push_back(request);
    if (io.held_for_write) ++held_for_writes_;
  } else {
    send_to_all(request);
  }
  return true;
}

// The end of `request` here. Runs its completion at once only where nothing follows that could miss this channel.
void MirrorChannel::conclude(Request& request, IoStatus status) noexcept {
  if (request.linked()) request.unlink();
  Io& io = request.context<Io>();
  if (io.ordered > 0) give_order(request, io);
  if (io.parked) [[unlikely]]
    board_->held.ended(static_cast<uint64_t>(static_cast<double>(ticks() - request.submit_ticks) * 1e9 /
                                             static_cast<double>(ticks_per_second())));
  if (io.tracked) untrack(request);
  if (leaving_ != 0) [[unlikely]]
    schedule_resume();
  if (!resuming_) [[likely]] {
    finish(request, status);
    return;
  }
  request.status = status;
  concluded_.push_back(request);
}

void MirrorChannel::report(unsigned tag, Op op, IoStatus status) noexcept {
  if ((reported_ & mask_of(tag)) != 0) return;
  reported_ |= mask_of(tag);
  board_->report({.tag = tag, .leg = ports_[tag].leg.get(), .op = op, .status = status});
}

// --- Reads and compares
// ------------------------------------------------------------------------------------------------

LegMask MirrorChannel::readable(const Request& request, const Io& io) const noexcept {
  LegMask mask = 0;
  for_each_tag(view_->in_sync & static_cast<LegMask>(~(io.failed | view_->unread)), [&](unsigned tag) {
    const Port& port = ports_[tag];
    if (port.channel != nullptr && (request.op == Op::read || port.leg->device().info().can_compare))
      mask |= mask_of(tag);
  });
  return mask;
}

// The leg with the fewest requests under way; the one whose last read ended at `lba`, if it is not much worse.
unsigned MirrorChannel::choose_leg(LegMask candidates, uint64_t lba) const noexcept {
  unsigned best = kTagsMax, sequential = kTagsMax;
  for (unsigned i = 0; i < kTagsMax; ++i) {
    const unsigned tag = (next_leg_ + i) % kTagsMax;
    if ((candidates & mask_of(tag)) == 0) continue;
    if (best == kTagsMax || ports_[tag].outstanding < ports_[best].outstanding) best = tag;
    if (ports_[tag].read_end == lba && lba != 0) sequential = tag;
  }
  next_leg_ = (best + 1) % kTagsMax;
  if (sequential != kTagsMax && ports_[sequential].outstanding <= ports_[best].outstanding + kSequentialSlack)
    return sequential;
  return best;
}

void MirrorChannel::send_read(Request& request) noexcept {
  Io& io = request.context<Io>();
  const LegMask candidates = readable(request, io);
  if (candidates == 0) {
    const bool unsupported = request.op == Op::compare && view_->in_sync != 0;
    if (io.failed == 0) io.error = IoStatus::error(unsupported ? IoCode::not_supported : IoCode::disconnected);
    if (!unsupported && may_keep(request)) {
      keep(request);
    } else {
      conclude(request, io.error);
    }
    return;
  }
  const unsigned tag = std::has_single_bit(candidates) ? static_cast<unsigned>(std::countr_zero(candidates))
                                                       : choose_leg(candidates, request.lba);
  ports_[tag].read_end = request.lba + request.blocks;
  submit_child(take_child(request, tag));
}

void MirrorChannel::read_answered(Child& child) noexcept {
  Request& request = *child.parent;
  const unsigned tag = child.tag;
  const IoStatus status = child.status;
  if (status.ok() || status.code == IoCode::miscompare || is_refusal(status.code)) [[likely]] {
    if ((view_->in_sync & ~view_->unread & mask_of(tag)) == 0 || view_->stopped) [[unlikely]] {
      read_again(child);
      return;
    }
    give_back(child);
    conclude(request, status);
    return;
  }
  Io& io = request.context<Io>();
  const LegMask failed_before = io.failed;
  if (io.failed == 0) io.error = status;
  io.failed |= mask_of(tag);
  if (status.code == IoCode::disconnected) io.cut_off |= mask_of(tag);
  if (readable(request, io) == 0 && retry(child)) {  // no other leg can serve it
    io.failed = failed_before;
    ++ports_[tag].outstanding;
    return;
  }
  give_back(child);
  ports_[tag].leg->read_errors.fetch_add(1, std::memory_order_relaxed);
  board_->report({.tag = tag,
                  .leg = ports_[tag].leg.get(),
                  .op = request.op,
                  .status = status,
                  .lba = request.lba,
                  .blocks = request.blocks});
  send_read(request);  // with the child just given back
}

// Nobody reads from that leg any more: it may have answered with less than what was acknowledged.
void MirrorChannel::read_again(Child& child) noexcept {
  Request& request = *child.parent;
  give_back(child);
  if (!paused()) {
    send_read(request);
    return;
  }
  waiting_.push_front(request);
  ++waiting_count_;
}

// --- Writes, write-zeroes, unmaps and flushes
// --------------------------------------------------------------------------

bool MirrorChannel::overlapped_by(List<Request>& list, const Request& request) noexcept {
  bool found = false;
  list.for_each([&](Request& other) { found = found || (&other != &request && overlap(other, request)); });
  return found;
}

bool MirrorChannel::must_hold(const Request& request, Io& io) noexcept {
  if (tracker_.may_overlap(request.lba, request.blocks)) [[unlikely]]
    io.held_for_write =
        overlapped_by(sent_, request) || overlapped_by(parked_, request) || overlapped_by(held_, request);
  return io.held_for_write || view_->locked(request.lba, request.blocks);
}

// A rebuilding leg gets what touches the part that was copied; the rest it gets by being copied.
LegMask MirrorChannel::targets_of(const Request& request) const noexcept {
  if (request.op == Op::flush || request.lba < view_->copied_until) return view_->in_sync | view_->rebuilding;
  return view_->in_sync;
}

// Whether no other channel's write is before it in any granule. If one is, the order's go_on() comes.
bool MirrorChannel::take_order(const Request& request, Io& io) noexcept {
  if constexpr (mutated(Mutation::unordered_writes)) return true;
  const uint64_t first = granule_of(request.lba);
  const uint64_t count = WriteOrder::slots_of(first, granule_of(request.lba + request.blocks - 1));
  const uint32_t number = Board::number_of(*this);
  for (; io.ordered < count; ++io.ordered)
    if (!board_->order.take(WriteOrder::slot_of(first, count, io.ordered), number)) return false;
  return true;
}

void MirrorChannel::give_order(const Request& request, Io& io) noexcept {
  const uint64_t first = granule_of(request.lba);
  const uint64_t count = WriteOrder::slots_of(first, granule_of(request.lba + request.blocks - 1));
  bool wanted = false;
  for (; io.ordered > 0; --io.ordered)
    wanted = board_->order.give(WriteOrder::slot_of(first, count, io.ordered - 1)) || wanted;
  if (wanted) [[unlikely]]
    board_->let_go_on();
}

// Whether there are children for it, and a buffer for its payload.
bool MirrorChannel::has_room(const Request& request) const noexcept {
  if (free_count_ < kLegsMax) return false;
  return request.op != Op::write || payloads_.has_room(request.blocks * device().info().block_size);
}

// The guest's memory is read once, here, if more than one leg is to get it. False: there is no memory.
bool MirrorChannel::copy_payload(Request& request, Io& io) noexcept {
  if (request.op != Op::write || std::has_single_bit(io.sent)) return true;
  io.payload = payloads_.copy(request.iov, request.blocks * device().info().block_size);
  return io.payload != nullptr;
}

void MirrorChannel::drop_payload(Io& io) noexcept {
  if (io.payload == nullptr) return;
  payloads_.give_back(*std::exchange(io.payload, nullptr));
  if (waiting_count_ > 0 || held_for_writes_ > 0) schedule_resume();
}

// There is room for it.
void MirrorChannel::send_to_all(Request& request) noexcept {
  Io& io = request.context<Io>();
  io.sent = targets_of(request);
  io.pending = static_cast<uint8_t>(std::popcount(io.sent));
  if (!copy_payload(request, io)) [[unlikely]] {
    conclude(request, IoStatus::error(IoCode::io_error, ENOMEM));
    return;
  }
  sent_.push_back(request);
  for_each_tag(io.sent, [&](unsigned tag) {
    if (ports_[tag].channel != nullptr) {
      submit_child(take_child(request, tag));  // answers later, never in here
      return;
    }
    io.failed |= mask_of(tag);
    io.cut_off |= mask_of(tag);
    io.error = IoStatus::error(IoCode::disconnected);
    --io.pending;
  });
  if (io.pending > 0) return;
  drop_payload(io);
  settle(request);
}

// Every leg answered: is the request done, and how did it end? The only place that acknowledges.
void MirrorChannel::settle(Request& request) noexcept {
  const Io& io = request.context<Io>();
  if (view_->fenced) [[unlikely]] {
    conclude(request, IoStatus::error(IoCode::fenced));
    return;
  }
  if (view_->stopped && request.op == Op::flush) [[unlikely]] {
    park(request);  // it made nothing durable of what is lost
    return;
  }
  const View& view = *released_;
  // A leg that it was not sent to either left before (then another reactor may still read from it until the view
  // without it is released) or came into sync since (then the copy brought it everything).
  const LegMask owed = io.sent | static_cast<LegMask>(~view_->in_sync);
  const LegMask lacking = view.in_sync & owed & static_cast<LegMask>(~io.ok);
  const LegMask bad = (view.in_sync | view.rebuilding | view_->in_sync | view_->rebuilding) & io.failed;
  if ((lacking | bad) == 0) [[likely]] {
    if ((io.ok & view.in_sync) != 0) {
      conclude(request, IoStatus::success());
    } else {
      conclude(request, io.failed != 0 ? io.error : IoStatus::error(IoCode::disconnected));
    }
    return;
  }
  if (io.ok == 0 && is_refusal(io.error.code)) {
    conclude(request, io.error);
    return;
  }
  if (std::has_single_bit(view.in_sync) && (view.in_sync & io.failed) != 0) {
    // The last leg does not leave: it is waited for, or its error goes up. The volume is told, for a rebuild that
    // copies from this leg.
    const auto tag = static_cast<unsigned>(std::countr_zero(view.in_sync));
    board_->report({.tag = tag, .leg = ports_[tag].leg.get(), .op = request.op, .status = io.error});
    if (may_keep(request)) {
      keep(request);
    } else {
      conclude(request, io.error);
    }
    return;
  }
  if constexpr (mutated(Mutation::ack_before_exclude)) {
    if (io.ok != 0) {
      for_each_tag(io.failed, [&](unsigned tag) { report(tag, request.op, io.error); });
      conclude(request, IoStatus::success());
      return;
    }
  }
  if (view_->gave_up) [[unlikely]] {
    for_each_tag(io.failed, [&](unsigned tag) { report(tag, request.op, io.error); });
    conclude(request, IoStatus::error(IoCode::disconnected));
    return;
  }
  park(request);
}

// Exclusion decided: here a request waits for that, neither acknowledged nor failed. Its leg is reported; the volume
// decides and publishes a view, whose release settles this request.
void MirrorChannel::park(Request& request) noexcept {
  if (request.linked()) request.unlink();
  parked_.push_back(request);
  Io& io = request.context<Io>();
  if (!io.parked) board_->held.now.fetch_add(1, std::memory_order_relaxed);
  io.parked = true;
  trace::note(request.visit, trace::Note::held);
  for_each_tag(io.failed & (view_->in_sync | view_->rebuilding),
               [&](unsigned tag) { report(tag, request.op, io.error); });
}

void MirrorChannel::track(Request& request) noexcept {
  tracker_.add(request.lba, request.blocks);
  request.context<Io>().tracked = true;
}

void MirrorChannel::untrack(Request& request) noexcept {
  tracker_.remove(request.lba, request.blocks);
  request.context<Io>().tracked = false;
  if (draining_count_ > 0) check_drains();
  if (held_for_writes_ > 0) schedule_resume();
}

// --- What waited
// -------------------------------------------------------------------------------------------------------

void MirrorChannel::resume() noexcept {
  resuming_ = true;
  close_idle_ports();
  if (!held_.empty() && !paused()) resume_held();
  if (!waiting_.empty() && !paused()) resume_waiting();
  resuming_ = false;
  // The last of these may destroy this channel.
  List<Request> due;
  due.splice_back(concluded_);
  while (!due.empty()) {
    Request& request = due.pop_front();
    finish(request, request.status);
  }
}

// In order of arrival: a write starts when no range lock and no earlier write overlaps it.
void MirrorChannel::resume_held() noexcept {
  List<Request> before;
  before.splice_back(held_);
  while (!before.empty()) {
    Request& request = before.pop_front();
    Io& io = request.context<Io>();
    if (io.held_for_write) --held_for_writes_;
    io.held_for_write =
        overlapped_by(sent_, request) || overlapped_by(parked_, request) || overlapped_by(held_, request);
    const bool no_room = !has_room(request);
    if (no_room || io.held_for_write || view_->locked(request.lba, request.blocks)) {
      if (no_room) io.held_for_write = true;  // it waits for completions, as if for a write
      held_.push_back(request);
      if (io.held_for_write) ++held_for_writes_;
    } else if (!may_write(request, io) || !take_order(request, io)) {
      held_.push_back(request);
    } else {
      send_to_all(request);
    }
  }
}

void MirrorChannel::resume_waiting() noexcept {
  while (!waiting_.empty() && !paused()) {
    Request& request = waiting_.pop_front();
    if (!begin(request)) {
      waiting_.push_front(request);
      return;
    }
    --waiting_count_;
  }
}

// --- Views
// -------------------------------------------------------------------------------------------------------------

void MirrorChannel::adopt(const std::shared_ptr<const View>& view) noexcept {
  const std::shared_ptr<const View> before = std::exchange(view_, view);
  if (before->in_sync != view->in_sync || before->rebuilding != view->rebuilding || before->gave_up != view->gave_up)
    reported_ = 0;
  for (unsigned tag = 0; tag < kTagsMax; ++tag) {
    Port& port = ports_[tag];
    if (port.leg == nullptr || port.leg == view->legs[tag]) continue;
    port.leaving = true;
    leaving_ |= mask_of(tag);
  }
  run_retries();  // of legs that leave: at once
  close_idle_ports();
  for (const std::shared_ptr<Leg>& leg : view->legs)
    if (leg != nullptr && ports_[leg->tag()].leg == nullptr) open_port(leg);
  adopt_locks(*before);
  awaiting_view_ = false;
  if (view->fenced && !before->fenced) fail_all(IoStatus::error(IoCode::fenced));
  if (view->gave_up && !before->gave_up) fail_all(IoStatus::error(IoCode::disconnected));
  if (!held_.empty() || !waiting_.empty()) schedule_resume();
}

void MirrorChannel::release(const std::shared_ptr<const View>& view) noexcept {
  released_ = view;
  if (parked_.empty()) return;
  resuming_ = settling_ = true;
  List<Request> before;
  before.splice_back(parked_);
  while (!before.empty()) settle(before.pop_front());
  resuming_ = settling_ = false;
  if (draining_count_ > 0) check_drains();
  schedule_resume();
}

void MirrorChannel::adopt_locks(const View& before) noexcept {
  for (unsigned i = 0; i < kRangeLocksMax; ++i) {
    const RangeLock& lock = view_->locks[i];
    if (lock.ticket == before.locks[i].ticket) continue;
    if (draining_[i].ticket != nullptr) {
      std::exchange(draining_[i], RangeLock{}).ticket->drop();
      --draining_count_;
    }
    if (lock.ticket == nullptr) continue;
    lock.ticket->add();
    draining_[i] = lock;
    ++draining_count_;
  }
  if (draining_count_ > 0) check_drains();
}

void MirrorChannel::check_drains() noexcept {
  if (settling_) return;  // parked writes are on no list at this moment
  for (RangeLock& lock : draining_) {
    if (lock.ticket == nullptr) continue;
    bool busy = false;
    const auto look = [&](Request& write) {
      busy = busy || (write.op != Op::flush && lock.overlaps(write.lba, write.blocks));
    };
    sent_.for_each(look);
    parked_.for_each(look);
    if (busy) continue;
    std::exchange(lock, RangeLock{}).ticket->drop();
    --draining_count_;
  }
}

}  // namespace diskengine::raid
