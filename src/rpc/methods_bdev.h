// The methods that every bdev has (SPDK: bdev_get_bdevs, bdev_examine, bdev_set_options). Those that make bdevs stand
// in the files of their layers.
#pragma once

#include <string>
#include <vector>

#include "block/registry.h"
#include "rpc/device_events.h"
#include "rpc/dispatcher.h"
#include "rpc/examination.h"
#include "rpc/method.h"

namespace diskengine::rpc {

// What these methods need; outlives the table.
struct BdevControl {
  DeviceRegistry& devices;
  const DeviceEvents& events;
  const Dispatcher& dispatcher;
  Examination& examination;
  // As bdev_set_options and iobuf_set_options set them: kept for SPDK's clients, which read them back. Here requests
  // and buffers are sized by the queues that are created.
  boost::json::object bdev_options;
  boost::json::object iobuf_options;
};

void add_bdev_methods(MethodTable& methods, BdevControl& control);

// The calls that save the options and, in order of creation, the devices that say how to make them again.
std::vector<std::string> bdev_option_calls(const BdevControl& control);
std::vector<std::string> bdev_device_calls(const BdevControl& control);
std::vector<std::string> iobuf_calls(const BdevControl& control);

}  // namespace diskengine::rpc
