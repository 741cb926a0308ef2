// The methods of vhost-user-blk controllers (SPDK: vhost_*, virtio_blk_*).
#pragma once

#include "rpc/method.h"
#include "vhost/manager.h"

namespace diskengine::rpc {

// `vhost` outlives the table.
void add_vhost_methods(MethodTable& methods, vhost::VhostManager& vhost);

}  // namespace diskengine::rpc
