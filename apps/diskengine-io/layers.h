// The layers of the data plane, wired together: the one list of what this process is made of. To add a layer, write its
// function in layers.cpp and put it into make_layers().
//
// Threads: main reactor. Owned by the App, which destroys layers in reverse order after all have stopped.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "block/registry.h"
#include "history/machine.h"
#include "history/states.h"
#include "rpc/device_events.h"
#include "rpc/examination.h"
#include "rpc/method.h"
#include "runtime/random.h"
#include "runtime/reactor.h"
#include "runtime/task.h"

namespace diskengine::app {

// What layers are built on. The references outlive the layers; the context itself is only for make_layers().
struct LayerContext {
  std::vector<Reactor*> reactors;  // the first is the main one
  DeviceRegistry& devices;
  rpc::DeviceEvents& events;
  rpc::Examination& examination;
  Random& random;
  std::string vhost_dir;
  bool allow_no_iommu;

  Reactor& main() const { return *reactors.front(); }
};

// One layer: its manager, held by the closures, and what the process does with it. Empty functions: nothing to do.
struct Layer {
  std::string name;       // for the log
  std::string subsystem;  // SPDK's name of it, for framework_get_config: bdev, nvmf, vhost_blk, ...
  // Adds the layer's RPC methods.
  std::function<void(rpc::MethodTable&)> add_methods;
  // The calls that make its objects again, each the text of {"method":...,"params":{...}}, in an order that works. What
  // Device::config_json says comes after those of every layer of subsystem bdev, by itself, in order of creation.
  std::function<std::vector<std::string>()> config_calls;
  // Adds what is not as it is most of the time (paths that are down, rebuilds), for the history.
  std::function<void(std::vector<history::ObjectState>&)> states;
  // Adds how hot its disks are, as far as it knows, and finds that out anew for the next time, for the history.
  std::function<void(std::vector<history::DiskTemperature>&)> temperatures;
  // How many devices it is examining now (for superblocks and the like).
  std::function<uint64_t()> examining;
  // The process does not end because something is waited for that may never come: what waits so fails. Said again and
  // again until all layers have stopped.
  std::function<void()> end_waits;
  // Refuses new work, drains what is under way and gives up its devices. Layers stop in reverse order of the list.
  std::function<Task<void>()> stop;
};

// From the bottom of the path to its top.
std::vector<Layer> make_layers(const LayerContext& context);

}  // namespace diskengine::app
