// `diskengine store ...`: lvol stores, online through the data plane that has them, offline through one of our own.
#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <boost/json.hpp>
#include <charconv>
#include <memory>
#include <optional>
#include <ostream>

#include "client/jsonrpc.h"
#include "control/cli/commands.h"
#include "control/cli/exit_code.h"
#include "control/cli/offline_data_plane.h"
#include "control/naming.h"
#include "control/sizes.h"

namespace diskengine::control::cli {
namespace {

namespace json = boost::json;

constexpr int kCheckLimitMs = 24 * 3600 * 1000;

struct CheckArguments {
  std::string disk;
  std::string data_plane;
  int64_t block_size = 0;
  bool repair = false;
};

Result<json::value> call_check(client::JsonRpcClient& rpc, const std::string& store, bool repair) {
  return rpc.call("diskengine_lvol_check", json::object{{"store", store}, {"repair", repair}});
}

Result<json::value> check_online(const CheckArguments& arguments, const std::string& socket, const std::string& store) {
  client::JsonRpcClient rpc({.socket_path = socket, .timeout_ms = kCheckLimitMs});
  return call_check(rpc, store, arguments.repair);
}

// A file does not say which block size its disk had; the store on it does, once it is read with the right one.
Result<json::value> check_offline_with(client::JsonRpcClient& rpc, const CheckArguments& arguments,
                                       int64_t block_size) {
  TRY(rpc.call("bdev_uring_create",
               json::object{{"name", arguments.disk}, {"filename", arguments.disk}, {"block_size", block_size}}));
  Result<json::value> report = call_check(rpc, arguments.disk, arguments.repair);
  TRY(rpc.call("bdev_uring_delete", json::object{{"name", arguments.disk}}));
  return report;
}

Result<json::value> check_offline(Session& session, const CheckArguments& arguments) {
  TRY_ASSIGN(const std::unique_ptr<OfflineDataPlane> plane, OfflineDataPlane::start(session.console.environment));
  if (arguments.block_size != 0) return check_offline_with(plane->rpc(), arguments, arguments.block_size);
  Result<json::value> report = check_offline_with(plane->rpc(), arguments, 512);
  if (report || report.error().code() == Errc::busy) return report;
  Result<json::value> other = check_offline_with(plane->rpc(), arguments, 4096);
  return other ? other : report;
}

// "3" and "NvmeDisk3" name the control plane's disk 3.
std::optional<int64_t> disk_id_in(std::string_view text) {
  for (const std::string_view prefix : {"NvmeDisk"})
    if (text.starts_with(prefix)) text.remove_prefix(prefix.size());
  if (text.ends_with("n1")) text.remove_suffix(2);
  int64_t id = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), id);
  if (error != std::errc() || end != text.data() + text.size() || id <= 0) return std::nullopt;
  return id;
}

// Through the data plane of the disk's node, whose socket must be on this machine.
Result<json::value> check_known_disk(Session& session, const CheckArguments& arguments, int64_t id) {
  TRY_ASSIGN(const json::value disks, session.api.get("/v1/disks"));
  TRY_ASSIGN(const json::value nodes, session.api.get("/v1/nodes"));
  for (const json::value& disk : disks.as_array()) {
    if (disk.at("id").as_int64() != id) continue;
    for (const json::value& node : nodes.as_array()) {
      if (node.at("name") != disk.at("node")) continue;
      const std::string socket = cell_text(node, "data_plane");
      Result<json::value> report = check_online(arguments, socket, nvme_disk_bdev_name(id));
      if (report || report.error().code() != Errc::unreachable) return report;
      return report.error().with_context(
          fmt::format("disk {} belongs to node {}: run this on that machine while its data plane runs, or check {} "
                      "offline there",
                      id, cell_text(node, "name"), cell_text(disk, "path")));
    }
  }
  return Error(Errc::not_found, fmt::format("there is no disk {}: 'diskengine disk list' shows them", id));
}

Result<json::value> check(Session& session, const CheckArguments& arguments) {
  if (!arguments.data_plane.empty()) return check_online(arguments, arguments.data_plane, arguments.disk);
  if (arguments.disk.find('/') != std::string::npos) {
    session.progress(fmt::format("checking {} offline", arguments.disk));
    Result<json::value> report = check_offline(session, arguments);
    if (!report && report.error().code() == Errc::busy)
      return report.error().with_context(
          "a disk that is in use is checked through its data plane: give its number, or its store with --data-plane");
    return report;
  }
  if (const std::optional<int64_t> id = disk_id_in(arguments.disk)) return check_known_disk(session, arguments, *id);
  return Error(Errc::invalid_argument,
               fmt::format("'{}' is neither the path of a file or block device (with a '/') nor the number of a disk; "
                           "the name of a store or bdev goes with --data-plane",
                           arguments.disk));
}

void show_for_people(Session& session, const json::value& report, bool repair) {
  std::ostream& out = session.console.out;
  const auto text = [&](const char* member) { return cell_text(report, member); };
  const bool sound = report.at("sound").as_bool();
  out << fmt::format("store {} ({}): {}\n", text("store_name"), text("store_uuid"), sound ? "sound" : "not sound");
  out << fmt::format("  {}; {} lvols; {} of {} clusters and {} of {} metadata pages in use\n",
                     report.at("clean").as_bool() ? "was unloaded in order" : "in use, or was not unloaded in order",
                     text("lvols"), text("clusters_used"), text("clusters_total"), text("pages_used"),
                     text("pages_total"));
  const json::array& findings = report.at("findings").as_array();
  if (findings.empty()) return;
  out << "\n";
  session.show(findings, {text_column("FINDING", "kind"), text_column("BLOB", "blob_id"), text_column("COUNT", "count"),
                          text_column("REPAIRABLE", "repairable"), text_column("REPAIRED", "repaired"),
                          text_column("WHAT", "text")});
  if (report.at("findings_left_off").to_number<uint64_t>() != 0)
    out << fmt::format("and {} more\n", text("findings_left_off"));
  const auto mendable = [](const json::value& one) { return one.at("repairable").as_bool(); };
  if (!repair && std::any_of(findings.begin(), findings.end(), mendable))
    session.progress("what is repairable is mended without risk by the same command with --repair");
}

int store_check(Session& session, const CheckArguments& arguments) {
  const Result<json::value> report = check(session, arguments);
  if (!report) return session.fail(report.error());
  if (session.is_for_people())
    show_for_people(session, *report, arguments.repair);
  else
    session.show(*report, {});
  return report->at("sound").as_bool() ? kExitOk : kExitFailed;
}

}  // namespace

void add_store_commands(CLI::App& root, Action* action) {
  CLI::App* store = root.add_subcommand("store", "Lvol stores on disks");
  store->require_subcommand(1);
  CLI::App* check = store->add_subcommand(
      "check", "Verify all metadata of a store; exit code 0 if it is sound, 1 if not. Nothing is changed unless told");
  const auto arguments = std::make_shared<CheckArguments>();
  check
      ->add_option("disk,--disk", arguments->disk,
                   "Number of a disk (online), or path of a file or block device (offline)")
      ->required();
  check->add_option("--data-plane", arguments->data_plane,
                    "RPC socket of the data plane that has the disk: DISK is then a store or a bdev there");
  check
      ->add_option("--block-size", arguments->block_size,
                   "Offline: logical block size of a file; found out if not given")
      ->check(CLI::IsMember({512, 4096}));
  check->add_flag("--repair", arguments->repair, "Mend what can be mended without risk");
  check->callback([=] { *action = [=](Session& session) { return store_check(session, *arguments); }; });
}

}  // namespace diskengine::control::cli
