#include "rpc/methods_bdev_decorators.h"

#include <fmt/format.h>

#include "block/decorators/delay.h"
#include "block/decorators/error.h"
#include "rpc/params.h"

namespace diskengine::rpc {
namespace json = boost::json;

namespace {

template <typename Disk>
Result<std::shared_ptr<Disk>> find_as(const DeviceRegistry& devices, const std::string& name, std::string_view what) {
  TRY_ASSIGN(std::shared_ptr<Device> device, devices.find(name));
  std::shared_ptr<Disk> disk = std::dynamic_pointer_cast<Disk>(device);
  if (disk == nullptr)
    return Error(Errc::no_device, fmt::format("bdev '{}' is a {}, not {}", name, device->info().product_name, what));
  return disk;
}

template <typename Disk>
Task<Reply> remove(DeviceRegistry& devices, std::string name, std::string_view what) {
  Result<std::shared_ptr<Disk>> found = find_as<Disk>(devices, name, what);
  if (!found) co_return found.error();
  found->reset();
  Task<Result<void>> removing = devices.remove(name);
  Result<void> removed = co_await removing;
  if (!removed) co_return removed.error();
  co_return json::value(true);
}

Task<Reply> error_create(DeviceRegistry& devices, Random& random, json::object params) {
  ErrorDisk::Options options;
  options.base_name = text_param(params, "base_name");
  options.uuid = uuid_param(params, "uuid").value_or(random.uuid());
  Result<std::shared_ptr<ErrorDisk>> disk = ErrorDisk::create(devices, options);
  if (!disk) co_return disk.error();
  Result<void> added = devices.add(std::move(*disk));
  if (!added) co_return added.error();
  co_return json::value(true);
}

ErrorDisk::Kind kind_of(std::string_view error_type) {
  if (error_type == "pending") return ErrorDisk::Kind::pending;
  if (error_type == "corrupt_data") return ErrorDisk::Kind::corrupt_data;
  if (error_type == "nomem") return ErrorDisk::Kind::no_memory;
  if (error_type == "nvme_failure") return ErrorDisk::Kind::nvme_failure;
  return ErrorDisk::Kind::failure;
}

std::optional<Op> op_of(std::string_view io_type) {
  if (io_type == "read") return Op::read;
  if (io_type == "write") return Op::write;
  if (io_type == "flush") return Op::flush;
  if (io_type == "unmap") return Op::unmap;
  return std::nullopt;
}

Task<Reply> error_inject(DeviceRegistry& devices, json::object params) {
  Result<std::shared_ptr<ErrorDisk>> found =
      find_as<ErrorDisk>(devices, text_param(params, "name"), "an error injection device");
  if (!found) co_return found.error();
  ErrorDisk& disk = **found;
  const std::string io_type = text_param(params, "io_type");
  ErrorDisk::Injection injection;
  injection.kind = kind_of(text_param(params, "error_type"));
  injection.count = static_cast<uint32_t>(uint_param(params, "num"));
  injection.queue_depth = uint_param(params, "queue_depth");
  injection.corrupt_offset = uint_param(params, "corrupt_offset");
  injection.corrupt_value = static_cast<uint8_t>(uint_param(params, "corrupt_value"));
  injection.nvme_sct = static_cast<uint8_t>(uint_param(params, "nvme_sct"));
  injection.nvme_sc = static_cast<uint8_t>(uint_param(params, "nvme_sc"));
  if (injection.kind == ErrorDisk::Kind::corrupt_data && injection.corrupt_value == 0)
    co_return Error(Errc::invalid_argument, "corrupt_value must not be 0: it is exclusive-or'd into the data");
  const bool has_status = injection.nvme_sct != 0 || injection.nvme_sc != 0;
  if ((injection.kind == ErrorDisk::Kind::nvme_failure) != has_status)
    co_return Error(Errc::invalid_argument,
                    "nvme_sct or nvme_sc belong to the error type nvme_failure, which needs them");
  if (io_type == "clear") {
    disk.clear();
  } else {
    disk.inject(op_of(io_type), injection);
  }
  co_return json::value(true);
}

Task<Reply> error_resume(DeviceRegistry& devices, json::object params) {
  Result<std::shared_ptr<ErrorDisk>> found =
      find_as<ErrorDisk>(devices, text_param(params, "name"), "an error injection device");
  if (!found) co_return found.error();
  (*found)->resume_pending();
  co_return json::value(true);
}

Task<Reply> delay_create(DeviceRegistry& devices, Random& random, json::object params) {
  DelayDisk::Options options;
  options.name = text_param(params, "name");
  options.base_name = text_param(params, "base_bdev_name");
  options.uuid = uuid_param(params, "uuid").value_or(random.uuid());
  options.latency_us = {uint_param(params, "avg_read_latency"), uint_param(params, "p99_read_latency"),
                        uint_param(params, "avg_write_latency"), uint_param(params, "p99_write_latency")};
  options.seed = random.next();
  Result<std::shared_ptr<DelayDisk>> disk = DelayDisk::create(devices, options);
  if (!disk) co_return disk.error();
  Result<void> added = devices.add(std::move(*disk));
  if (!added) co_return added.error();
  co_return json::value(json::string(options.name));
}

// Answers with SPDK's codes, which are JSON-RPC's and not errnos here.
Task<Reply> delay_update(DeviceRegistry& devices, json::object params) {
  const std::string name = text_param(params, "delay_bdev_name");
  Result<std::shared_ptr<Device>> found = devices.find(name);
  if (!found) co_return Fault{kInvalidParams, found.error().message()};
  auto* disk = dynamic_cast<DelayDisk*>(found->get());
  if (disk == nullptr)
    co_return Fault{kInvalidRequest,
                    fmt::format("bdev '{}' is a {}, not a delay device", name, (*found)->info().product_name)};
  const std::string type = text_param(params, "latency_type");
  const DelayDisk::Latency which = type == "avg_read"    ? DelayDisk::Latency::avg_read
                                   : type == "p99_read"  ? DelayDisk::Latency::p99_read
                                   : type == "avg_write" ? DelayDisk::Latency::avg_write
                                                         : DelayDisk::Latency::p99_write;
  Result<void> set = disk->set_latency(which, uint_param(params, "latency_us"));
  if (!set) co_return set.error();
  co_return json::value(true);
}

}  // namespace

void add_decorator_methods(MethodTable& methods, DeviceRegistry& devices, Random& random) {
  methods.add("bdev_error_create",
              [&](json::object params) { return error_create(devices, random, std::move(params)); });
  methods.add("bdev_error_delete", [&](json::object params) {
    return remove<ErrorDisk>(devices, text_param(params, "name"), "an error injection device");
  });
  methods.add("bdev_error_inject_error", [&](json::object params) { return error_inject(devices, std::move(params)); });
  methods.add("bdev_error_resume_pending",
              [&](json::object params) { return error_resume(devices, std::move(params)); });
  methods.add("bdev_delay_create",
              [&](json::object params) { return delay_create(devices, random, std::move(params)); });
  methods.add("bdev_delay_delete", [&](json::object params) {
    return remove<DelayDisk>(devices, text_param(params, "name"), "a delay device");
  });
  methods.add("bdev_delay_update_latency",
              [&](json::object params) { return delay_update(devices, std::move(params)); });
}

}  // namespace diskengine::rpc
