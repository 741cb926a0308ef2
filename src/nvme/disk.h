// The block device over one namespace of an NVMe controller (SPDK: nvme bdev). Its channels each have a queue of their
// own to the controller.
//
//   Input object: Request. Output: NVMe commands of its channels (nvme/channel.h). Completion: Channel::finish.
//
// Threads: as every Device. Made by the HostManager for each namespace it finds.
#pragma once

#include <memory>
#include <string>

#include "block/device.h"
#include "nvme/controller.h"

namespace diskengine::nvme {

class NvmeDisk final : public Device {
 public:
  static std::shared_ptr<NvmeDisk> create(std::shared_ptr<Controller> controller, const NamespaceInfo& info);
  // "<controller>n<nsid>"
  static std::string name_of(const Controller& controller, uint32_t nsid);

  Result<std::unique_ptr<Channel>> open_channel(Reactor& reactor) override;
  std::string driver_specific_json() const override;

  const NamespaceInfo& ns() const noexcept { return ns_; }
  Controller& controller() const noexcept { return *controller_; }
  // Main reactor.
  void resize(uint64_t size_blocks);
  // As the controller last said. Of one that is not ours: nil. Main reactor.
  Uuid cache_instance() const override { return ns_.cache; }
  void set_cache_instance(const Uuid& cache) noexcept { ns_.cache = cache; }
  using Device::announce_cache_lost;

 private:
  NvmeDisk(DeviceInfo info, std::shared_ptr<Controller> controller, const NamespaceInfo& ns)
      : Device(std::move(info)), controller_(std::move(controller)), ns_(ns) {}

  std::shared_ptr<Controller> controller_;
  NamespaceInfo ns_;
};

// {"trtype":...,"adrfam":...,"traddr":...,"trsvcid":...,"subnqn":...} of a controller's address, as SPDK prints it.
std::string transport_id_json(const ControllerOptions& options);

}  // namespace diskengine::nvme
