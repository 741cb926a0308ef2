#include <fmt/format.h>

#include <boost/json.hpp>
#include <ostream>

#include "control/cli/commands.h"
#include "control/sizes.h"

namespace diskengine::control::cli {
namespace {

namespace json = boost::json;

int64_t integer_of(const json::value& row, std::string_view member) {
  const json::value* value = row.as_object().if_contains(member);
  return value != nullptr && value->is_int64() ? value->get_int64() : 0;
}

}  // namespace

Column text_column(std::string title, std::string member, bool is_wide) {
  return {std::move(title), [member = std::move(member)](const json::value& row) { return cell_text(row, member); },
          is_wide};
}

Column size_column(std::string title, std::string member, bool is_wide) {
  return {std::move(title),
          [member = std::move(member)](const json::value& row) { return format_size(integer_of(row, member)); },
          is_wide};
}

std::vector<Column> node_columns() {
  return {text_column("ID", "id", true),
          text_column("NAME", "name"),
          text_column("ROLE", "role"),
          text_column("ADDRESS", "address"),
          text_column("DATA PLANE", "data_plane"),
          text_column("VHOST DIR", "vhost_dir", true),
          text_column("SERVED BY", "served_by", true),
          text_column("STATE", "state"),
          text_column("REASON", "reason")};
}

std::vector<Column> disk_columns() {
  return {text_column("ID", "id"),
          text_column("NODE", "node"),
          text_column("PATH", "path"),
          text_column("BDEV", "bdev", true),
          text_column("LVOL STORE", "lvol_store", true),
          text_column("BLOCK", "block_size", true),
          size_column("CAPACITY", "capacity_bytes"),
          size_column("PROMISED", "promised_bytes"),
          text_column("STATE", "state"),
          text_column("REASON", "reason")};
}

std::vector<Column> volume_columns() {
  const auto attached = [](const json::value& row) {
    const json::value* attachment = row.as_object().if_contains("attachment");
    if (attachment == nullptr || !attachment->is_object()) return std::string("-");
    return fmt::format("{} ({})", cell_text(*attachment, "node"), cell_text(*attachment, "id"));
  };
  const auto in_sync = [](const json::value& row) {
    const json::value* replicas = row.as_object().if_contains("replicas");
    return fmt::format("{}/{}", integer_of(row, "in_sync"),
                       replicas != nullptr && replicas->is_array() ? replicas->get_array().size() : 0);
  };
  return {text_column("ID", "id", true),
          text_column("NAME", "name"),
          size_column("SIZE", "size_bytes"),
          text_column("BLOCK", "block_size", true),
          {"IN SYNC", in_sync},
          text_column("EPOCH", "epoch", true),
          text_column("RAID", "raid", true),
          {"ATTACHED", attached},
          text_column("STATE", "state"),
          text_column("REASON", "reason")};
}

std::vector<Column> replica_columns(bool with_volume) {
  std::vector<Column> columns;
  if (with_volume) columns.push_back(text_column("VOLUME", "volume"));
  columns.push_back(text_column("REPLICA", "id"));
  columns.push_back(text_column("NODE", "node"));
  columns.push_back(text_column("DISK", "disk_id"));
  columns.push_back({"IN SYNC", [](const json::value& row) {
                       return cell_text(row, "in_sync") == "true" ? std::string("yes") : std::string("no");
                     }});
  columns.push_back(text_column("LVOL", "lvol"));
  columns.push_back(text_column("ALIAS", "lvol_alias", true));
  columns.push_back(text_column("NQN", "nqn", true));
  columns.push_back(text_column("BASE BDEV", "base_bdev", true));
  columns.push_back(text_column("STATE", "state"));
  columns.push_back(text_column("REASON", "reason"));
  return columns;
}

std::vector<Column> attachment_columns() {
  const auto rebuild = [](const json::value& row) {
    const std::string percent = cell_text(row, "rebuild_percent");
    return percent == "-" ? percent : percent + " %";
  };
  return {text_column("ID", "id"),
          text_column("VOLUME", "volume"),
          text_column("NODE", "node"),
          text_column("SOCKET", "socket"),
          text_column("RAID", "raid", true),
          text_column("HOST NQN", "host_nqn", true),
          {"REBUILD", rebuild},
          text_column("PROTECTION", "protection", true),
          text_column("STATE", "state"),
          text_column("REASON", "reason")};
}

void show_protection(Session& session, const json::value& attachment) {
  const std::string reason = cell_text(attachment, "protection_reason");
  if (cell_text(attachment, "protection") != "limited") return;
  session.console.out << fmt::format("Attachment {} is not fully protected: {}\n", cell_text(attachment, "id"), reason);
}

}  // namespace diskengine::control::cli
