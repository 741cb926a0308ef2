#include "control/storagenode/disk_init.h"

#include <fmt/format.h>

#include "base/uuid.h"
#include "control/naming.h"

namespace diskengine::control {
namespace {

DiskPlan failed(std::string reason) {
  return {.step = DiskStep::none, .status = make_status(state::kFailed, std::move(reason))};
}

DiskPlan plan_without_store(const Disk& disk) {
  if (disk.capacity_bytes > 0)
    return failed(
        fmt::format("{} is not the disk that was initialised, or its lvol store {} cannot be loaded: there is no store "
                    "on it; connect the right disk, or look into the data plane's log",
                    disk.path, lvol_store_name(disk.uuid)));
  return {.step = disk.uuid.empty() ? DiskStep::choose_identity : DiskStep::create_store, .status = {}};
}

// A disk that holds something is not taken: only who added it knows whether that is needed.
Result<DiskPlan> plan_identity(LoopContext& context, const Disk& disk) {
  TRY_ASSIGN(const std::vector<std::string> found, context.data_plane.content_of(nvme_disk_bdev_name(disk.id)));
  if (found.empty()) return DiskPlan{.step = DiskStep::choose_identity, .status = {}};
  return failed(
      fmt::format("{} holds data ({}); choose another disk, or remove that data (wipefs -a), or add the disk "
                  "with --overwrite if it is not needed",
                  disk.path, fmt::join(found, ", ")));
}

Result<void> run_step(LoopContext& context, const Disk& disk, const DiskPlan& plan, const TargetView& view) {
  const std::string bdev = nvme_disk_bdev_name(disk.id);
  switch (plan.step) {
    case DiskStep::open_bdev:
      if (is_pci_disk(disk.path)) return context.data_plane.attach_pci_disk(nvme_disk_name(disk.id), disk.path);
      return context.data_plane.create_file_bdev({.filename = disk.path, .name = bdev, .block_size = disk.block_size});
    case DiskStep::choose_identity: {
      const Uuid uuid = Uuid::from_random(context.environment.random(), context.environment.random());
      return context.store.set_disk_identity(disk.id, uuid.to_string(), 0);
    }
    case DiskStep::create_store:
      return context.data_plane.create_lvol_store(
          {.bdev_name = bdev, .name = lvol_store_name(disk.uuid), .cluster_bytes = kClusterBytes});
    case DiskStep::record_capacity:
      return context.store.set_disk_identity(disk.id, disk.uuid, view.lvol_store_on(bdev)->total_bytes);
    case DiskStep::none:
      break;
  }
  return {};
}

}  // namespace

DiskPlan plan_disk(const Disk& disk, const TargetView& view) {
  const std::string bdev = nvme_disk_bdev_name(disk.id);
  if (view.bdev(bdev) == nullptr) return {.step = DiskStep::open_bdev, .status = {}};
  const LvolStoreView* store = view.lvol_store_on(bdev);
  if (store == nullptr) return plan_without_store(disk);
  if (disk.uuid.empty() || store->name != lvol_store_name(disk.uuid))
    return failed(
        fmt::format("{} holds the lvol store {} of another set-up; choose another disk, or delete that store "
                    "(bdev_lvol_delete_lvstore) if its data is not needed",
                    disk.path, store->name));
  if (store->block_size != disk.block_size)
    return failed(
        fmt::format("{} has blocks of {} bytes, and was added as a disk with blocks of {}; add it with the "
                    "right --block-size",
                    disk.path, store->block_size, disk.block_size));
  if (disk.capacity_bytes != store->total_bytes) return {.step = DiskStep::record_capacity, .status = {}};
  if (!store->frozen_reason.empty())
    return failed(fmt::format(
        "its lvol store changes nothing any more, so first writes to clusters fail: {}; see that the disk is "
        "well, then start the node's data plane anew, which loads the store again",
        store->frozen_reason));
  return {.step = DiskStep::none, .status = make_status(state::kReady)};
}

Result<int> initialise_disk(LoopContext& context, const Disk& disk, const TargetView& view) {
  DiskPlan plan = plan_disk(disk, view);
  if (plan.step == DiskStep::choose_identity) {
    TRY_ASSIGN(plan, plan_identity(context, disk));
  }
  if (plan.step == DiskStep::none) {
    TRY(context.store.set_status(Kind::disk, disk.id, plan.status));
    return 0;
  }
  return take_step(context, Kind::disk, disk.id, fmt::format("disk {}", disk.id),
                   [&] { return run_step(context, disk, plan, view); });
}

}  // namespace diskengine::control
