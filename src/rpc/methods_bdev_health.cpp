#include "rpc/methods_bdev_health.h"

#include <fmt/format.h>

#include <memory>
#include <thread>

#include "disk/nvme_passthrough.h"
#include "disk/uring.h"
#include "nvme/disk.h"
#include "rpc/nvme_health.h"
#include "rpc/params.h"

namespace diskengine::rpc {
namespace json = boost::json;

namespace {

// The kernel passes the commands on while it waits, which a reactor must not.
Task<Reply> health_of_file(Reactor& reactor, std::string path) {
  OneShot<std::shared_ptr<Result<NvmeHealth>>> asked(reactor);
  std::thread thread([&] {
    auto answer = std::make_shared<Result<NvmeHealth>>(read_nvme_health(path));
    reactor.post([&asked, answer] { asked.set(answer); });
  });
  const std::shared_ptr<Result<NvmeHealth>> health = co_await asked;
  thread.join();
  if (!*health) co_return health->error();
  co_return json::value(health_info((*health)->identity, (*health)->log, (*health)->controller));
}

Task<Reply> health_of_controller(nvme::HostManager& host, std::shared_ptr<nvme::NvmeDisk> disk) {
  Task<Result<spec::SmartLog>> reading = host.read_health(disk->controller().options().name);
  Result<spec::SmartLog> log = co_await reading;
  if (!log) co_return log.error();
  co_return json::value(health_info(disk->controller().identity(), *log, disk->controller().options().address.address));
}

Task<Reply> get_health(DeviceRegistry& devices, nvme::HostManager& host, json::object params) {
  Result<std::shared_ptr<Device>> found = devices.find(text_param(params, "name"));
  if (!found) co_return found.error();
  if (auto disk = std::dynamic_pointer_cast<nvme::NvmeDisk>(*found)) {
    Task<Reply> asking = health_of_controller(host, std::move(disk));
    Reply reply = co_await asking;
    co_return reply;
  }
  const auto file = std::dynamic_pointer_cast<UringDisk>(*found);
  if (file == nullptr)
    co_return Error(Errc::not_supported, fmt::format("'{}' is a {}, which has no health of its own", (*found)->name(),
                                                     (*found)->info().product_name));
  Task<Reply> asking = health_of_file(devices.main_reactor(), file->path());
  Reply reply = co_await asking;
  co_return reply;
}

}  // namespace

void add_health_methods(MethodTable& methods, DeviceRegistry& devices, nvme::HostManager& host) {
  methods.add("diskengine_bdev_get_health",
              [&](json::object params) { return get_health(devices, host, std::move(params)); });
}

}  // namespace diskengine::rpc
