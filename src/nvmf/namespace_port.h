// A subsystem's namespaces as the queues of one reactor reach them: the open channel of each namespace.
//
//   Input object: a namespace id. Output object: a NamespacePort with its Channel. Completion: close() runs `closed`.
//
// Threads: made on the main reactor, afterwards only touched on the reactor it is for, and destroyed there.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "block/device.h"
#include "trace/recorder.h"

namespace diskengine::nvmf {

struct NamespacePort {
  std::unique_ptr<Channel> channel;  // null: there is no such namespace here, or it cannot be opened
  bool open = false;                 // takes new I/O
  uint32_t block_bytes = 0;
  uint32_t transfer_blocks_max = 0;  // of one request to the device; 0: no limit
  bool can_unmap = false;
  bool can_write_zeroes = false;
  bool can_compare = false;
  trace::Root* root = nullptr;

  uint64_t size_blocks() const noexcept { return channel->device().size_blocks(); }
};

class NamespacePorts {
 public:
  NamespacePorts(Reactor& reactor, uint32_t namespaces_max) : reactor_(reactor), ports_(namespaces_max) {}
  ~NamespacePorts();

  Reactor& reactor() const noexcept { return reactor_; }
  // nullptr if there is no such namespace, or it takes no I/O now.
  NamespacePort* find(uint32_t nsid) noexcept {
    if (nsid == 0 || nsid > ports_.size()) return nullptr;
    NamespacePort& port = ports_[nsid - 1];
    return port.open ? &port : nullptr;
  }

  void open(uint32_t nsid, const std::shared_ptr<Device>& device);
  // Refuses new I/O, waits for what is under way, closes the channel.
  void close(uint32_t nsid, std::function<void()> closed);

 private:
  Reactor& reactor_;
  std::vector<NamespacePort> ports_;
};

}  // namespace diskengine::nvmf
