#include "control/storagenode/provisionlvol.h"

#include <fmt/format.h>

#include "control/naming.h"

namespace diskengine::control {
namespace {

LvolPlan wait_plan(std::string_view state, std::string reason) {
  return {LvolStep::none, make_status(state, std::move(reason))};
}

LvolPlan plan_removal(const Disk& disk, const BdevView* bdev, bool export_gone) {
  if (!export_gone) return wait_plan(state::kDeleting, "waiting for its export to go");
  if (bdev != nullptr) return {LvolStep::remove, {}};
  // A disk that is away may still hold it.
  if (disk.status.state != state::kReady)
    return wait_plan(state::kDeleting, fmt::format("waiting for disk {}, which is {}: {}", disk.id, disk.status.state,
                                                   disk.status.reason));
  return {LvolStep::forget, {}};
}

const VolumeLvolMapping* mapping_of(const Graph& graph, int64_t lvol_id) {
  for (const VolumeLvolMapping& row : graph.replicas)
    if (row.lvol_id == lvol_id) return &row;
  return nullptr;
}

}  // namespace

LvolPlan plan_lvol(const Lvol& lvol, const Disk& disk, const BdevView* bdev, bool export_gone) {
  if (!lvol.wanted) return plan_removal(disk, bdev, export_gone);
  const bool is_there = bdev != nullptr && lvol.provisioned;  // which a disk that takes no new ones serves all the same
  if (disk.status.state != state::kReady && !is_there)
    return wait_plan(state::kWaiting, fmt::format("disk {} is {}: {}", disk.id, disk.status.state, disk.status.reason));
  if (bdev == nullptr) {
    if (!lvol.provisioned) return {LvolStep::create, {}};
    return wait_plan(state::kFailed,
                     fmt::format("its data is missing on disk {} ({}): {} is not in the store, or is damaged (see "
                                 "bdev_lvol_get_lvols); restore it, or delete the volume",
                                 disk.id, disk.path, lvol_alias(disk.uuid, lvol.id)));
  }
  if (!lvol.provisioned) return {LvolStep::adopt, {}};
  if (bdev->name != lvol.uuid)
    return wait_plan(state::kFailed,
                     fmt::format("{} on disk {} is another lvol: its UUID is {}, not {}; put the right one back, or "
                                 "delete the volume",
                                 lvol_alias(disk.uuid, lvol.id), disk.id, bdev->name, lvol.uuid));
  return {LvolStep::none, make_status(state::kReady)};
}

Result<int> provision_lvol(LoopContext& context, const Graph& graph, const TargetView& view, const Lvol& lvol) {
  const Disk* disk = graph.disk(lvol.disk_id);
  DE_ASSERT(disk != nullptr);
  const std::string alias = lvol_alias(disk->uuid, lvol.id);
  const BdevView* bdev = view.bdev(alias);
  const VolumeLvolMapping* mapping = mapping_of(graph, lvol.id);
  const bool export_gone = mapping == nullptr || mapping->status.state == state::kWithdrawn;
  const LvolPlan plan = plan_lvol(lvol, *disk, bdev, export_gone);
  if (plan.step == LvolStep::none) {
    TRY(context.store.set_status(Kind::lvol, lvol.id, plan.status));
    return 0;
  }
  return take_step(context, Kind::lvol, lvol.id, "lvol " + alias, [&]() -> Result<void> {
    switch (plan.step) {
      case LvolStep::create: {
        TRY_ASSIGN(const std::string uuid, context.data_plane.create_lvol({.store = lvol_store_name(disk->uuid),
                                                                           .name = lvol_name(lvol.id),
                                                                           .size_bytes = lvol.size_bytes}));
        return context.store.set_provisioned(lvol.id, uuid);
      }
      case LvolStep::adopt:
        return context.store.set_provisioned(lvol.id, bdev->name);
      case LvolStep::remove:
        return context.data_plane.delete_lvol(alias);
      case LvolStep::forget:
        return context.store.remove_lvol(lvol.id);
      case LvolStep::none:
        break;
    }
    return {};
  });
}

}  // namespace diskengine::control
