#include "layers.h"

#include <fmt/format.h>

#include <memory>
#include <utility>

#include "fabric/pcie/host.h"
#include "fabric/pcie/vfio.h"
#include "fabric/rdma/host.h"
#include "fabric/tcp/host.h"
#include "lvol/manager.h"
#include "nvme/manager.h"
#include "nvmf/target.h"
#include "raid/manager.h"
#include "raid/scrub.h"
#include "rpc/methods_bdev_content.h"
#include "rpc/methods_bdev_decorators.h"
#include "rpc/methods_bdev_disk.h"
#include "rpc/methods_bdev_health.h"
#include "rpc/methods_bdev_lvol.h"
#include "rpc/methods_bdev_nvme.h"
#include "rpc/methods_bdev_raid.h"
#include "rpc/methods_nvmf.h"
#include "rpc/methods_perf.h"
#include "rpc/methods_vhost.h"
#include "runtime/dma_regions.h"
#include "runtime/machine.h"
#include "vhost/manager.h"

namespace diskengine::app {
namespace {

Layer disks(const LayerContext& context) {
  Layer layer;
  layer.name = "disks";
  layer.subsystem = "bdev";
  layer.add_methods = [&devices = context.devices, &examination = context.examination,
                       &random = context.random](rpc::MethodTable& methods) {
    rpc::add_disk_methods(methods, devices, examination, random);
    rpc::add_decorator_methods(methods, devices, random);
    rpc::add_perf_methods(methods, devices);
    rpc::add_content_methods(methods, devices);
  };
  return layer;
}

// The NVMe host and what carries its connections.
struct NvmeHost {
  NvmeHost(const LayerContext& context, std::shared_ptr<DmaRegions> memory)
      : regions(std::move(memory)),
        bus(context.allow_no_iommu),
        manager(context.main(), context.devices, {{"TCP", &tcp}, {"RDMA", &rdma}, {"PCIe", &pcie}}, context.random) {}
  const std::shared_ptr<DmaRegions> regions;
  fabric::tcp::HostTransport tcp;
  fabric::rdma::HostTransport rdma{fabric::rdma::load_verbs, *regions};
  fabric::pcie::VfioBus bus;
  fabric::pcie::HostTransport pcie{bus, *regions};
  nvme::HostManager manager;
};

// 0: it is not told.
uint32_t celsius_of(uint16_t kelvin) {
  constexpr uint16_t kZeroCelsius = 273;
  return kelvin > kZeroCelsius ? kelvin - uint32_t{kZeroCelsius} : 0;
}

Layer nvme_host(const LayerContext& context, std::shared_ptr<DmaRegions> regions) {
  auto host = std::make_shared<NvmeHost>(context, std::move(regions));
  host->manager.set_health_watcher([&events = context.events](const std::string& name, const std::string& what) {
    events.announce(rpc::DeviceEvents::kDiskHealth, fmt::format("{}: {}", name, what));
  });
  Layer layer;
  layer.name = "nvme host";
  layer.subsystem = "bdev";
  layer.add_methods = [host, reactors = context.reactors, &devices = context.devices](rpc::MethodTable& methods) {
    rpc::add_bdev_nvme_methods(methods, host->manager, reactors);
    rpc::add_health_methods(methods, devices, host->manager);
  };
  layer.temperatures = [host](std::vector<history::DiskTemperature>& temperatures) {
    for (const auto& controller : host->manager.all()) {
      const uint32_t celsius = celsius_of(controller->temperature_k());
      if (celsius > 0)
        temperatures.push_back(
            {controller->options().name, celsius, celsius_of(controller->identity().warning_temperature_k)});
      controller->read_temperature();
    }
  };
  layer.states = [host](std::vector<history::ObjectState>& states) {
    for (const auto& controller : host->manager.all())
      if (controller->state() != nvme::Controller::State::enabled)
        states.push_back(
            {"path", controller->options().name, fmt::format("{} {}", controller->state_name(), controller->reason())});
  };
  layer.config_calls = [host] { return host->manager.config_calls(); };
  layer.end_waits = [host] { host->manager.end_waits(); };
  layer.stop = [host] { return host->manager.stop(); };
  return layer;
}

// What mirrors do beside their guests' I/O, and which of their legs are out.
void mirror_states(const raid::RaidManager& manager, std::vector<history::ObjectState>& states) {
  for (const std::shared_ptr<raid::Volume>& volume : manager.volumes()) {
    if (volume->state() != raid::VolumeState::online) continue;
    if (volume->rebuilding()) states.push_back({"rebuild", volume->name(), "copies to a leg"});
    if (volume->scrub() != nullptr && volume->scrub()->runs())
      states.push_back({"scrub", volume->name(), "compares its legs"});
    for (const auto& slot : volume->slots())
      if (slot->role != raid::SlotRole::in_sync)
        states.push_back({"leg", fmt::format("{} slot {}", volume->name(), slot->index),
                          fmt::format("{} is {}: {}", slot->name.empty() ? "its leg" : slot->name,
                                      raid::name_of(slot->role), slot->reason)});
  }
}

Layer mirrors(const LayerContext& context) {
  auto manager = std::make_shared<raid::RaidManager>(context.devices, context.random.next(), machine_boot());
  Layer layer;
  layer.name = "raid";
  layer.subsystem = "bdev";
  layer.add_methods = [manager](rpc::MethodTable& methods) { rpc::add_raid_methods(methods, *manager); };
  layer.config_calls = [manager] { return manager->config_calls(); };
  layer.states = [manager](std::vector<history::ObjectState>& states) { mirror_states(*manager, states); };
  layer.examining = [manager] { return manager->examining(); };
  layer.end_waits = [manager] { manager->end_waits(); };
  layer.stop = [manager] { return manager->stop(); };
  return layer;
}

void announce_lvol_events(lvol::LvolManager& manager, rpc::DeviceEvents& events) {
  lvol::LvolManager::Events told;
  told.on_threshold = [&events](const lvol::StoreInfo& store, unsigned percent, bool below) {
    events.announce(rpc::DeviceEvents::kLvolSpace,
                    fmt::format("{}: {} {} % free", store.name, below ? "less than" : "again at least", percent));
  };
  told.on_damaged = [&events](const lvol::DamagedLvol& lvol) {
    events.announce(rpc::DeviceEvents::kLvolDamaged,
                    fmt::format("{}/{} (blob {:#x}): {}", lvol.store_name, lvol.name, lvol.blob_id, lvol.reason));
  };
  manager.set_events(std::move(told));
}

Layer lvol_stores(const LayerContext& context) {
  auto manager = std::make_shared<lvol::LvolManager>(context.devices, context.random.next());
  announce_lvol_events(*manager, context.events);
  Layer layer;
  layer.name = "lvol stores";
  layer.subsystem = "bdev";
  layer.add_methods = [manager, &devices = context.devices](rpc::MethodTable& methods) {
    rpc::add_lvol_store_methods(methods, devices, *manager);
    rpc::add_lvol_methods(methods, devices, *manager);
  };
  layer.examining = [manager] { return manager->examining(); };
  layer.stop = [manager] { return manager->stop(); };
  return layer;
}

// The vhost controllers and the list of their guests' memory.
struct Vhost {
  Vhost(std::shared_ptr<DmaRegions> memory, vhost::VhostManager::Options options)
      : regions(std::move(memory)), manager(std::move(options)) {}
  const std::shared_ptr<DmaRegions> regions;
  vhost::VhostManager manager;
};

Layer vhost_controllers(const LayerContext& context, std::shared_ptr<DmaRegions> regions) {
  Layer layer;
  layer.name = "vhost";
  layer.subsystem = "vhost_blk";
  vhost::VhostManager::Options options;
  options.main = &context.main();
  options.reactors = context.reactors;
  options.registry = &context.devices;
  options.socket_dir = context.vhost_dir;
  options.dma_regions = regions.get();
  auto both = std::make_shared<Vhost>(std::move(regions), std::move(options));
  const std::shared_ptr<vhost::VhostManager> manager(both, &both->manager);
  layer.add_methods = [manager](rpc::MethodTable& methods) { rpc::add_vhost_methods(methods, *manager); };
  layer.config_calls = [manager] { return manager->config_calls(); };
  layer.end_waits = [manager] { manager->end_waits(); };
  layer.stop = [manager] { return manager->close(); };
  return layer;
}

// The target and the list of the memory that it receives into and sends from.
struct NvmfTarget {
  NvmfTarget(const LayerContext& context, std::shared_ptr<DmaRegions> memory)
      : regions(std::move(memory)), target(context.reactors, context.devices, context.random.uuid(), regions.get()) {}
  const std::shared_ptr<DmaRegions> regions;
  nvmf::Target target;
};

Layer nvmf_target(const LayerContext& context, std::shared_ptr<DmaRegions> regions) {
  auto both = std::make_shared<NvmfTarget>(context, std::move(regions));
  const std::shared_ptr<nvmf::Target> target(both, &both->target);
  Layer layer;
  layer.name = "NVMe-oF target";
  layer.subsystem = "nvmf";
  layer.add_methods = [target](rpc::MethodTable& methods) { rpc::add_nvmf_methods(methods, *target); };
  layer.config_calls = [target] { return target->config_calls(); };
  layer.stop = [target] { return target->stop(); };
  return layer;
}

}  // namespace

std::vector<Layer> make_layers(const LayerContext& context) {
  std::vector<Layer> layers;
  // Guest memory and the target's buffers, which disks and the NVMe host may reach where they are.
  auto regions = std::make_shared<DmaRegions>();
  layers.push_back(disks(context));
  layers.push_back(nvme_host(context, regions));
  layers.push_back(mirrors(context));
  layers.push_back(lvol_stores(context));
  layers.push_back(vhost_controllers(context, regions));
  layers.push_back(nvmf_target(context, regions));
  return layers;
}

}  // namespace diskengine::app
