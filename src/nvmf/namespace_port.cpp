#include "nvmf/namespace_port.h"

#include "base/assert.h"
#include "base/log.h"

namespace diskengine::nvmf {

NamespacePorts::~NamespacePorts() {
  for (const NamespacePort& port : ports_) DE_ASSERT(port.channel == nullptr);
}

void NamespacePorts::open(uint32_t nsid, const std::shared_ptr<Device>& device) {
  NamespacePort& port = ports_.at(nsid - 1);
  DE_ASSERT(port.channel == nullptr);
  Result<std::unique_ptr<Channel>> channel = device->open_channel(reactor_);
  if (!channel) {
    LOG_ERROR("nvmf", "namespace {} over '{}': cannot be opened: {}; its I/O fails", nsid, device->name(),
              channel.error().message());
    return;
  }
  const DeviceInfo& info = device->info();
  port.channel = std::move(*channel);
  port.block_bytes = info.block_size;
  port.transfer_blocks_max = info.max_transfer_blocks;
  port.can_unmap = info.can_unmap;
  port.can_write_zeroes = info.can_write_zeroes;
  port.can_compare = info.can_compare;
  if (reactor_.recorder() != nullptr) port.root = reactor_.recorder()->open_root(info.name, trace::Layer::nvmf);
  port.open = true;
}

void NamespacePorts::close(uint32_t nsid, std::function<void()> closed) {
  NamespacePort& port = ports_.at(nsid - 1);
  port.open = false;
  if (port.channel == nullptr) {
    closed();
    return;
  }
  port.channel->when_idle([this, &port, closed = std::move(closed)] {
    if (port.root != nullptr) reactor_.recorder()->close_root(std::exchange(port.root, nullptr));
    port.channel.reset();
    closed();
  });
}

}  // namespace diskengine::nvmf
