#include "rpc/methods_bdev_disk.h"

#include <fmt/format.h>

#include "disk/ram.h"
#include "disk/uring.h"
#include "rpc/params.h"

namespace diskengine::rpc {
namespace json = boost::json;

namespace {

// A process that was killed holds its files until the kernel has ended its last I/O.
constexpr uint64_t kHeldNs = 2'000'000'000;
constexpr uint64_t kHeldPollNs = 20'000'000;
// A disk that does not answer is examined longer than its maker waits.
constexpr uint64_t kExamineNs = 10'000'000'000;

// The first of prefix0, prefix1, ... that no device has.
std::string free_name(const DeviceRegistry& devices, std::string_view prefix) {
  for (size_t i = 0;; ++i) {
    std::string name = fmt::format("{}{}", prefix, i);
    if (!devices.find(name)) return name;
  }
}

template <typename Disk>
Result<std::shared_ptr<Disk>> find_as(const DeviceRegistry& devices, const std::string& name, std::string_view what) {
  TRY_ASSIGN(std::shared_ptr<Device> device, devices.find(name));
  std::shared_ptr<Disk> disk = std::dynamic_pointer_cast<Disk>(device);
  if (disk == nullptr)
    return Error(Errc::no_device, fmt::format("bdev '{}' is a {}, not a {}", name, device->info().product_name, what));
  return disk;
}

Task<Reply> remove(DeviceRegistry& devices, std::shared_ptr<Device> device) {
  const std::string name = device->name();
  device.reset();
  Task<Result<void>> removing = devices.remove(name);
  Result<void> removed = co_await removing;
  if (!removed) co_return removed.error();
  co_return json::value(true);
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
  Result<std::shared_ptr<RamDisk>> found = find_as<RamDisk>(devices, text_param(params, "name"), "RAM disk");
  if (!found) co_return found.error();
  Task<Reply> removing = remove(devices, std::move(*found));
  Reply reply = co_await removing;
  co_return reply;
}

Task<Reply> uring_create(DeviceRegistry& devices, Examination& examination, Random& random, UringDisk::Flavour flavour,
                         json::object params) {
  UringDisk::Options options;
  options.name = text_param(params, "name");
  options.path = text_param(params, "filename");
  options.block_size = static_cast<uint32_t>(uint_param(params, "block_size"));
  options.uuid = uuid_param(params, "uuid").value_or(Uuid{});
  if (options.uuid.is_nil()) options.uuid = random.uuid();
  options.read_only = flavour == UringDisk::Flavour::aio && bool_param(params, "readonly");
  options.flavour = flavour;
  if (devices.find(options.name))
    co_return Error(Errc::already_exists, fmt::format("there is a bdev named '{}' already", options.name));
  const uint64_t began_ns = devices.main_reactor().now_ns();
  Result<std::shared_ptr<UringDisk>> disk = UringDisk::create(options);
  while (!disk && disk.error().code() == Errc::busy && devices.main_reactor().now_ns() - began_ns < kHeldNs) {
    co_await sleep_for(devices.main_reactor(), kHeldPollNs);
    disk = UringDisk::create(options);
  }
  if (!disk) co_return disk.error();
  Result<void> added = devices.add(std::move(*disk));
  if (!added) co_return added.error();
  Task<void> examined = examination.wait(kExamineNs);
  co_await examined;
  co_return json::value(json::string(options.name));
}

Task<Reply> uring_delete(DeviceRegistry& devices, json::object params) {
  Result<std::shared_ptr<UringDisk>> found = find_as<UringDisk>(devices, text_param(params, "name"), "file disk");
  if (!found) co_return found.error();
  Task<Reply> removing = remove(devices, std::move(*found));
  Reply reply = co_await removing;
  co_return reply;
}

Task<Reply> uring_rescan(DeviceRegistry& devices, json::object params) {
  Result<std::shared_ptr<UringDisk>> found = find_as<UringDisk>(devices, text_param(params, "name"), "file disk");
  if (!found) co_return found.error();
  Result<void> rescanned = (*found)->rescan();
  if (!rescanned) co_return rescanned.error();
  co_return json::value(true);
}

}  // namespace

void add_disk_methods(MethodTable& methods, DeviceRegistry& devices, Examination& examination, Random& random) {
  methods.add("bdev_malloc_create",
              [&](json::object params) { return malloc_create(devices, random, std::move(params)); });
  methods.add("bdev_malloc_delete", [&](json::object params) { return malloc_delete(devices, std::move(params)); });
  // SPDK's two names for a disk in a file; here they are one.
  methods.add("bdev_uring_create", [&](json::object params) {
    return uring_create(devices, examination, random, UringDisk::Flavour::uring, std::move(params));
  });
  methods.add("bdev_aio_create", [&](json::object params) {
    return uring_create(devices, examination, random, UringDisk::Flavour::aio, std::move(params));
  });
  for (const char* name : {"bdev_uring_delete", "bdev_aio_delete"})
    methods.add(name, [&](json::object params) { return uring_delete(devices, std::move(params)); });
  for (const char* name : {"bdev_uring_rescan", "bdev_aio_rescan"})
    methods.add(name, [&](json::object params) { return uring_rescan(devices, std::move(params)); });
}

}  // namespace diskengine::rpc
