// diskengine-io: the data plane process. Everything is wired in App; this only reads the command line.
#include <utility>

#include "app.h"
#include "options.h"

int main(int argc, char** argv) {
  using namespace diskengine::app;
  Parsed parsed = parse_command_line(argc, argv);
  if (!parsed.run) return parsed.exit_code;
  App app(std::move(parsed.options));
  return app.run();
}
