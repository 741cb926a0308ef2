// Requests that no leg can serve because none can be reached: they are kept, to be sent again when the volume says that
// one can (raid/volume_reach.cpp).
#include "raid/mirror_channel.h"

namespace diskengine::raid {

// Whether the leg that the request depends on was not reached, as opposed to having answered with an error. Of a write
// that is settled by the released view that is the last leg in sync; a read tried all there are.
bool MirrorChannel::may_keep(const Request& request) noexcept {
  if (!view_->may_wait || view_->in_sync == 0) return false;
  const Io& io = const_cast<Request&>(request).context<Io>();
  if (goes_to_one_leg(request.op)) return io.failed == 0 || (io.cut_off & view_->in_sync) != 0;
  return (io.cut_off & released_->in_sync) != 0;
}

// Back to where it will be sent from, before all that came after it. A write keeps its place among those that overlap.
void MirrorChannel::keep(Request& request) noexcept {
  if (request.linked()) request.unlink();
  Io& io = request.context<Io>();
  io.sent = io.ok = io.failed = io.cut_off = 0;
  io.error = {};
  trace::note(request.visit, trace::Note::held);
  if (goes_to_one_leg(request.op) || request.op == Op::flush) {
    waiting_.push_front(request);
    ++waiting_count_;
  } else {
    io.held_for_write = false;
    held_.push_front(request);
    if (draining_count_ > 0) check_drains();
  }
  // What waited for an exclusion failed long ago: its leg is tried again before anything is said of it.
  if (settling_) return;
  report_kept();
}

void MirrorChannel::report_kept() noexcept {
  if (awaiting_view_) return;
  awaiting_view_ = true;
  board_->report({.tag = 0,
                  .leg = nullptr,
                  .op = Op::write,
                  .status = IoStatus::error(IoCode::disconnected),
                  .lba = 0,
                  .blocks = 0,
                  .kept = true});
}

// Ends what has not been sent, and what waits to be acknowledged. What is under way ends when its legs answer.
void MirrorChannel::fail_all(IoStatus status) noexcept {
  const bool nested = std::exchange(resuming_, true);
  List<Request> over;
  over.splice_back(parked_);
  over.splice_back(held_);
  over.splice_back(waiting_);
  held_for_writes_ = 0;
  waiting_count_ = 0;
  while (!over.empty()) conclude(over.pop_front(), status);
  resuming_ = nested;
  schedule_resume();
}

}  // namespace diskengine::raid
