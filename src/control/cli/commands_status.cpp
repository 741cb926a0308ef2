// `diskengine status`, `diskengine events` and `diskengine operations`.
#include <fmt/chrono.h>
#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <boost/json.hpp>
#include <memory>
#include <ostream>

#include "control/cli/commands.h"
#include "control/cli/exit_code.h"

namespace diskengine::control::cli {
namespace {

namespace json = boost::json;

Column time_column(std::string title, std::string member) {
  return {std::move(title), [member = std::move(member)](const json::value& row) {
            const int64_t ms = row.at(member).as_int64();
            if (ms == 0) return std::string("-");
            return fmt::format("{:%Y-%m-%dT%H:%M:%S}.{:03}Z", fmt::gmtime(static_cast<std::time_t>(ms / 1000)),
                               ms % 1000);
          }};
}

void show_section(Session& session, const json::value& status, std::string_view member, const std::string& title,
                  const std::vector<Column>& columns) {
  const json::value& rows = status.at(member);
  session.console.out << title << "\n";
  if (rows.as_array().empty()) {
    session.console.out << "  none\n\n";
    return;
  }
  session.console.out << render_table(rows, columns, session.format == OutputFormat::wide) << "\n";
}

// One line that answers "is all well?" before the tables that say what is not.
std::string summary(const json::value& status) {
  size_t total = 0;
  size_t amiss = 0;
  for (const auto& section : status.as_object()) {
    for (const json::value& row : section.value().as_array()) {
      ++total;
      amiss += cell_text(row, "state") == "ready" ? 0 : 1;
    }
  }
  if (total == 0) return "Nothing is set up yet: add nodes with `diskengine node add`.";
  return amiss == 0 ? fmt::format("All {} objects are ready.", total)
                    : fmt::format("{} of {} objects are not ready; their reasons are below.", amiss, total);
}

int status(Session& session) {
  const Result<json::value> graph = session.api.get("/v1/status");
  if (!graph) return session.fail(graph.error());
  if (!session.is_for_people()) return session.show(*graph, {});
  session.console.out << summary(*graph) << "\n\n";
  show_section(session, *graph, "nodes", "NODES", node_columns());
  show_section(session, *graph, "disks", "DISKS", disk_columns());
  show_section(session, *graph, "volumes", "VOLUMES", volume_columns());
  show_section(session, *graph, "replicas", "REPLICAS", replica_columns(true));
  show_section(session, *graph, "attachments", "ATTACHMENTS", attachment_columns());
  for (const json::value& attachment : graph->at("attachments").as_array()) show_protection(session, attachment);
  return kExitOk;
}

int recent(Session& session, const std::string& noun, int64_t limit, const std::vector<Column>& columns) {
  const Result<json::value> rows = session.api.get(fmt::format("/v1/{}?limit={}", noun, limit));
  return rows ? session.show(*rows, columns) : session.fail(rows.error());
}

std::vector<Column> event_columns() {
  return {time_column("TIME", "time_ms"), text_column("KIND", "kind"),   text_column("ID", "object_id"),
          text_column("NAME", "name"),    text_column("STATE", "state"), text_column("REASON", "reason")};
}

std::vector<Column> operation_columns() {
  return {time_column("STARTED", "started_ms"),  time_column("FINISHED", "finished_ms"),
          text_column("OPERATION", "operation"), text_column("ID", "object_id"),
          text_column("NAME", "name"),           text_column("STATE", "state")};
}

void add_recent(CLI::App& root, Action* action, const std::string& noun, const std::string& help,
                std::vector<Column> (*columns)()) {
  CLI::App* command = root.add_subcommand(noun, help);
  const auto limit = std::make_shared<int64_t>(50);
  command->add_option("--limit", *limit, "At most so many")->capture_default_str()->check(CLI::Range(1, 10'000));
  command->callback([=] { *action = [=](Session& session) { return recent(session, noun, *limit, columns()); }; });
}

}  // namespace

void add_status_commands(CLI::App& root, Action* action) {
  CLI::App* all = root.add_subcommand("status", "Every object with its state and the reason for it");
  all->callback([=] { *action = status; });
  add_recent(root, action, "events", "What changed its state, the newest first", event_columns);
  add_recent(root, action, "operations", "What people asked for, the newest first", operation_columns);
}

}  // namespace diskengine::control::cli
