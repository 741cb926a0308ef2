// `diskengine doctor latency`: finds a volume's latency spikes in what its nodes recorded, and what caused them.
#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <boost/json.hpp>
#include <memory>
#include <ostream>

#include "control/cli/commands.h"
#include "control/cli/diagnosis.h"
#include "control/cli/exit_code.h"
#include "control/cli/latency_view.h"
#include "control/diagnose/fetch_history.h"
#include "control/diagnose/latency_doctor.h"
#include "control/sizes.h"

namespace diskengine::control::cli {
namespace {

namespace json = boost::json;

constexpr int64_t kSinceMinMs = 60'000;
constexpr int64_t kSinceMaxMs = 7 * 24 * 3'600'000LL;

struct LatencyArguments {
  std::string volume;
  std::string since = "1h";
  std::shared_ptr<AskOptions> ask = std::make_shared<AskOptions>();
};

Result<LatencyHistory> look_back(Session& session, const LatencyArguments& arguments) {
  TRY_ASSIGN(const int64_t since_ms, parse_duration_ms(arguments.since));
  if (since_ms < kSinceMinMs || since_ms > kSinceMaxMs)
    return Error(Errc::invalid_argument, fmt::format("--since must be 1m to 168h, not {}", arguments.since));
  TRY_ASSIGN(const json::value status, session.api.get("/v1/status"));
  TRY_ASSIGN(const ExpectedPath path, expected_path(status, arguments.volume));
  if (!path.attached)
    return Error(Errc::not_found,
                 fmt::format("volume {} is not attached: there is no path to look back on", path.volume));
  TRY_ASSIGN(NodeAccess access, node_access(session, status, *arguments.ask));
  return fetch_history(path, access, session.console.environment, since_ms);
}

int doctor_latency(Session& session, const LatencyArguments& arguments) {
  const Result<LatencyHistory> history = look_back(session, arguments);
  if (!history) return session.fail(history.error());
  const LatencyFinding finding = find_latency_causes(*history);
  if (!session.is_for_people()) {
    session.show(encode(*history, finding), {});
  } else {
    session.console.out << finding.headline << "\n\n"
                        << draw_timeline(*history, finding) << "\n"
                        << tell(*history, finding);
  }
  return finding.spikes.empty() ? kExitOk : kExitFailed;
}

}  // namespace

void add_doctor_commands(CLI::App& root, Action* action) {
  CLI::App* doctor = root.add_subcommand("doctor", "Look back on what was recorded, and say what was wrong");
  doctor->require_subcommand(1);
  const auto arguments = std::make_shared<LatencyArguments>();
  CLI::App* command = doctor->add_subcommand(
      "latency", "Find a volume's latency spikes, their layer and their cause; exit code 1 if there were spikes");
  command->add_option("volume,--volume", arguments->volume, "Name or id of the volume")->required();
  command->add_option("--since", arguments->since, "How far to look back: 10m, 1h, 168h")->capture_default_str();
  add_ask_options(*command, arguments->ask);
  command->callback([=] { *action = [=](Session& session) { return doctor_latency(session, *arguments); }; });
}

}  // namespace diskengine::control::cli
