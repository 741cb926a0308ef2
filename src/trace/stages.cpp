#include "trace/stages.h"

#include <algorithm>

namespace diskengine::trace {
namespace {

struct Around {
  Stage before;  // the child that was waited for
  Stage after;
};

Around around(Layer layer) noexcept {
  switch (layer) {
    case Layer::vhost:
      return {Stage::vhost_submit, Stage::vhost_complete};
    case Layer::raid:
      return {Stage::raid_submit, Stage::raid_complete};
    case Layer::nvme:
      return {Stage::nvme_submit, Stage::nvme_complete};
    case Layer::nvmf:
      return {Stage::nvmf_submit, Stage::nvmf_complete};
    case Layer::lvol:
      return {Stage::lvol_submit, Stage::lvol_complete};
    case Layer::disk:
      return {Stage::disk, Stage::disk};
    case Layer::other:
      break;
  }
  return {Stage::other, Stage::other};
}

// Gives consecutive moments to stages; what would go back in time has no length.
class Ruler {
 public:
  explicit Ruler(uint64_t start) noexcept : at_(start) {}
  void until(uint64_t moment, Stage stage) noexcept {
    if (moment <= at_) return;
    ticks_[static_cast<size_t>(stage)] += moment - at_;
    at_ = moment;
  }
  const StageTicks& ticks() const noexcept { return ticks_; }

 private:
  uint64_t at_;
  StageTicks ticks_{};
};

// From where the ruler stands to the end of the visit.
void measure(const Trace& trace, size_t index, Ruler& ruler) noexcept {
  const Visit& visit = trace.visits[index];
  const Around stages = around(visit.layer);
  const auto until = [&](uint64_t moment, Stage stage) { ruler.until(std::min(moment, visit.left), stage); };
  if (visit.waiting != 0) {
    until(visit.waiting, stages.before);
    until(visit.prepared, Stage::lvol_allocate);
  }
  const size_t child = waited_for(trace, index);
  if (child != 0) {
    until(trace.visits[child].entered, stages.before);
    measure(trace, child, ruler);
  } else if (visit.layer == Layer::nvme && visit.sent != 0) {
    until(visit.sent, stages.before);
    until(visit.answered != 0 ? visit.answered : visit.left, Stage::network_target);
  }
  if (visit.layer == Layer::vhost && visit.answered != 0) {
    until(visit.answered, stages.after);
    until(visit.left, Stage::vhost_notify);
  }
  until(visit.left, stages.after);
}

}  // namespace

std::string_view name_of(Stage stage) noexcept {
  constexpr std::array<std::string_view, kStages> kNames{
      "vhost_submit",  "raid_submit",   "nvme_submit",    "network_target", "nvmf_submit",
      "lvol_submit",   "lvol_allocate", "disk",           "lvol_complete",  "nvmf_complete",
      "nvme_complete", "raid_complete", "vhost_complete", "vhost_notify",   "other"};
  return kNames[static_cast<size_t>(stage)];
}

size_t waited_for(const Trace& trace, size_t index) noexcept {
  size_t last = 0;
  for (size_t i = 1; i < trace.count; ++i) {
    const Visit& visit = trace.visits[i];
    if (visit.parent != index || visit.left == 0) continue;
    // A part that outlived its parent was not waited for.
    if (visit.left > trace.visits[index].left && trace.visits[index].left != 0) continue;
    if (last == 0 || visit.left > trace.visits[last].left) last = i;
  }
  return last;
}

StageTicks stages_of(const Trace& trace) noexcept {
  Ruler ruler(trace.top().entered);
  measure(trace, 0, ruler);
  return ruler.ticks();
}

}  // namespace diskengine::trace
