// The start-up configuration file: {"subsystems":[{"subsystem":...,"config":[{"method":...,"params":{...}}, ...]}]}, as
// save_config writes it. Its calls run through the same table of methods as those of the socket.
#pragma once

#include <string>

#include "rpc/dispatcher.h"
#include "runtime/task.h"

namespace diskengine::app {

// Runs the calls that belong to the start-up phase, ends that phase, then runs the others. Main reactor. The first call
// that fails is an error unless `ignore_errors`.
Task<Result<void>> apply_startup_config(rpc::Dispatcher& dispatcher, std::string path, bool ignore_errors);

}  // namespace diskengine::app
