// The RPC methods of RAID volumes, under SPDK's names: bdev_raid_*. Described in schema/bdev_raid.json.
// Main reactor.
#pragma once

#include "raid/manager.h"
#include "rpc/method.h"

namespace diskengine::rpc {

// `manager` outlives the table.
void add_raid_methods(MethodTable& methods, raid::RaidManager& manager);

}  // namespace diskengine::rpc
