// What to give to a virtual machine so that it has an attached volume as its disk. Pure; any thread.
#pragma once

#include <string>

namespace diskengine::control::cli {

struct SnippetInput {
  std::string socket_path;
  std::string volume_name;
  int queues = 2;
};

// Arguments for qemu-system-*: shared guest memory, the socket with reconnection, the disk.
std::string qemu_snippet(const SnippetInput& input);
// Elements of a libvirt domain.
std::string libvirt_snippet(const SnippetInput& input);
// Arguments for cloud-hypervisor.
std::string cloud_hypervisor_snippet(const SnippetInput& input);

}  // namespace diskengine::control::cli
