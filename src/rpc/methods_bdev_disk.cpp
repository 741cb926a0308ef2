#include "rpc/methods_bdev_disk.h"

#include <fmt/format.h>

#include "disk/ram.h"
#include "rpc/params.h"

namespace diskengine::rpc {
namespace json = boost::json;

namespace {

// The first of prefix0, prefix1, ... that no device has.
std::string free_name(const DeviceRegistry& devices, std::string_view prefix) {
  for (size_t i = 0;; ++i) {
    std::string name = fmt::format("{}{}", prefix, i);
    if (!devices.find(name)) return name;
  }
}

Task<Reply> malloc_create(DeviceRegistry& devices, Random& random, json::object params) {
  RamDisk::Options options;
  options.name = has(params, "name") ? text_param(params, "name") : free_name(devices, "Malloc");
  options.uuid = uuid_param(params, "uuid").value_or(Uuid{});
  if (options.uuid.is_nil()) options.uuid = random.uuid();
  options.block_size = static_cast<uint32_t>(uint_param(params, "block_size"));
  options.size_blocks = uint_param(params, "num_blocks");
  Result<std::shared_ptr<RamDisk>> disk = RamDisk::create(std::move(options));
  if (!disk) co_return disk.error();
  std::string name = (*disk)->name();
  Result<void> added = devices.add(std::move(*disk));
  if (!added) co_return added.error();
  co_return json::value(json::string(name));
}

Task<Reply> malloc_delete(DeviceRegistry& devices, json::object params) {
  const std::string name = text_param(params, "name");
  Result<std::shared_ptr<Device>> found = devices.find(name);
  if (!found) co_return found.error();
  if (dynamic_cast<RamDisk*>(found->get()) == nullptr)
    co_return Error(Errc::no_device,
                    fmt::format("bdev '{}' is a {}, not a RAM disk", name, (*found)->info().product_name));
  found->reset();
  Task<Result<void>> removing = devices.remove(name);
  Result<void> removed = co_await removing;
  if (!removed) co_return removed.error();
  co_return json::value(true);
}

}  // namespace

void add_disk_methods(MethodTable& methods, DeviceRegistry& devices, Random& random) {
  methods.add("bdev_malloc_create",
              [&](json::object params) { return malloc_create(devices, random, std::move(params)); });
  methods.add("bdev_malloc_delete", [&](json::object params) { return malloc_delete(devices, std::move(params)); });
}

}  // namespace diskengine::rpc
