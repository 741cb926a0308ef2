// The RPC methods of lvol stores and lvols, under SPDK's names: bdev_lvol_*, and diskengine_lvol_* for what SPDK lacks.
// Described in schema/bdev_lvol.json. Main reactor.
#pragma once

#include "block/registry.h"
#include "lvol/manager.h"
#include "rpc/method.h"

namespace diskengine::rpc {

// `devices` and `manager` outlive the table.
void add_lvol_store_methods(MethodTable& methods, DeviceRegistry& devices, lvol::LvolManager& manager);
void add_lvol_methods(MethodTable& methods, DeviceRegistry& devices, lvol::LvolManager& manager);

}  // namespace diskengine::rpc
