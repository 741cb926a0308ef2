#include "layers.h"

#include "rpc/methods_bdev_decorators.h"
#include "rpc/methods_bdev_disk.h"
#include "rpc/methods_perf.h"

namespace diskengine::app {
namespace {

Layer disks(const LayerContext& context) {
  Layer layer;
  layer.name = "disks";
  layer.subsystem = "bdev";
  layer.add_methods = [&devices = context.devices, &random = context.random](rpc::MethodTable& methods) {
    rpc::add_disk_methods(methods, devices, random);
    rpc::add_decorator_methods(methods, devices, random);
    rpc::add_perf_methods(methods, devices);
  };
  return layer;
}

}  // namespace

std::vector<Layer> make_layers(const LayerContext& context) {
  std::vector<Layer> layers;
  layers.push_back(disks(context));
  return layers;
}

}  // namespace diskengine::app
