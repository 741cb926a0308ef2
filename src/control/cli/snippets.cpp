#include "control/cli/snippets.h"

#include <fmt/format.h>

namespace diskengine::control::cli {
namespace {

// QEMU reads a comma in an option's value as the next option; a doubled one stands for itself.
std::string qemu_value(const std::string& text) {
  std::string escaped;
  for (const char c : text) escaped += c == ',' ? std::string(",,") : std::string(1, c);
  return escaped;
}

std::string shell_quoted(const std::string& text) {
  if (text.find_first_not_of("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789/_.,=:+-") ==
      std::string::npos)
    return text;
  std::string quoted = "'";
  for (const char c : text) quoted += c == '\'' ? std::string("'\\''") : std::string(1, c);
  return quoted + "'";
}

std::string xml_escaped(const std::string& text) {
  std::string escaped;
  for (const char c : text) {
    switch (c) {
      case '&':
        escaped += "&amp;";
        break;
      case '<':
        escaped += "&lt;";
        break;
      case '\'':
        escaped += "&apos;";
        break;
      default:
        escaped.push_back(c);
    }
  }
  return escaped;
}

}  // namespace

std::string qemu_snippet(const SnippetInput& input) {
  const std::string chardev = shell_quoted(
      fmt::format("socket,id=de-{},path={},reconnect=1", input.volume_name, qemu_value(input.socket_path)));
  return fmt::format(
      "-object memory-backend-memfd,id=mem,size=1G,share=on -m 1G -machine memory-backend=mem \\\n"
      "-chardev {} \\\n"
      "-device vhost-user-blk-pci,chardev=de-{},num-queues={}\n",
      chardev, input.volume_name, input.queues);
}

std::string libvirt_snippet(const SnippetInput& input) {
  return fmt::format(
      "<memoryBacking>\n"
      "  <source type='memfd'/>\n"
      "  <access mode='shared'/>\n"
      "</memoryBacking>\n"
      "<disk type='vhostuser' device='disk'>\n"
      "  <driver name='qemu' type='raw' queues='{}'/>\n"
      "  <source type='unix' path='{}'>\n"
      "    <reconnect enabled='yes' timeout='1'/>\n"
      "  </source>\n"
      "  <target dev='vdb' bus='virtio'/>\n"
      "</disk>\n",
      input.queues, xml_escaped(input.socket_path));
}

std::string cloud_hypervisor_snippet(const SnippetInput& input) {
  return fmt::format("--memory size=1G,shared=on \\\n--disk {}\n",
                     shell_quoted(fmt::format("vhost_user=on,socket={},num_queues={},id=de-{}", input.socket_path,
                                              input.queues, input.volume_name)));
}

}  // namespace diskengine::control::cli
