// `diskengine volume ...`.
#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <boost/json.hpp>
#include <memory>
#include <ostream>

#include "control/cli/commands.h"
#include "control/cli/exit_code.h"
#include "control/sizes.h"

namespace diskengine::control::cli {
namespace {

namespace json = boost::json;

struct VolumeArguments {
  std::string name;
  std::string size;
  int64_t replicas = 2;
  int64_t block_size = 512;
  bool no_superblock = false;
  int64_t replica = 0;
  bool accept_data_loss = false;
  bool dry_run = false;
  std::shared_ptr<WaitOptions> wait = std::make_shared<WaitOptions>();
};

std::string volume_path(const std::string& name) { return "/v1/volumes/" + path_segment(name); }

int show_volume(Session& session, const json::value& volume) {
  session.show(volume, volume_columns());
  if (session.is_for_people()) {
    session.console.out << "\n";
    session.show(volume.at("replicas"), replica_columns(false));
    if (volume.at("attachment").is_object()) {
      session.console.out << "\n";
      session.show(volume.at("attachment"), attachment_columns());
    }
  }
  return kExitOk;
}

int volume_create(Session& session, const VolumeArguments& arguments) {
  const Result<int64_t> size_bytes = parse_size(arguments.size);
  if (!size_bytes) return session.fail(size_bytes.error());
  const Result<int64_t> timeout_ms = parse_duration_ms(arguments.wait->timeout);
  if (!timeout_ms) return session.fail(timeout_ms.error());
  json::object body{{"name", arguments.name},
                    {"size_bytes", *size_bytes},
                    {"block_size", arguments.block_size},
                    {"replicas", arguments.replicas}};
  if (arguments.no_superblock) body["superblock"] = false;
  Result<json::value> volume = session.api.post("/v1/volumes", body, arguments.dry_run);
  if (!volume) return session.fail(volume.error());
  if (arguments.dry_run) return session.show_dry_run(*volume);
  if (!arguments.wait->no_wait)
    volume = wait_for(session, {.path = volume_path(arguments.name),
                                .what = "volume " + arguments.name,
                                .timeout_ms = *timeout_ms,
                                .is_done = [](const json::value& now) { return cell_text(now, "state") == "ready"; }});
  if (!volume) return session.fail(volume.error());
  return session.show(*volume, volume_columns());
}

int volume_show(Session& session, const VolumeArguments& arguments) {
  const Result<json::value> volume = session.api.get(volume_path(arguments.name));
  return volume ? show_volume(session, *volume) : session.fail(volume.error());
}

int volume_list(Session& session) {
  const Result<json::value> volumes = session.api.get("/v1/volumes");
  return volumes ? session.show(*volumes, volume_columns()) : session.fail(volumes.error());
}

int volume_delete(Session& session, const VolumeArguments& arguments) {
  const Result<int64_t> timeout_ms = parse_duration_ms(arguments.wait->timeout);
  if (!timeout_ms) return session.fail(timeout_ms.error());
  const Result<json::value> answer = session.api.remove(volume_path(arguments.name), arguments.dry_run);
  if (!answer) return session.fail(answer.error());
  if (arguments.dry_run) return session.show_dry_run(*answer);
  if (arguments.wait->no_wait) return kExitOk;
  const Result<json::value> gone = wait_for(session, {.path = volume_path(arguments.name),
                                                      .what = "volume " + arguments.name,
                                                      .timeout_ms = *timeout_ms,
                                                      .until_gone = true,
                                                      .is_done = {}});
  if (!gone) return session.fail(gone.error());
  session.progress(fmt::format("volume {} is deleted", arguments.name));
  return kExitOk;
}

int volume_recover(Session& session, const VolumeArguments& arguments) {
  const json::object body{{"replica", arguments.replica}, {"accept_data_loss", arguments.accept_data_loss}};
  const Result<json::value> answer =
      session.api.post(volume_path(arguments.name) + "/recover", body, arguments.dry_run);
  if (!answer) return session.fail(answer.error());
  if (arguments.dry_run) return session.show_dry_run(*answer);
  if (session.is_for_people())
    for (const json::value& step : answer->at("recovery").as_array())
      session.console.out << std::string_view(step.as_string()) << "\n";
  return session.show(*answer, volume_columns());
}

}  // namespace

void add_volume_commands(CLI::App& root, Action* action) {
  CLI::App* volume = root.add_subcommand("volume", "Replicated volumes");
  volume->require_subcommand(1);

  const auto created = std::make_shared<VolumeArguments>();
  CLI::App* create = volume->add_subcommand("create", "Make a volume with its replicas on different storage nodes");
  create->add_option("name,--name", created->name, "Name of the volume")->required();
  create->add_option("--size", created->size, "Size: 1GiB, 512MiB, 4096")->required();
  create->add_option("--replicas", created->replicas, "Number of replicas")->capture_default_str();
  create->add_option("--block-size", created->block_size, "Logical block size: 512 or 4096")->capture_default_str();
  create->add_flag("--no-superblock", created->no_superblock,
                   "Without superblocks on the replicas, for compute nodes with a plain spdk_tgt");
  add_wait_options(*create, created->wait);
  add_dry_run(*create, &created->dry_run);
  create->callback([=] { *action = [=](Session& session) { return volume_create(session, *created); }; });

  CLI::App* list = volume->add_subcommand("list", "List the volumes");
  list->callback([=] { *action = volume_list; });

  const auto shown = std::make_shared<VolumeArguments>();
  CLI::App* show = volume->add_subcommand("show", "Show a volume, its replicas and its attachment");
  show->add_option("name,--name", shown->name, "Name or id of the volume")->required();
  show->callback([=] { *action = [=](Session& session) { return volume_show(session, *shown); }; });

  add_trace_command(*volume, action);

  const auto recovered = std::make_shared<VolumeArguments>();
  CLI::App* recover = volume->add_subcommand(
      "recover", "Go on with an old replica when all with current data are lost; says what that loses");
  recover->add_option("name,--name", recovered->name, "Name or id of the volume")->required();
  recover->add_option("--replica", recovered->replica, "Which replica, if several can be chosen")
      ->check(CLI::PositiveNumber);
  recover->add_flag("--accept-data-loss", recovered->accept_data_loss, "Newer writes are lost for good");
  add_dry_run(*recover, &recovered->dry_run);
  recover->callback([=] { *action = [=](Session& session) { return volume_recover(session, *recovered); }; });

  const auto removed = std::make_shared<VolumeArguments>();
  CLI::App* remove = volume->add_subcommand("delete", "Delete a volume and its data");
  remove->add_option("name,--name", removed->name, "Name or id of the volume")->required();
  add_wait_options(*remove, removed->wait);
  add_dry_run(*remove, &removed->dry_run);
  remove->callback([=] { *action = [=](Session& session) { return volume_delete(session, *removed); }; });

  add_volume_resume(*volume, action);
  add_volume_checklist(*volume, action);
  add_volume_diagnose(*volume, action);
}

}  // namespace diskengine::control::cli
