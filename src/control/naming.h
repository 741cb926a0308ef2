// The names of every object in a data plane, derived from database ids so that each loop, and a person with rpc.py,
// finds the same object without asking anyone. Pure functions; any thread.
//
//   vhost controller      vhost<volume_vm_mapping id>
//   RAID bdev             raid_<volume id>
//   replica's NQN         nqn.2026-01.io.diskengine:replica-<uuid>        (kept in volume_lvol_mapping)
//   NVMe controller       replica-<uuid>                                  controller_name_from_nqn(nqn)
//   base bdev             replica-<uuid>n1                                base_bdev_name_from_nqn(nqn)
//   lvol bdev             <lvol uuid>, alias lvs_<disk uuid>/lvol_<lvol id>
//   lvol store            lvs_<disk uuid>                                 on NvmeDisk<disk id>n1
//   physical controller   NvmeDisk<disk id>, its bdev NvmeDisk<disk id>n1
//   host NQN              nqn.2026-01.io.diskengine:host:<volume_vm_mapping id>:<epoch>
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

namespace diskengine::control {

inline constexpr std::string_view kNqnPrefix = "nqn.2026-01.io.diskengine:";

std::string vhost_controller_name(int64_t volume_vm_mapping_id);
std::string raid_bdev_name(int64_t volume_id);
// Holds the place of a replica that is away while a mirror is put together without it.
std::string stand_in_name(int64_t volume_id, int64_t slot);
std::string nvme_disk_name(int64_t disk_id);
std::string nvme_disk_bdev_name(int64_t disk_id);
// A disk on the PCI bus that the data plane drives itself, by address ("0000:00:04.0") or by "serial:<serial number>".
bool is_pci_disk(std::string_view path);
// The store on a disk, and an lvol in it. The UUID of an lvol is the data plane's to choose; by these names it is found
// again when its creation was cut short before the UUID was recorded.
std::string lvol_store_name(std::string_view disk_uuid);
std::string lvol_name(int64_t lvol_id);
std::string lvol_alias(std::string_view disk_uuid, int64_t lvol_id);
std::string replica_nqn(std::string_view uuid);
std::string host_nqn(int64_t volume_vm_mapping_id, int64_t epoch);

// The initiator's controller for a replica. Different NQNs give different names, ours and foreign ones alike.
std::string controller_name_from_nqn(std::string_view nqn);
// Namespace 1 of that controller: the bdev the mirror is built on.
std::string base_bdev_name_from_nqn(std::string_view nqn);

// The serial number a replica's subsystem shows, at most 20 characters as NVMe has it.
std::string serial_number_of(std::string_view lvol_uuid);

}  // namespace diskengine::control
