// The subcommands. Each add_* function adds its part of the command tree; parsing sets `action` to what is to be run.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "control/cli/session.h"

namespace CLI {
class App;
}

namespace diskengine::control::cli {

using Action = std::function<int(Session&)>;

void add_node_commands(CLI::App& root, Action* action);
void add_disk_commands(CLI::App& root, Action* action);
void add_store_commands(CLI::App& root, Action* action);
void add_volume_commands(CLI::App& root, Action* action);
void add_trace_command(CLI::App& volume, Action* action);
void add_volume_resume(CLI::App& volume, Action* action);
void add_volume_checklist(CLI::App& volume, Action* action);
void add_volume_diagnose(CLI::App& volume, Action* action);
void add_rpc_command(CLI::App& root, Action* action);
void add_top_command(CLI::App& root, Action* action);
void add_doctor_commands(CLI::App& root, Action* action);
void add_support_commands(CLI::App& root, Action* action);
void add_attachment_commands(CLI::App& root, Action* action);
void add_status_commands(CLI::App& root, Action* action);

// Table columns, shared by the lists and `status`.
std::vector<Column> node_columns();
std::vector<Column> disk_columns();
std::vector<Column> volume_columns();
std::vector<Column> replica_columns(bool with_volume);
std::vector<Column> attachment_columns();
// A line below the tables when the attachment is not protected in full.
void show_protection(Session& session, const boost::json::value& attachment);

Column text_column(std::string title, std::string member, bool is_wide = false);
Column size_column(std::string title, std::string member, bool is_wide = false);

// --no-wait and --timeout of a command that waits.
struct WaitOptions {
  bool no_wait = false;
  std::string timeout = "60s";
};
void add_wait_options(CLI::App& command, const std::shared_ptr<WaitOptions>& options);
void add_dry_run(CLI::App& command, bool* dry_run);

}  // namespace diskengine::control::cli
