// `diskengine volume checklist` and `diskengine rpc`: what a volume's path consists of, and asking for any of it by
// hand.
#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <boost/json.hpp>
#include <memory>
#include <ostream>

#include "client/jsonrpc.h"
#include "control/cli/commands.h"
#include "control/cli/diagnosis.h"
#include "control/cli/exit_code.h"
#include "control/diagnose/checklist.h"
#include "control/diagnose/rpc_command.h"

namespace diskengine::control::cli {
namespace {

namespace json = boost::json;

constexpr int kRpcTimeoutMs = 60'000;

struct ChecklistArguments {
  std::string volume;
  bool print = false;
  std::shared_ptr<AskOptions> ask = std::make_shared<AskOptions>();
};

std::string by_hand(const Check& check) { return rpc_command(check.node, check.method, check.params); }

json::object encode(const Check& check) {
  return {{"layer", check.layer}, {"node", check.node},     {"object", check.object},   {"proves", check.proves},
          {"rpc", check.method},  {"params", check.params}, {"command", by_hand(check)}};
}

json::object encode(const CheckedItem& item) {
  json::object object = encode(*item.check);
  object["verdict"] = name_of(item.finding.verdict);
  object["evidence"] = item.finding.evidence;
  return object;
}

std::vector<Column> list_columns() {
  return {text_column("LAYER", "layer"), text_column("NODE", "node"), text_column("OBJECT", "object"),
          text_column("PROVES", "proves"), text_column("COMMAND", "command")};
}

std::vector<Column> result_columns() {
  return {text_column("VERDICT", "verdict"),
          text_column("LAYER", "layer"),
          text_column("NODE", "node"),
          text_column("OBJECT", "object"),
          text_column("RPC", "rpc"),
          text_column("EVIDENCE", "evidence"),
          text_column("PROVES", "proves", true),
          text_column("COMMAND", "command", true)};
}

std::string summary(const std::vector<CheckedItem>& items) {
  const auto count = [&](Verdict verdict) {
    return std::count_if(items.begin(), items.end(),
                         [&](const CheckedItem& item) { return item.finding.verdict == verdict; });
  };
  return fmt::format("{} checks: {} pass, {} warn, {} fail", items.size(), count(Verdict::pass), count(Verdict::warn),
                     count(Verdict::fail));
}

int checklist(Session& session, const ChecklistArguments& arguments) {
  const Result<json::value> status = session.api.get("/v1/status");
  if (!status) return session.fail(status.error());
  const Result<ExpectedPath> path = expected_path(*status, arguments.volume);
  if (!path) return session.fail(path.error());
  const std::vector<Check> checks = build_checklist(*path);
  json::array rows;
  if (arguments.print) {
    for (const Check& check : checks) rows.push_back(encode(check));
    return session.show(rows, list_columns());
  }
  Result<NodeAccess> access = node_access(session, *status, *arguments.ask);
  if (!access) return session.fail(access.error());
  const std::vector<CheckedItem> items = run_checklist(checks, *access);
  for (const CheckedItem& item : items) rows.push_back(encode(item));
  session.show(rows, result_columns());
  if (session.is_for_people()) {
    session.console.out << "\n" << summary(items) << "\n";
    if (!path->attached)
      session.console.out << fmt::format("volume {} is not attached: there is nothing of it on a compute node\n",
                                         path->volume);
  }
  const bool all_pass = std::all_of(items.begin(), items.end(),
                                    [](const CheckedItem& item) { return item.finding.verdict == Verdict::pass; });
  return all_pass ? kExitOk : kExitFailed;
}

struct RpcArguments {
  std::string method;
  std::string params;
  std::string node;
  std::string socket;
};

Result<std::string> rpc_socket(Session& session, const RpcArguments& arguments) {
  if (!arguments.socket.empty()) return arguments.socket;
  if (arguments.node.empty()) return Error(Errc::invalid_argument, "--node NODE or --data-plane SOCKET is needed");
  TRY_ASSIGN(const json::value nodes, session.api.get("/v1/nodes"));
  for (const json::value& node : nodes.as_array())
    if (cell_text(node, "name") == arguments.node) return cell_text(node, "data_plane");
  return Error(Errc::not_found, fmt::format("there is no node '{}'; see `diskengine node list`", arguments.node));
}

Result<json::value> rpc(Session& session, const RpcArguments& arguments) {
  json::value params;
  if (!arguments.params.empty()) {
    json::error_code error;
    params = json::parse(arguments.params, error);
    if (error || !params.is_object())
      return Error(Errc::invalid_argument,
                   fmt::format("the parameters must be a JSON object, not '{}'", arguments.params));
  }
  TRY_ASSIGN(const std::string socket, rpc_socket(session, arguments));
  client::JsonRpcClient client({.socket_path = socket, .timeout_ms = kRpcTimeoutMs});
  return client.call(arguments.method, params);
}

int run_rpc(Session& session, const RpcArguments& arguments) {
  const Result<json::value> answer = rpc(session, arguments);
  if (!answer) return session.fail(answer.error());
  session.console.out << (session.format == OutputFormat::yaml ? render_yaml(*answer) : render_json(*answer));
  return kExitOk;
}

}  // namespace

void add_volume_checklist(CLI::App& volume, Action* action) {
  const auto arguments = std::make_shared<ChecklistArguments>();
  CLI::App* command = volume.add_subcommand(
      "checklist", "Prove every object of the volume's path by the RPC that shows it; exit code 0 if all pass");
  command->add_option("volume,--volume", arguments->volume, "Name or id of the volume")->required();
  command->add_flag("--print", arguments->print, "Print the list with its commands, and ask nobody");
  add_ask_options(*command, arguments->ask);
  command->callback([=] { *action = [=](Session& session) { return checklist(session, *arguments); }; });
}

void add_rpc_command(CLI::App& root, Action* action) {
  const auto arguments = std::make_shared<RpcArguments>();
  CLI::App* command = root.add_subcommand("rpc", "Call one JSON-RPC method of a data plane; docs/rpc.md lists them");
  command->add_option("method,--method", arguments->method, "The method")->required();
  command->add_option("params,--params", arguments->params, "Its parameters, a JSON object");
  command->add_option("--node", arguments->node, "Node whose data plane is called, on the machine that has its socket");
  command->add_option("--data-plane", arguments->socket, "Or its RPC socket");
  command->callback([=] { *action = [=](Session& session) { return run_rpc(session, *arguments); }; });
}

}  // namespace diskengine::control::cli
