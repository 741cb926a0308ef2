#include "control/storagenode/provisionlvol.h"

#include <fmt/format.h>

namespace diskengine::control {
namespace {

LvolPlan plan_removal(LvolPresence presence, bool export_gone) {
  if (!export_gone) return {LvolStep::none, make_status(state::kDeleting, "waiting for its export to go")};
  switch (presence) {
    case LvolPresence::online:
      return {LvolStep::close, {}};
    case LvolPresence::stored:
    case LvolPresence::partial:
      return {LvolStep::remove, {}};
    case LvolPresence::absent:
      break;
  }
  return {LvolStep::forget, {}};
}

const VolumeLvolMapping* mapping_of(const Graph& graph, int64_t lvol_id) {
  for (const VolumeLvolMapping& row : graph.replicas)
    if (row.lvol_id == lvol_id) return &row;
  return nullptr;
}

}  // namespace

LvolPlan plan_lvol(const Lvol& lvol, const Disk& disk, LvolPresence presence, bool export_gone) {
  if (!lvol.wanted) return plan_removal(presence, export_gone);
  if (disk.status.state != state::kReady)
    return {LvolStep::none, make_status(state::kWaiting, fmt::format("disk {} is {}: {}", disk.id, disk.status.state,
                                                                     disk.status.reason))};
  switch (presence) {
    case LvolPresence::online:
      return {LvolStep::none, make_status(state::kReady)};
    case LvolPresence::stored:
      return {LvolStep::open, {}};
    case LvolPresence::partial:
    case LvolPresence::absent:
      break;
  }
  if (lvol.provisioned)
    return {LvolStep::none,
            make_status(state::kFailed,
                        fmt::format("its data is {} on disk {} ({}); restore it, or delete the volume",
                                    presence == LvolPresence::absent ? "missing" : "cut short", disk.id, disk.path))};
  return {LvolStep::create, {}};
}

Result<int> provision_lvol(LoopContext& context, LvolProvider& provider, const Graph& graph, const TargetView& view,
                           const Lvol& lvol) {
  const Disk* disk = graph.disk(lvol.disk_id);
  DE_ASSERT(disk != nullptr);
  const Result<LvolPresence> presence = provider.observe(*disk, lvol, view);
  if (!presence) {
    TRY(context.store.set_status(Kind::lvol, lvol.id, make_status(state::kFailed, presence.error().message())));
    return 0;
  }
  const VolumeLvolMapping* mapping = mapping_of(graph, lvol.id);
  const bool export_gone = mapping == nullptr || mapping->status.state == state::kWithdrawn;
  const LvolPlan plan = plan_lvol(lvol, *disk, *presence, export_gone);
  if (plan.step == LvolStep::none) {
    TRY(context.store.set_status(Kind::lvol, lvol.id, plan.status));
    return 0;
  }
  return take_step(context, Kind::lvol, lvol.id, "lvol " + lvol.uuid, [&]() -> Result<void> {
    switch (plan.step) {
      case LvolStep::create:
        return provider.create(*disk, lvol);
      case LvolStep::open:
        // From here on it may hold data.
        TRY(context.store.set_provisioned(lvol.id));
        return provider.open(*disk, lvol);
      case LvolStep::close:
        return provider.close(*disk, lvol, view);
      case LvolStep::remove:
        return provider.remove(*disk, lvol);
      case LvolStep::forget:
        return context.store.remove_lvol(lvol.id);
      case LvolStep::none:
        break;
    }
    return {};
  });
}

}  // namespace diskengine::control
