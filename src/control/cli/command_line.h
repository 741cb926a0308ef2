// The `diskengine` command: parses its arguments, runs one subcommand, and returns the exit code. Data goes to `out`,
// progress and errors to `err`. docs/operating.md shows the commands at work.
#pragma once

#include <functional>
#include <iosfwd>
#include <string>

#include "control/cli/serve_options.h"
#include "control/environment.h"

namespace diskengine::control::cli {

struct Console {
  std::ostream& out;
  std::ostream& err;
  Environment& environment;
  std::string version;
};

// Runs `diskengine serve` until it is told to end; returns the exit code. Supplied by main, which wires real things.
using ServeFunction = std::function<int(const ServeOptions&, Console&)>;

int run_command_line(int argc, const char* const* argv, Console& console, const ServeFunction& serve);

}  // namespace diskengine::control::cli
