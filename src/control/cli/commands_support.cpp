// `diskengine support dump`: one archive for whoever helps from afar.
#include <fcntl.h>
#include <fmt/chrono.h>
#include <fmt/format.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <boost/json.hpp>
#include <cerrno>
#include <memory>
#include <ostream>

#include "base/unique_fd.h"
#include "control/cli/commands.h"
#include "control/cli/diagnosis.h"
#include "control/cli/exit_code.h"
#include "control/diagnose/checklist.h"
#include "control/diagnose/diagnose.h"
#include "control/diagnose/observe_path.h"
#include "control/diagnose/support_dump.h"

namespace diskengine::control::cli {
namespace {

namespace json = boost::json;

constexpr int64_t kEvents = 10'000;
constexpr int64_t kWindowMs = 1'000;

struct DumpArguments {
  std::string file;
  std::vector<std::string> volumes;
  std::shared_ptr<AskOptions> ask = std::make_shared<AskOptions>();
};

json::value or_error(const Result<json::value>& answer) {
  return answer ? *answer : json::value(json::object{{"error", answer.error().message()}});
}

// A file that is there already is not written over.
Result<void> write_file(const std::string& path, const std::string& bytes) {
  const UniqueFd file(open(path.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600));
  if (!file) return Error::from_errno(errno, "creating " + path);
  for (size_t done = 0; done < bytes.size();) {
    const ssize_t written = write(file.get(), bytes.data() + done, bytes.size() - done);
    if (written < 0 && errno == EINTR) continue;
    if (written < 0) return Error::from_errno(errno, "writing " + path);
    done += static_cast<size_t>(written);
  }
  return {};
}

void add_volume(Session& session, const json::value& status, const std::string& name, Asker& asker,
                std::vector<DumpFile>* files) {
  const std::string directory = "volumes/" + path_segment(name);
  const Result<ExpectedPath> path = expected_path(status, name);
  if (!path) {
    files->push_back({directory + "/error.json", {{"error", path.error().message()}}});
    return;
  }
  const std::vector<Check> checks = build_checklist(*path);
  json::array rows;
  for (const CheckedItem& item : run_checklist(checks, asker))
    rows.push_back({{"node", item.check->node},
                    {"object", item.check->object},
                    {"rpc", item.check->method},
                    {"verdict", name_of(item.finding.verdict)},
                    {"evidence", item.finding.evidence}});
  files->push_back({directory + "/checklist.json", std::move(rows)});
  files->push_back({directory + "/diagnosis.json",
                    encode(diagnose(observe_path(*path, asker, session.console.environment, kWindowMs)))});
}

// Nodes that only --data-plane names are asked too: the control plane may be what is broken.
std::vector<ExpectedNode> nodes_to_ask(const json::value& status, const std::map<std::string, std::string>& overrides) {
  std::vector<ExpectedNode> nodes = expected_nodes(status);
  for (const auto& chosen : overrides) {
    const bool is_known =
        std::any_of(nodes.begin(), nodes.end(), [&](const ExpectedNode& node) { return node.name == chosen.first; });
    if (is_known) continue;
    nodes.emplace_back();
    nodes.back().name = chosen.first;
    nodes.back().rpc_socket = chosen.second;
  }
  return nodes;
}

Result<std::vector<DumpFile>> collect(Session& session, const DumpArguments& arguments) {
  const json::value status = or_error(session.api.get("/v1/status"));
  NodeAccess::Options options;
  TRY_ASSIGN(options.overrides, parse_overrides(arguments.ask->data_planes));
  options.nodes = nodes_to_ask(status, options.overrides);
  options.now_ms = session.console.environment.unix_ms();
  const std::vector<ExpectedNode> nodes = options.nodes;
  NodeAccess access(std::move(options));

  std::vector<DumpFile> files;
  files.push_back({"control/status.json", status});
  files.push_back({"control/health.json", or_error(session.api.get("/v1/health"))});
  files.push_back({"control/events.json", or_error(session.api.get(fmt::format("/v1/events?limit={}", kEvents)))});
  files.push_back(
      {"control/operations.json", or_error(session.api.get(fmt::format("/v1/operations?limit={}", kEvents)))});
  json::array reaches;
  for (const ExpectedNode& node : nodes) {
    session.progress("asking " + node.name);
    for (DumpFile& file : dump_node(node.name, access)) files.push_back(std::move(file));
    const NodeReach reach = access.reach(node.name);
    reaches.push_back({{"node", node.name},
                       {"socket", access.socket_of(node.name)},
                       {"reach", name_of(reach.reach)},
                       {"detail", reach.detail},
                       {"version", reach.version}});
  }
  for (const std::string& volume : arguments.volumes) {
    session.progress("looking at volume " + volume);
    add_volume(session, status, volume, access, &files);
  }
  files.insert(files.begin(), {"manifest.json",
                               {{"version", session.console.version},
                                {"time_ms", session.console.environment.unix_ms()},
                                {"nodes", std::move(reaches)}}});
  return files;
}

int dump(Session& session, DumpArguments arguments) {
  const int64_t now_s = session.console.environment.unix_ms() / 1000;
  if (arguments.file.empty())
    arguments.file =
        fmt::format("diskengine-support-{:%Y%m%dT%H%M%SZ}.tar", fmt::gmtime(static_cast<std::time_t>(now_s)));
  const Result<std::vector<DumpFile>> files = collect(session, arguments);
  if (!files) return session.fail(files.error());
  const Result<std::string> archive = pack(*files, now_s, render_json);
  if (!archive) return session.fail(archive.error());
  if (const Result<void> written = write_file(arguments.file, *archive); !written) return session.fail(written.error());
  return session.show(json::object{{"file", arguments.file}, {"members", files->size()}, {"bytes", archive->size()}},
                      {text_column("FILE", "file"), text_column("MEMBERS", "members"), text_column("BYTES", "bytes")});
}

}  // namespace

void add_support_commands(CLI::App& root, Action* action) {
  CLI::App* support = root.add_subcommand("support", "Help for those who help");
  support->require_subcommand(1);
  const auto arguments = std::make_shared<DumpArguments>();
  CLI::App* command = support->add_subcommand(
      "dump",
      "Write one archive with the state of the control plane and of every data plane that can be asked; no secrets");
  command->add_option("--file", arguments->file, "Name of the archive; diskengine-support-TIME.tar if left out");
  command->add_option("--volume", arguments->volumes,
                      "Also the checklist and diagnosis of this volume; may be repeated");
  add_ask_options(*command, arguments->ask);
  command->callback([=] { *action = [=](Session& session) { return dump(session, *arguments); }; });
}

}  // namespace diskengine::control::cli
