// The nvmf_* methods: the NVMe-oF target in SPDK's words. Main reactor.
#pragma once

#include "nvmf/target.h"
#include "rpc/method.h"

namespace diskengine::rpc {

// The target outlives the table.
void add_nvmf_methods(MethodTable& methods, nvmf::Target& target);

}  // namespace diskengine::rpc
