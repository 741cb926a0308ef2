// `diskengine volume diagnose`: looks at a volume's path on all machines it can ask, and says what is wrong with it.
#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <boost/json.hpp>
#include <memory>
#include <ostream>

#include "control/cli/commands.h"
#include "control/cli/diagnosis.h"
#include "control/cli/exit_code.h"
#include "control/diagnose/diagnose.h"
#include "control/diagnose/observe_path.h"
#include "control/sizes.h"

namespace diskengine::control::cli {
namespace {

namespace json = boost::json;

struct DiagnoseArguments {
  std::string volume;
  std::string window = "1s";
  std::shared_ptr<AskOptions> ask = std::make_shared<AskOptions>();
};

constexpr int64_t kWindowMinMs = 100;
constexpr int64_t kWindowMaxMs = 60'000;

Result<int64_t> window_ms(const DiagnoseArguments& arguments) {
  TRY_ASSIGN(const int64_t ms, parse_duration_ms(arguments.window));
  if (ms < kWindowMinMs || ms > kWindowMaxMs)
    return Error(Errc::invalid_argument, fmt::format("--window must be 100ms to 60s, not {}", arguments.window));
  return ms;
}

// The control plane itself is the first suspect: without it nothing is known of the graph.
Diagnosis without_control_plane(const Error& error) {
  Diagnosis diagnosis;
  diagnosis.headline = "The control plane does not answer, so it is not known what the graph should be.";
  diagnosis.causes.push_back(
      {.layer = "control-plane",
       .code = error.code() == Errc::unreachable || error.code() == Errc::timed_out ? "api-down" : "api-error",
       .node = {},
       .object = "diskengine serve",
       .certainty = Certainty::certain,
       .impact = Impact::none,
       .summary = "the control plane's API does not answer; volumes that are attached go on serving meanwhile",
       .evidence = {error.message()},
       .next = "start `diskengine serve --role api`, or look after its database; then ask again"});
  return diagnosis;
}

void show_for_people(Session& session, const Diagnosis& diagnosis) {
  std::ostream& out = session.console.out;
  out << diagnosis.headline << "\n";
  if (!diagnosis.layers.empty()) {
    const json::value layers = encode(diagnosis).at("layers");
    out << "\n"
        << render_table(layers,
                        {text_column("LAYER", "layer"), text_column("NODE", "node"), text_column("STATE", "state"),
                         text_column("WHAT", "text")},
                        session.format == OutputFormat::wide);
  }
  if (diagnosis.causes.empty()) {
    out << "\nNo cause of trouble was found.\n";
    return;
  }
  out << "\nCauses, the one to act on first:\n";
  int number = 0;
  for (const Cause& cause : diagnosis.causes) {
    out << fmt::format("\n{}. {} ({}, {}{}{})\n", ++number, cause.summary, name_of(cause.certainty), cause.layer,
                       cause.node.empty() ? "" : " on ", cause.node);
    for (const std::string& evidence : cause.evidence) out << "   seen: " << evidence << "\n";
    if (!cause.next.empty()) out << "   next: " << cause.next << "\n";
  }
}

// What is only possible is no reason to wake anybody: it is shown, and the exit code is that of a sound volume.
int verdict_of(const Diagnosis& diagnosis) {
  const bool is_amiss = std::any_of(diagnosis.causes.begin(), diagnosis.causes.end(),
                                    [](const Cause& cause) { return cause.certainty != Certainty::possible; });
  return is_amiss ? kExitFailed : kExitOk;
}

int show(Session& session, const Diagnosis& diagnosis) {
  if (session.is_for_people())
    show_for_people(session, diagnosis);
  else
    session.show(encode(diagnosis), {});
  return verdict_of(diagnosis);
}

int diagnose_volume(Session& session, const DiagnoseArguments& arguments) {
  const Result<int64_t> window = window_ms(arguments);
  if (!window) return session.fail(window.error());
  const Result<json::value> status = session.api.get("/v1/status");
  if (!status) {
    show(session, without_control_plane(status.error()));
    return exit_code_of(status.error().code());
  }
  const Result<ExpectedPath> path = expected_path(*status, arguments.volume);
  if (!path) return session.fail(path.error());
  Result<NodeAccess> access = node_access(session, *status, *arguments.ask);
  if (!access) return session.fail(access.error());
  return show(session, diagnose(observe_path(*path, *access, session.console.environment, *window)));
}

}  // namespace

void add_volume_diagnose(CLI::App& volume, Action* action) {
  const auto arguments = std::make_shared<DiagnoseArguments>();
  CLI::App* command = volume.add_subcommand(
      "diagnose",
      "Say what is wrong with a volume, layer by layer, with evidence; exit code 1 if a cause is certain or likely");
  command->add_option("volume,--volume", arguments->volume, "Name or id of the volume")->required();
  command->add_option("--window", arguments->window, "Time between the two looks at the counters")
      ->capture_default_str();
  add_ask_options(*command, arguments->ask);
  command->callback([=] { *action = [=](Session& session) { return diagnose_volume(session, *arguments); }; });
}

}  // namespace diskengine::control::cli
