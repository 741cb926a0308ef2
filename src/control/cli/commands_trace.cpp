// `diskengine volume trace`: one I/O of a volume's guest, layer by layer over both machines.
#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <boost/json.hpp>
#include <memory>
#include <ostream>

#include "client/jsonrpc.h"
#include "control/cli/commands.h"
#include "control/cli/exit_code.h"
#include "control/cli/trace_view.h"
#include "control/sizes.h"

namespace diskengine::control::cli {
namespace {

namespace json = boost::json;

constexpr int64_t kPollMs = 50;
constexpr int kCallLimitMs = 5000;

struct TraceArguments {
  std::string volume;
  std::string op = "write";
  std::string wait = "5s";
  bool slow = false;
  bool no_probe = false;
  bool otlp = false;
};

// The RPC socket of a node's data plane, by its name.
Result<std::string> socket_of(Session& session, const std::string& node) {
  TRY_ASSIGN(const json::value nodes, session.api.get("/v1/nodes"));
  for (const json::value& one : nodes.as_array())
    if (cell_text(one, "name") == node) return cell_text(one, "data_plane");
  return Error(Errc::not_found, fmt::format("there is no node {}", node));
}

Result<json::array> ask(client::JsonRpcClient& rpc, const char* method, const json::object& params) {
  TRY_ASSIGN(json::value answer, rpc.call(method, params));
  if (!answer.is_array()) return Error(Errc::protocol, fmt::format("{} answered something else than a list", method));
  return std::move(answer.as_array());
}

// The newest I/O that ended after `start_ms`, or the slowest that is kept.
Result<json::object> find_trace(Session& session, client::JsonRpcClient& rpc, const TraceArguments& arguments,
                                const std::string& raid, int64_t wait_ms) {
  Environment& environment = session.console.environment;
  if (arguments.slow) {
    TRY_ASSIGN(const json::array kept, ask(rpc, "diskengine_trace_get_slow", {{"name", raid}, {"limit", 128}}));
    if (kept.empty())
      return Error(Errc::not_found,
                   fmt::format("no slow I/O of volume {} has been seen: none took some times as long as "
                               "nearly all others",
                               arguments.volume));
    const auto us = [](const json::value& one) { return one.at("total_us").to_number<double>(); };
    return std::max_element(kept.begin(), kept.end(), [&](const auto& a, const auto& b) { return us(a) < us(b); })
        ->as_object();
  }
  const int64_t start_ms = environment.monotonic_ms();
  bool told = false;
  for (;;) {
    TRY_ASSIGN(const json::array recent,
               ask(rpc, "diskengine_trace_get_recent", {{"name", raid}, {"op", arguments.op}, {"limit", 1}}));
    const int64_t waited_ms = environment.monotonic_ms() - start_ms;
    if (!recent.empty() && recent.front().at("age_us").to_number<double>() < static_cast<double>(waited_ms) * 1000)
      return recent.front().as_object();
    if (waited_ms >= wait_ms)
      return Error(
          Errc::timed_out,
          fmt::format("the guest of volume {} did no {} within {}: have it do one (in the guest: dd if=/dev/zero "
                      "of=FILE bs=4k count=1 oflag=direct), or wait longer with --wait",
                      arguments.volume, arguments.op, arguments.wait));
    if (!std::exchange(told, true)) session.progress(fmt::format("waiting for the guest's next {}", arguments.op));
    environment.pause_ms(kPollMs);
  }
}

// What the target of one leg says about the same command; fills in leg.no_target if it says nothing.
void join_target(Session& session, const json::value& volume, const std::string& host_nqn, TracedLeg& leg) {
  const std::string base_bdev(leg.visit.at("name").as_string());
  for (const json::value& replica : volume.at("replicas").as_array()) {
    if (cell_text(replica, "base_bdev") != base_bdev) continue;
    leg.node = cell_text(replica, "node");
    if (!leg.visit.contains("queue_id")) {
      leg.no_target = "the command was never sent: its connection was down";
      return;
    }
    const Result<std::string> socket = socket_of(session, leg.node);
    if (!socket) {
      leg.no_target = socket.error().message();
      return;
    }
    client::JsonRpcClient rpc({.socket_path = *socket, .timeout_ms = kCallLimitMs});
    const Result<json::array> candidates = ask(rpc, "diskengine_trace_get_recent",
                                               {{"name", cell_text(replica, "lvol")},
                                                {"host_nqn", host_nqn},
                                                {"queue_id", leg.visit.at("queue_id")},
                                                {"command_id", leg.visit.at("command_id")}});
    if (!candidates) {
      leg.no_target = candidates.error().code() == Errc::not_supported ? "its data plane does not trace"
                                                                       : candidates.error().message();
      return;
    }
    const json::object* same = same_command(leg.visit, *candidates);
    if (same != nullptr)
      leg.target = *same;
    else
      leg.no_target = "its target did not trace this command (under much load only a sample is)";
    return;
  }
  leg.no_target = "no replica of the volume has this base bdev";
}

// The guest's next I/O, or if it does none a read of our own.
Result<void> fill_in_trace(Session& session, client::JsonRpcClient& rpc, const TraceArguments& arguments,
                           const std::string& raid, int64_t wait_ms, JoinedTrace* joined) {
  Result<json::object> found = find_trace(session, rpc, arguments, raid, wait_ms);
  if (!found && found.error().code() == Errc::timed_out && !arguments.no_probe) {
    session.progress("the guest does nothing: reading one block instead");
    Result<json::value> probed = rpc.call("diskengine_trace_probe", json::object{{"name", raid}});
    if (probed && probed->is_object()) {
      joined->trace = std::move(probed->as_object());
      joined->probe = true;
      return {};
    }
    // A data plane that cannot do that, or is busy: what was asked for has not come.
    if (!probed && probed.error().code() == Errc::io_error) return probed.error();
  }
  if (!found) return found.error();
  joined->trace = std::move(*found);
  return {};
}

Result<JoinedTrace> trace(Session& session, const TraceArguments& arguments, int64_t wait_ms) {
  TRY_ASSIGN(const json::value volume, session.api.get("/v1/volumes/" + path_segment(arguments.volume)));
  const json::value& attachment = volume.at("attachment");
  if (!attachment.is_object())
    return Error(Errc::not_found, fmt::format("volume {} is not attached: 'diskengine attachment create {}' does that",
                                              arguments.volume, arguments.volume));
  JoinedTrace joined;
  joined.volume = cell_text(volume, "name");
  joined.node = cell_text(attachment, "node");
  TRY_ASSIGN(const std::string socket, socket_of(session, joined.node));
  client::JsonRpcClient rpc({.socket_path = socket, .timeout_ms = kCallLimitMs});
  TRY(fill_in_trace(session, rpc, arguments, cell_text(attachment, "raid"), wait_ms, &joined));
  joined.legs = legs_of(joined.trace);
  for (TracedLeg& leg : joined.legs) join_target(session, volume, cell_text(attachment, "host_nqn"), leg);
  return joined;
}

int volume_trace(Session& session, const TraceArguments& arguments) {
  const Result<int64_t> wait_ms = parse_duration_ms(arguments.wait);
  if (!wait_ms) return session.fail(wait_ms.error());
  const Result<JoinedTrace> joined = trace(session, arguments, *wait_ms);
  if (!joined) return session.fail(joined.error());
  if (arguments.otlp) {
    const int64_t now_ns = session.console.environment.unix_ms() * 1'000'000;
    session.console.out << json::serialize(to_otlp(*joined, now_ns)) << "\n";
    return kExitOk;
  }
  if (!session.is_for_people()) return session.show(to_json(*joined), {});
  session.console.out << draw(*joined);
  return kExitOk;
}

}  // namespace

void add_trace_command(CLI::App& volume, Action* action) {
  const auto arguments = std::make_shared<TraceArguments>();
  CLI::App* command = volume.add_subcommand(
      "trace", "Draw the way of the guest's next write over both machines, with the time in each layer");
  command->add_option("name,--name", arguments->volume, "Name or id of the volume")->required();
  command->add_option("--op", arguments->op, "Which kind of I/O")
      ->check(CLI::IsMember({"write", "read", "flush", "unmap", "write_zeroes"}))
      ->capture_default_str();
  command->add_option("--wait", arguments->wait, "How long to wait for one: 30s, 5m")->capture_default_str();
  command->add_flag("--no-probe", arguments->no_probe, "Do not read a block where the guest does nothing");
  command->add_flag("--slow", arguments->slow, "Instead, the slowest I/O that was kept");
  command->add_flag("--otlp", arguments->otlp, "Print OpenTelemetry spans (OTLP JSON)");
  command->callback([=] { *action = [=](Session& session) { return volume_trace(session, *arguments); }; });
}

}  // namespace diskengine::control::cli
