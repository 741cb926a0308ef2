// diskengine: the control plane. `diskengine serve` runs it, every other subcommand talks to one that runs.
#include <signal.h>

#include <iostream>

#include "control/cli/command_line.h"
#include "serve.h"
#include "system_environment.h"

int main(int argc, char** argv) {
  signal(SIGPIPE, SIG_IGN);
  diskengine::SystemEnvironment environment;
  diskengine::control::cli::Console console{
      .out = std::cout, .err = std::cerr, .environment = environment, .version = DISKENGINE_VERSION};
  return diskengine::control::cli::run_command_line(argc, argv, console, diskengine::serve);
}
