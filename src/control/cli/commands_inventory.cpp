// `diskengine node ...` and `diskengine disk ...`.
#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <boost/json.hpp>
#include <memory>

#include "control/cli/commands.h"
#include "control/cli/exit_code.h"
#include "control/sizes.h"

namespace diskengine::control::cli {
namespace {

namespace json = boost::json;

struct NodeArguments {
  std::string name, role, data_plane, address, vhost_dir;
  bool dry_run = false;
};

struct DiskArguments {
  std::string node, path;
  int64_t block_size = 512;
  bool overwrite = false;
  bool dry_run = false;
  std::shared_ptr<WaitOptions> wait = std::make_shared<WaitOptions>();
};

int list(Session& session, const std::string& path, const std::vector<Column>& columns) {
  const Result<json::value> rows = session.api.get(path);
  return rows ? session.show(*rows, columns) : session.fail(rows.error());
}

int node_add(Session& session, const NodeArguments& arguments) {
  const json::object body{{"name", arguments.name},
                          {"role", arguments.role},
                          {"data_plane", arguments.data_plane},
                          {"address", arguments.address},
                          {"vhost_dir", arguments.vhost_dir}};
  const Result<json::value> node = session.api.post("/v1/nodes", body, arguments.dry_run);
  if (!node) return session.fail(node.error());
  return arguments.dry_run ? session.show_dry_run(*node) : session.show(*node, node_columns());
}

// Disks have no path of their own in the API: waiting looks for one in the list.
Result<json::value> wait_for_disk(Session& session, int64_t id, int64_t timeout_ms) {
  Environment& environment = session.console.environment;
  const int64_t start_ms = environment.monotonic_ms();
  for (;;) {
    TRY_ASSIGN(const json::value disks, session.api.get("/v1/disks"));
    for (const json::value& disk : disks.as_array()) {
      if (disk.at("id").as_int64() != id) continue;
      const std::string state = cell_text(disk, "state");
      if (state == "ready") return disk;
      if (state == "failed")
        return Error(Errc::io_error, fmt::format("disk {} is failed: {}", id, cell_text(disk, "reason")));
      if (environment.monotonic_ms() - start_ms >= timeout_ms)
        return Error(Errc::timed_out, fmt::format("disk {} is still {}: {}", id, state, cell_text(disk, "reason")));
    }
    environment.pause_ms(100);
  }
}

int disk_add(Session& session, const DiskArguments& arguments) {
  const Result<int64_t> timeout_ms = parse_duration_ms(arguments.wait->timeout);
  if (!timeout_ms) return session.fail(timeout_ms.error());
  const json::object body{{"node", arguments.node},
                          {"path", arguments.path},
                          {"block_size", arguments.block_size},
                          {"overwrite", arguments.overwrite}};
  Result<json::value> disk = session.api.post("/v1/disks", body, arguments.dry_run);
  if (!disk) return session.fail(disk.error());
  if (arguments.dry_run) return session.show_dry_run(*disk);
  if (!arguments.wait->no_wait) disk = wait_for_disk(session, disk->at("id").as_int64(), *timeout_ms);
  if (!disk) return session.fail(disk.error());
  return session.show(*disk, disk_columns());
}

}  // namespace

void add_wait_options(CLI::App& command, const std::shared_ptr<WaitOptions>& options) {
  command.add_flag("--no-wait", options->no_wait, "Return at once; the work goes on in the background");
  command.add_option("--timeout", options->timeout, "How long to wait: 30s, 5m")->capture_default_str();
}

void add_dry_run(CLI::App& command, bool* dry_run) {
  command.add_flag("--dry-run", *dry_run, "Say what would be done, and do nothing");
}

void add_node_commands(CLI::App& root, Action* action) {
  CLI::App* node = root.add_subcommand("node", "Machines and their data planes");
  node->require_subcommand(1);
  CLI::App* add = node->add_subcommand("add", "Record a node, or give it new addresses");
  const auto arguments = std::make_shared<NodeArguments>();
  add->add_option("name,--name", arguments->name, "Name of the node")->required();
  add->add_option("--role", arguments->role, "storagenode or baremetal")
      ->required()
      ->check(CLI::IsMember({"storagenode", "baremetal"}));
  add->add_option("--data-plane", arguments->data_plane, "RPC socket of its diskengine-io (or spdk_tgt)")->required();
  add->add_option("--address", arguments->address, "storagenode: IP:PORT its exports listen on");
  add->add_option("--vhost-dir", arguments->vhost_dir, "baremetal: the data plane's vhost socket directory (-S)");
  add_dry_run(*add, &arguments->dry_run);
  add->callback([=] { *action = [=](Session& session) { return node_add(session, *arguments); }; });
  CLI::App* all = node->add_subcommand("list", "List the nodes");
  all->callback([=] { *action = [](Session& session) { return list(session, "/v1/nodes", node_columns()); }; });
}

void add_disk_commands(CLI::App& root, Action* action) {
  CLI::App* disk = root.add_subcommand("disk", "Disks of storage nodes");
  disk->require_subcommand(1);
  CLI::App* add = disk->add_subcommand(
      "add", "Give a storage node a disk for replicas: a file, a block device, or an NVMe disk on the PCI bus");
  const auto arguments = std::make_shared<DiskArguments>();
  add->add_option("--node", arguments->node, "Storage node that has the disk")->required();
  add->add_option("--path", arguments->path,
                  "Absolute path of a file or block device on that node, PCI address (0000:00:04.0) of an "
                  "NVMe disk that is bound to vfio-pci, or serial:<its serial number>")
      ->required();
  add->add_option("--block-size", arguments->block_size, "Logical block size: 512 or 4096")->capture_default_str();
  add->add_flag("--overwrite", arguments->overwrite, "Take the disk even if it holds something, which is lost");
  add_wait_options(*add, arguments->wait);
  add_dry_run(*add, &arguments->dry_run);
  add->callback([=] { *action = [=](Session& session) { return disk_add(session, *arguments); }; });
  CLI::App* all = disk->add_subcommand("list", "List the disks");
  all->callback([=] { *action = [](Session& session) { return list(session, "/v1/disks", disk_columns()); }; });
}

}  // namespace diskengine::control::cli
