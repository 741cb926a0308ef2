// What every subcommand works with: the console, the API, the chosen output format, and waiting with progress.
#pragma once

#include <boost/json/fwd.hpp>
#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "base/result.h"
#include "control/cli/api_client.h"
#include "control/cli/command_line.h"
#include "control/cli/output.h"

namespace diskengine::control::cli {

struct Session {
  Console& console;
  ApiClient api;
  OutputFormat format;

  bool is_for_people() const { return format == OutputFormat::table || format == OutputFormat::wide; }
  // Rows as a table, or the value as it is for programs. Returns kExitOk.
  int show(const boost::json::value& value, const std::vector<Column>& columns);
  // The answer to a dry run: one "would ..." line per step.
  int show_dry_run(const boost::json::value& answer);
  // Prints the error; returns its exit code.
  int fail(const Error& error);
  void progress(const std::string& line);
};

struct Wait {
  std::string path;  // polled with GET
  std::string what;  // "volume data", for the messages
  int64_t timeout_ms = 60'000;
  bool until_gone = false;  // done when the API says not_found
  std::function<bool(const boost::json::value&)> is_done;
};

// Polls until done and returns the object's last form (null when gone). Each new state or reason is a line of progress,
// with the expected time left while a rebuild runs. A "failed" state ends it, `timed_out` says what it was waiting for.
Result<boost::json::value> wait_for(Session& session, const Wait& wait);

}  // namespace diskengine::control::cli
