// What this process can say of the machine that it runs on. Any thread.
#pragma once

#include "base/uuid.h"

namespace diskengine {

// New with every start of the machine's kernel (/proc/sys/kernel/random/boot_id); nil if it cannot be read.
Uuid machine_boot();

}  // namespace diskengine
