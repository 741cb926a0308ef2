// What a channel may write to without asking: regions that the volume's log has marked (raid/marks.h).
#include "raid/mirror_channel.h"

namespace diskengine::raid {

// Whether every region of a write is marked. If not, it is asked for; the write is held meanwhile.
bool MirrorChannel::may_write(Request& request, Io& io) noexcept {
  if (!view_->logs) return true;
  const RegionRange range{request.lba >> view_->region_shift,
                          (request.lba + request.blocks - 1) >> view_->region_shift};
  if (granted_.test_all(range)) [[likely]] {
    touched_.set(range);
    return true;
  }
  if (!io.asked) {
    io.asked = marks_->add(range);
    marks_->send();
  }
  return false;
}

void MirrorChannel::marks_answered(std::span<const RegionRange> ranges, bool granted) noexcept {
  if (granted) {
    for (const RegionRange& range : ranges) {
      if (range.last >= granted_.size()) {
        granted_.resize(range.last + 1);
        touched_.resize(range.last + 1);
      }
      granted_.set(range);
      touched_.set(range);
    }
  } else {
    fail_unmarked();
  }
  held_.for_each([](Request& request) { request.context<Io>().asked = false; });
  schedule_resume();
}

// No leg can be written to in the way that later tells which is right: the writes that asked for it fail, unless that
// may be because no leg can be reached.
void MirrorChannel::fail_unmarked() noexcept {
  const bool nested = std::exchange(resuming_, true);
  bool kept = false;
  held_.for_each([&](Request& request) {
    Io& io = request.context<Io>();
    if (!io.asked) return;
    if (view_->may_wait && ++io.refusals <= kRefusalsMax) {
      kept = true;
      return;
    }
    if (io.held_for_write) --held_for_writes_;
    conclude(request, IoStatus::error(IoCode::io_error));
  });
  resuming_ = nested;
  if (kept) report_kept();
}

// Gives up what was not written to since the last sweep, and says what it keeps.
void MirrorChannel::sweep(RegionBits& kept) noexcept {
  if (!view_->logs) return;
  const auto keep = [&](Request& write) {
    if (write.op == Op::flush) return;
    touched_.set({write.lba >> view_->region_shift, (write.lba + write.blocks - 1) >> view_->region_shift});
  };
  sent_.for_each(keep);
  parked_.for_each(keep);
  granted_.keep_only(touched_);
  touched_.clear_all();
  kept.add(granted_);
}

}  // namespace diskengine::raid
