#include "control/cli/command_line.h"

#include <CLI/CLI.hpp>
#include <memory>
#include <ostream>

#include "control/api/decode.h"
#include "control/cli/commands.h"
#include "control/cli/completion.h"
#include "control/cli/exit_code.h"
#include "control/sizes.h"

namespace diskengine::control::cli {
namespace {

struct ServeArguments {
  std::string roles = "storagenode,baremetal,api";
  std::string db_path = default_db_path();
  std::vector<std::string> storage_nodes;
  std::vector<std::string> compute_nodes;
  std::vector<std::string> nodes;
  std::string data_plane, address, vhost_dir;
  std::string interval = "1s";
};

// --node with --data-plane: the one node this machine is.
Result<Node> only_node(const ServeArguments& arguments, const ServeOptions& options) {
  const bool is_storage = options.has_role(kRoleStorage);
  if (arguments.nodes.size() != 1 || is_storage == options.has_role(kRoleCompute))
    return Error(Errc::invalid_argument,
                 "--data-plane goes with one --node and one of the roles storagenode and baremetal; use --storage-node "
                 "and --compute-node for more");
  Node node;
  node.name = arguments.nodes[0];
  node.role = is_storage ? kRoleStorage : kRoleCompute;
  node.rpc_socket = arguments.data_plane;
  node.vhost_dir = arguments.vhost_dir;
  if (!arguments.address.empty()) TRY(parse_address(arguments.address, &node));
  TRY(check_node(node));
  return node;
}

Result<ServeOptions> serve_options(const ServeArguments& arguments, const std::string& api_socket) {
  ServeOptions options;
  TRY_ASSIGN(options.roles, parse_roles(arguments.roles));
  options.db_path = arguments.db_path;
  options.api_socket = api_socket;
  options.nodes = arguments.nodes;
  TRY_ASSIGN(options.tick_ms, parse_duration_ms(arguments.interval));
  if (options.tick_ms < 10) return Error(Errc::invalid_argument, "--interval must be at least 10ms");
  for (const std::string& text : arguments.storage_nodes) {
    TRY_ASSIGN(Node node, parse_storage_node(text));
    options.new_nodes.push_back(std::move(node));
  }
  for (const std::string& text : arguments.compute_nodes) {
    TRY_ASSIGN(Node node, parse_compute_node(text));
    options.new_nodes.push_back(std::move(node));
  }
  if (!arguments.data_plane.empty()) {
    TRY_ASSIGN(Node node, only_node(arguments, options));
    options.new_nodes.push_back(std::move(node));
  }
  return options;
}

void add_serve_command(CLI::App& root, const std::shared_ptr<ServeArguments>& arguments) {
  CLI::App* serve = root.add_subcommand("serve", "Run the control plane: the API and the loops of nodes");
  serve->add_option("--role", arguments->roles, "What to run: any of storagenode,baremetal,api")->capture_default_str();
  serve
      ->add_option("--db", arguments->db_path,
                   "Database: a file, or postgresql://HOST/NAME and other PostgreSQL connection strings")
      ->capture_default_str();
  serve->add_option("--storage-node", arguments->storage_nodes,
                    "Record and serve a storage node: NAME=RPC-SOCKET,address=IP:PORT; may be repeated");
  serve->add_option("--compute-node", arguments->compute_nodes,
                    "Record and serve a compute node: NAME=RPC-SOCKET,vhost-dir=DIRECTORY; may be repeated");
  serve->add_option("--node", arguments->nodes, "Serve only this node; may be repeated. Default: all of the roles");
  serve->add_option("--data-plane", arguments->data_plane, "RPC socket of the one --node, which is recorded");
  serve->add_option("--address", arguments->address, "With --data-plane, storagenode: IP:PORT its exports listen on");
  serve->add_option("--vhost-dir", arguments->vhost_dir, "With --data-plane, baremetal: vhost socket directory");
  serve->add_option("--interval", arguments->interval, "Time between looks at an unchanged node")
      ->capture_default_str();
}

}  // namespace

int run_command_line(int argc, const char* const* argv, Console& console, const ServeFunction& serve) {
  CLI::App root("Replicated block volumes for virtual machines", "diskengine");
  root.require_subcommand(1);
  root.set_version_flag("--version", "diskengine " + console.version);
  std::string api_socket = default_api_socket();
  std::string output = "table";
  root.add_option("--api", api_socket, "Socket of the control plane (also $DISKENGINE_API)")->capture_default_str();
  root.add_option("-o,--output", output, "Output format: table, wide, json or yaml")->capture_default_str();

  Action action;
  const auto serve_arguments = std::make_shared<ServeArguments>();
  add_status_commands(root, &action);
  add_volume_commands(root, &action);
  add_attachment_commands(root, &action);
  add_disk_commands(root, &action);
  add_store_commands(root, &action);
  add_node_commands(root, &action);
  add_rpc_command(root, &action);
  add_top_command(root, &action);
  add_doctor_commands(root, &action);
  add_support_commands(root, &action);
  add_serve_command(root, serve_arguments);
  std::string shell;
  CLI::App* completion = root.add_subcommand("completion", "Print a completion script for a shell");
  completion->add_option("shell", shell, "bash, zsh or fish")->required();
  // -o and --api may stand anywhere on the line.
  for (CLI::App* command : root.get_subcommands([](CLI::App*) { return true; })) {
    command->fallthrough();
    for (CLI::App* verb : command->get_subcommands([](CLI::App*) { return true; })) verb->fallthrough();
  }

  try {
    root.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    const int code = root.exit(error, console.out, console.err);
    return code == 0 ? kExitOk : kExitUsage;
  }
  const Result<OutputFormat> format = parse_output_format(output);
  Session session{console, ApiClient(api_socket), format ? *format : OutputFormat::table};
  if (!format) return session.fail(format.error());
  if (completion->parsed()) {
    const Result<std::string> script = completion_script(root, shell);
    if (!script) return session.fail(script.error());
    console.out << *script;
    return kExitOk;
  }
  if (action) return action(session);
  const Result<ServeOptions> options = serve_options(*serve_arguments, api_socket);
  return options ? serve(*options, console) : session.fail(options.error());
}

}  // namespace diskengine::control::cli
