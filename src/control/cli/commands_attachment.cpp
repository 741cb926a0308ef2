// `diskengine attachment ...`.
#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <boost/json.hpp>
#include <memory>
#include <ostream>

#include "control/cli/commands.h"
#include "control/cli/exit_code.h"
#include "control/cli/snippets.h"
#include "control/sizes.h"

namespace diskengine::control::cli {
namespace {

namespace json = boost::json;

struct AttachmentArguments {
  std::string id;  // or the volume's name
  std::string volume;
  std::string node;
  std::string until = "ready";
  int64_t queues = 2;
  bool dry_run = false;
  std::shared_ptr<WaitOptions> wait = std::make_shared<WaitOptions>();
};

bool is_usable(const json::value& attachment) {
  const std::string state = cell_text(attachment, "state");
  return state == "ready" || state == "degraded" || state == "rebuilding";
}

bool is_ready(const json::value& attachment) { return cell_text(attachment, "state") == "ready"; }

std::string attachment_path(const std::string& id) { return "/v1/attachments/" + path_segment(id); }

SnippetInput snippet_input(const json::value& attachment, int64_t queues) {
  return {.socket_path = cell_text(attachment, "socket"),
          .volume_name = cell_text(attachment, "volume"),
          .queues = static_cast<int>(queues)};
}

// The attachment, and what to give to a VM.
int show_attachment(Session& session, const json::value& attachment, int64_t queues) {
  const SnippetInput input = snippet_input(attachment, queues);
  if (!session.is_for_people()) {
    json::object with_snippets = attachment.as_object();
    with_snippets["snippets"] = {{"qemu", qemu_snippet(input)},
                                 {"libvirt", libvirt_snippet(input)},
                                 {"cloud_hypervisor", cloud_hypervisor_snippet(input)}};
    return session.show(with_snippets, {});
  }
  session.show(attachment, attachment_columns());
  show_protection(session, attachment);
  if (is_usable(attachment))
    session.console.out << "\nQEMU:\n\n"
                        << qemu_snippet(input) << "\nlibvirt, in the <domain>:\n\n"
                        << libvirt_snippet(input) << "\nCloud Hypervisor:\n\n"
                        << cloud_hypervisor_snippet(input);
  return kExitOk;
}

int attachment_create(Session& session, const AttachmentArguments& arguments) {
  const Result<int64_t> timeout_ms = parse_duration_ms(arguments.wait->timeout);
  if (!timeout_ms) return session.fail(timeout_ms.error());
  const json::object body{{"volume", arguments.volume}, {"node", arguments.node}};
  Result<json::value> attachment = session.api.post("/v1/attachments", body, arguments.dry_run);
  if (!attachment) return session.fail(attachment.error());
  if (arguments.dry_run) return session.show_dry_run(*attachment);
  if (arguments.wait->no_wait) return session.show(*attachment, attachment_columns());
  const std::string id = cell_text(*attachment, "id");
  attachment = wait_for(
      session,
      {.path = attachment_path(id), .what = "attachment " + id, .timeout_ms = *timeout_ms, .is_done = is_usable});
  return attachment ? show_attachment(session, *attachment, arguments.queues) : session.fail(attachment.error());
}

int attachment_wait(Session& session, const AttachmentArguments& arguments) {
  const Result<int64_t> timeout_ms = parse_duration_ms(arguments.wait->timeout);
  if (!timeout_ms) return session.fail(timeout_ms.error());
  const bool until_gone = arguments.until == "deleted";
  const Result<json::value> attachment =
      wait_for(session, {.path = attachment_path(arguments.id),
                         .what = "attachment " + arguments.id,
                         .timeout_ms = *timeout_ms,
                         .until_gone = until_gone,
                         .is_done = arguments.until == "usable" ? is_usable : is_ready});
  if (!attachment) return session.fail(attachment.error());
  return until_gone ? kExitOk : session.show(*attachment, attachment_columns());
}

int attachment_show(Session& session, const AttachmentArguments& arguments) {
  const Result<json::value> attachment = session.api.get(attachment_path(arguments.id));
  return attachment ? show_attachment(session, *attachment, arguments.queues) : session.fail(attachment.error());
}

int attachment_list(Session& session) {
  const Result<json::value> attachments = session.api.get("/v1/attachments");
  return attachments ? session.show(*attachments, attachment_columns()) : session.fail(attachments.error());
}

int attachment_delete(Session& session, const AttachmentArguments& arguments) {
  const Result<int64_t> timeout_ms = parse_duration_ms(arguments.wait->timeout);
  if (!timeout_ms) return session.fail(timeout_ms.error());
  const Result<json::value> answer = session.api.remove(attachment_path(arguments.id), arguments.dry_run);
  if (!answer) return session.fail(answer.error());
  if (arguments.dry_run) return session.show_dry_run(*answer);
  if (arguments.wait->no_wait) return kExitOk;
  // Waited for by its id: under the volume's name a later attachment could be meant.
  const std::string id = cell_text(*answer, "deleting");
  const Result<json::value> gone = wait_for(session, {.path = attachment_path(id),
                                                      .what = "attachment " + id,
                                                      .timeout_ms = *timeout_ms,
                                                      .until_gone = true,
                                                      .is_done = {}});
  if (!gone) return session.fail(gone.error());
  session.progress(fmt::format("attachment {} is deleted", id));
  return kExitOk;
}

void add_queues(CLI::App& command, const std::shared_ptr<AttachmentArguments>& arguments) {
  command.add_option("--queues", arguments->queues, "Queues in the printed VM settings")
      ->capture_default_str()
      ->check(CLI::Range(1, 64));
}

void add_id(CLI::App& command, const std::shared_ptr<AttachmentArguments>& arguments) {
  command.add_option("attachment,--id", arguments->id, "Id of the attachment, or the volume's name")->required();
}

}  // namespace

void add_attachment_commands(CLI::App& root, Action* action) {
  CLI::App* attachment = root.add_subcommand("attachment", "Volumes attached to virtual machines");
  attachment->require_subcommand(1);

  const auto created = std::make_shared<AttachmentArguments>();
  CLI::App* create = attachment->add_subcommand("create", "Attach a volume on a compute node, and print VM settings");
  create->add_option("volume,--volume", created->volume, "Name or id of the volume")->required();
  create->add_option("--node", created->node, "Compute node; may be left out when there is only one");
  add_queues(*create, created);
  add_wait_options(*create, created->wait);
  add_dry_run(*create, &created->dry_run);
  create->callback([=] { *action = [=](Session& session) { return attachment_create(session, *created); }; });

  CLI::App* list = attachment->add_subcommand("list", "List the attachments");
  list->callback([=] { *action = attachment_list; });

  const auto shown = std::make_shared<AttachmentArguments>();
  CLI::App* show = attachment->add_subcommand("show", "Show an attachment and its VM settings");
  add_id(*show, shown);
  add_queues(*show, shown);
  show->callback([=] { *action = [=](Session& session) { return attachment_show(session, *shown); }; });

  const auto waited = std::make_shared<AttachmentArguments>();
  CLI::App* wait = attachment->add_subcommand("wait", "Wait for an attachment, with the progress of its rebuild");
  add_id(*wait, waited);
  wait->add_option("--for", waited->until, "usable (the VM can work), ready (all replicas current) or deleted")
      ->capture_default_str()
      ->check(CLI::IsMember({"usable", "ready", "deleted"}));
  wait->add_option("--timeout", waited->wait->timeout, "How long to wait: 30s, 5m")->capture_default_str();
  wait->callback([=] { *action = [=](Session& session) { return attachment_wait(session, *waited); }; });

  const auto removed = std::make_shared<AttachmentArguments>();
  CLI::App* remove = attachment->add_subcommand("delete", "Detach: take the disk away from the VM");
  add_id(*remove, removed);
  add_wait_options(*remove, removed->wait);
  add_dry_run(*remove, &removed->dry_run);
  remove->callback([=] { *action = [=](Session& session) { return attachment_delete(session, *removed); }; });
}

}  // namespace diskengine::control::cli
