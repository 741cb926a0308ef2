// `diskengine volume resume`: lets a volume go on whose mirror stopped because every replica may have lost what it had not
// flushed. What that may cost is said first, and nothing is done without --yes.
#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <boost/json.hpp>
#include <memory>
#include <ostream>

#include "control/cli/commands.h"
#include "control/cli/diagnosis.h"
#include "control/cli/exit_code.h"

namespace diskengine::control::cli {
namespace {

namespace json = boost::json;

struct ResumeArguments {
  std::string volume;
  bool yes = false;
  bool dry_run = false;
  std::shared_ptr<AskOptions> ask = std::make_shared<AskOptions>();
};

// Where the volume's mirror is, and how it is there.
struct Stopped {
  std::string volume;
  std::string node;
  std::string raid;
  std::string reason;
  std::string loss;  // what may be missing, for people
};

// "3.0 MiB, where writes were under way" by the mirror's log, if it has one.
std::string extent_of(const json::object& mirror, const json::value& volume) {
  const json::object* log = mirror.contains("dirty_log") ? mirror.at("dirty_log").if_object() : nullptr;
  const json::value* block_size = volume.as_object().if_contains("block_size");
  if (log == nullptr || block_size == nullptr || !log->contains("marked") || !log->contains("region_blocks"))
    return "anywhere in it";
  const double bytes = log->at("marked").to_number<double>() * log->at("region_blocks").to_number<double>() *
                       block_size->to_number<double>();
  return fmt::format("in at most {:.1f} MiB of it ({} regions that had writes not yet flushed everywhere)",
                     bytes / (1024 * 1024), log->at("marked").to_number<int64_t>());
}

Result<Stopped> find_stopped(const json::value& volume, NodeAccess& nodes) {
  const json::value& attachment = volume.at("attachment");
  Stopped found{.volume = cell_text(volume, "name"), .node = {}, .raid = {}, .reason = {}, .loss = {}};
  const auto nothing = [&](const std::string& why) {
    return Error(Errc::conflict, fmt::format("volume {} is not stopped: {}; there is nothing to resume", found.volume, why));
  };
  if (!attachment.is_object()) return nothing("it is not attached");
  found.node = cell_text(attachment, "node");
  found.raid = cell_text(attachment, "raid");
  TRY_ASSIGN(const json::value mirrors, nodes.ask(found.node, "bdev_raid_get_bdevs", {{"category", "all"}}));
  if (!mirrors.is_array()) return Error(Errc::protocol, "bdev_raid_get_bdevs answered something else than a list");
  for (const json::value& mirror : mirrors.as_array()) {
    if (!mirror.is_object() || cell_text(mirror, "name") != found.raid) continue;
    if (cell_text(mirror, "stopped") != "true") return nothing("its mirror is " + cell_text(mirror, "state"));
    found.reason = cell_text(mirror, "reason");
    found.loss = fmt::format(
        "what the guest wrote last and had not flushed may be missing or older than what it has read, {}; all else is "
        "as it was",
        extent_of(mirror.as_object(), volume));
    return found;
  }
  return nothing(fmt::format("its mirror {} is not on {}", found.raid, found.node));
}

int volume_resume(Session& session, const ResumeArguments& arguments) {
  const Result<json::value> volume = session.api.get("/v1/volumes/" + path_segment(arguments.volume));
  if (!volume) return session.fail(volume.error());
  const Result<json::value> status = session.api.get("/v1/status");
  if (!status) return session.fail(status.error());
  Result<NodeAccess> nodes = node_access(session, *status, *arguments.ask);
  if (!nodes) return session.fail(nodes.error());
  const Result<Stopped> stopped = find_stopped(*volume, *nodes);
  if (!stopped) return session.fail(stopped.error());
  const std::string step = fmt::format("volume {} goes on with what its replicas hold: {}", stopped->volume, stopped->loss);
  if (arguments.dry_run) return session.show_dry_run({{"dry_run", true}, {"would", {step}}});
  if (!arguments.yes)
    return session.fail(Error(
        Errc::conflict,
        fmt::format("{}. If {} resumes, {}. If that is worse than going back to a backup, shut the guest down first; "
                    "otherwise say --yes",
                    stopped->reason, stopped->volume, stopped->loss)));
  const Result<json::value> done = nodes->ask(stopped->node, "diskengine_raid_resume", {{"name", stopped->raid}});
  if (!done) return session.fail(done.error());
  if (!session.is_for_people()) return session.show({{"volume", stopped->volume}, {"resumed", true}, {"loss", stopped->loss}}, {});
  session.console.out << step << "\n";
  return kExitOk;
}

}  // namespace

void add_volume_resume(CLI::App& volume, Action* action) {
  const auto arguments = std::make_shared<ResumeArguments>();
  CLI::App* command = volume.add_subcommand(
      "resume", "Let a stopped volume go on though all its replicas may have lost unflushed writes; says what that loses");
  command->add_option("name,--name", arguments->volume, "Name or id of the volume")->required();
  command->add_flag("--yes", arguments->yes, "What may be missing is accepted");
  add_ask_options(*command, arguments->ask);
  add_dry_run(*command, &arguments->dry_run);
  command->callback([=] { *action = [=](Session& session) { return volume_resume(session, *arguments); }; });
}

}  // namespace diskengine::control::cli
