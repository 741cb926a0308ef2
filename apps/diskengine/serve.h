// `diskengine serve`: the API and the loops of the nodes this process serves, until SIGTERM or SIGINT.
#pragma once

#include "control/cli/command_line.h"

namespace diskengine {

// Called on the main thread, before any other thread exists. Returns the exit code.
int serve(const control::cli::ServeOptions& options, control::cli::Console& console);

}  // namespace diskengine
