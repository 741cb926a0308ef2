// While no leg to read from can be reached (raid/volume.h): I/O waits for one, as long as no_leg_timeout_sec says, and
// goes on by itself. A leg that was the last one in sync stays in sync on every record: what it holds is the truth.
#include <fmt/format.h>

#include <algorithm>

#include "base/log.h"
#include "raid/volume.h"
#include "runtime/dma_buffer.h"

namespace diskengine::raid {

// Every call ends with a new view: channels that kept something go on by that.
void Volume::look_for_leg() {
  if (ending_) stop_writer("the process ends, and no leg can be reached");
  if (ending_ || deleting_ || state_ != VolumeState::online) {
    publish_soon();  // in which nothing may wait
  } else if (!looking_ && options().no_leg_timeout_sec != 0) {
    spawn(wait_for_leg());
  } else if (!looking_) {
    publish_soon();
  }
}

Task<void> Volume::wait_for_leg() {
  const std::shared_ptr<Volume> self = shared_from_this();
  looking_ = true;
  const uint64_t now_ns = main().now_ns();
  if (waiting_since_ns_ == 0 || now_ns - found_leg_ns_ > kReachSettleNs) waiting_since_ns_ = now_ns;
  for (bool reached = false; !reached && !deleting_ && !fenced_;) {
    reached = co_await reach_leg();
    if (!reached && !waiting_ && !deleting_ && !fenced_) begin_to_wait();
    co_await sleep_for(main(), kReachProbeNs);  // also if it was: channels that cannot reach it do not spin
  }
  found_leg_ns_ = main().now_ns();
  wait_timer_.cancel();
  if (std::exchange(waiting_, false) && !deleting_ && !fenced_) {
    LOG_WARN("raid", "{}: a leg can be reached again after {} ms: I/O goes on", name_,
             (found_leg_ns_ - waiting_since_ns_) / 1'000'000);
    announce(EventType::reached, nullptr, "a leg can be reached again");
  }
  // It answers here, and not to those who have I/O for it.
  if (found_leg_ns_ - waiting_since_ns_ >= uint64_t{options().no_leg_timeout_sec} * 1'000'000'000 && !gave_up_) {
    gave_up_ = true;
    publish_soon();
    for (uint64_t slept_ns = 0; slept_ns < kReachSettleNs && !deleting_; slept_ns += kReachProbeNs)
      co_await sleep_for(main(), kReachProbeNs);
  }
  gave_up_ = false;
  looking_ = false;
  publish_soon();
}

// Whether a leg that is read from answers. Those are asked one after the other.
Task<bool> Volume::reach_leg() {
  const std::shared_ptr<Volume> self = shared_from_this();
  DmaBuffer block(block_size_);
  for (const auto& slot : slots_) {
    if (!slot->present() || slot->role != SlotRole::in_sync || slot->excluding || slot->unsynced) continue;
    const IoStatus status = co_await control_io(*slot->control, Op::read, slot->data_offset, block.span(), false);
    if (status.code != IoCode::disconnected) co_return true;
  }
  co_return false;
}

void Volume::begin_to_wait() {
  const uint64_t limit_ns = uint64_t{options().no_leg_timeout_sec} * 1'000'000'000;
  const uint64_t waited_ns = main().now_ns() - waiting_since_ns_;
  waiting_ = true;
  LOG_ERROR("raid", "{}: no leg in sync can be reached: I/O waits for one, at most {} s", name_,
            options().no_leg_timeout_sec);
  announce(EventType::waiting, nullptr,
           fmt::format("no leg in sync can be reached: I/O waits for one, at most {} s", options().no_leg_timeout_sec));
  wait_timer_.arm(main(), limit_ns > waited_ns ? limit_ns - waited_ns : 0);
  publish_soon();
}

void Volume::stop_waiting() {
  if (!waiting_ || gave_up_) return;
  gave_up_ = true;
  LOG_ERROR("raid", "{}: no leg in sync could be reached for {} s: I/O fails until one can", name_,
            (main().now_ns() - waiting_since_ns_) / 1'000'000'000);
  announce(EventType::gave_up, nullptr, "no leg in sync could be reached in time: I/O fails until one can");
  publish_soon();
}

void Volume::end_waits() {
  ending_ = true;
  const bool leaving = std::any_of(slots_.begin(), slots_.end(), [](const auto& slot) { return slot->excluding; });
  if (fenced_ || (!waiting_ && !stopped_ && !leaving)) return;
  stop_writer("the process ends, and its legs do not answer");
  publish_soon();
}

// Its reason only if there is none of more weight.
std::string Volume::waiting_json() const {
  const uint64_t waited_ns = main().now_ns() - waiting_since_ns_;
  std::string out = fmt::format(R"("waiting":{{"since_unix_ms":{},"for_ms":{},"limit_sec":{},"gave_up":{}}})",
                                (main().clock().wall_ns() - waited_ns) / 1'000'000, waited_ns / 1'000'000,
                                options().no_leg_timeout_sec, gave_up_);
  if (!stopped_)
    out +=
        fmt::format(R"(,"reason":"{}")", gave_up_ ? "no leg in sync could be reached in time: I/O fails until one can"
                                                  : "no leg in sync can be reached: I/O waits for one");
  return out;
}

}  // namespace diskengine::raid
