#include "nvme/manager.h"

#include <fmt/format.h>

#include <algorithm>

#include "base/json_text.h"
#include "base/log.h"
#include "nvme/discovery.h"

namespace diskengine::nvme {
namespace {

constexpr std::string_view kSerial = "serial:";

std::string describe_warnings(const spec::SmartLog& log) {
  if (log.critical_warning == 0) return "well again";
  std::string text;
  const auto add = [&](uint8_t bit, const std::string& what) {
    if ((log.critical_warning & bit) != 0) text += (text.empty() ? "" : "; ") + what;
  };
  add(spec::kWarningSpare, fmt::format("{} % of its spare is left, below its threshold of {} %",
                                       log.available_spare_percent, log.available_spare_threshold_percent));
  add(spec::kWarningTemperature, fmt::format("its temperature is {} C, past a threshold", log.temperature_k() - 273));
  add(spec::kWarningReliability, fmt::format("degraded by media or internal errors ({} so far)", log.media_errors.low));
  add(spec::kWarningReadOnly, "takes no more writes");
  add(spec::kWarningBackup, "the backup of its volatile memory failed");
  add(spec::kWarningPersistentMemory, "its persistent memory cannot be relied on");
  if (text.empty()) text = fmt::format("critical warning {:#x}", log.critical_warning);
  return text;
}

}  // namespace

bool PathFilter::matches(const ControllerOptions& options) const {
  const auto same = [](const std::string& wanted, const std::string& found) {
    return wanted.empty() || wanted == found;
  };
  return same(transport, options.address.transport) && same(address, options.address.address) &&
         same(service, options.address.service) && same(subsystem_nqn, options.subsystem_nqn) &&
         same(host_address, options.address.host_address) && same(host_service, options.address.host_service);
}

HostManager::HostManager(Reactor& main, DeviceRegistry& devices, Transports transports, Random& random)
    : main_(main), devices_(devices), transports_(std::move(transports)), host_id_(random.uuid()) {
  host_nqn_ = "nqn.2014-08.org.nvmexpress:uuid:" + host_id_.to_string();
}

HostManager::~HostManager() { DE_ASSERT(entries_.empty() && discoveries_.empty()); }

Result<void> HostManager::set_options(const HostOptions& options) {
  TRY(check_loss_policy(options.loss));
  if (!entries_.empty())
    return Error(Errc::permission_denied,
                 "the options of NVMe controllers can only be set before the first one is attached");
  options_ = options;
  options_set_ = true;
  return {};
}

Result<fabric::HostTransport*> HostManager::transport_of(const fabric::HostAddress& address) const {
  if (auto at = transports_.find(address.transport); at != transports_.end()) return at->second;
  std::string known;
  for (const auto& [type, transport] : transports_) known += (known.empty() ? "" : ", ") + type;
  return Error(Errc::not_supported,
               fmt::format("transport type {} is not supported; these are: {}", address.transport, known));
}

Result<std::shared_ptr<Controller>> HostManager::find(std::string_view name) const {
  auto at = entries_.find(name);
  if (at == entries_.end() || at->second->attaching || at->second->detaching)
    return Error(Errc::no_device, fmt::format("there is no NVMe controller named '{}'", name));
  return at->second->controller;
}

std::vector<std::shared_ptr<Controller>> HostManager::all() const {
  std::vector<std::shared_ptr<Controller>> list;
  for (const auto& [name, entry] : entries_)
    if (!entry->attaching) list.push_back(entry->controller);
  return list;
}

// --- Attaching and detaching ----------------------------------------------------------------------------------------

Task<Result<std::vector<std::string>>> HostManager::attach(ControllerOptions options) {
  Gate::Pass pass(gate_);
  if (!pass || stopping_) co_return Error(Errc::canceled, "the process is stopping");
  const std::string name = options.name;
  Result<void> policy = check_loss_policy(options.loss);
  CO_TRY(policy);
  Result<fabric::HostTransport*> transport = transport_of(options.address);
  CO_TRY(transport);
  if (entries_.contains(name))
    co_return Error(Errc::already_exists, fmt::format("a controller named {} already exists", name));
  if (entries_.size() >= kControllersMax)
    co_return Error(Errc::no_space,
                    fmt::format("there are already {} controllers, the most this process holds", kControllersMax));
  if (options.host_nqn.empty()) options.host_nqn = host_nqn_;
  options.host_id = host_id_;
  if (options.address.address.starts_with(kSerial)) {
    Result<std::string> found = co_await find_serial(options, *transport);
    CO_TRY(found);
    options.address.address = std::move(*found);
    if (entries_.contains(name))  // taken while others were asked
      co_return Error(Errc::already_exists, fmt::format("a controller named {} already exists", name));
  }
  Entry& entry = *entries_.emplace(name, std::make_unique<Entry>()).first->second;
  ControllerEvents& events = *this;
  entry.controller = std::make_shared<Controller>(main_, **transport, options_, std::move(options), events);
  Task<Result<void>> starting = entry.controller->start();
  Result<void> started = co_await starting;
  entry.attaching = false;
  if (!started) {
    Task<Result<void>> undone = take_down(entry);
    Result<void> gone = co_await undone;
    entries_.erase(name);
    co_return started.error().with_context(fmt::format("cannot attach controller {}", name));
  }
  std::vector<std::string> names;
  for (const auto& [nsid, disk] : entry.disks) names.push_back(NvmeDisk::name_of(*entry.controller, nsid));
  co_return names;
}

// The serial number of the controller at an address; it is asked, and let go of again.
Task<Result<std::string>> HostManager::ask_serial(ControllerOptions options, fabric::HostTransport* transport) {
  for (const auto& [name, entry] : entries_)
    if (entry->controller && entry->controller->options().address.address == options.address.address) {
      const auto& serial = entry->controller->identity().serial_number;
      co_return text_of(serial, sizeof serial);
    }
  Association association(main_, *transport, options_, options, nullptr);
  Result<void> known = co_await association.establish();
  std::string serial;
  if (known) serial = text_of(association.identity().serial_number, sizeof association.identity().serial_number);
  Task<void> closing = association.shut_down();
  co_await closing;
  CO_TRY(known);
  co_return serial;
}

Task<Result<std::string>> HostManager::find_serial(ControllerOptions options, fabric::HostTransport* transport) {
  const std::string wanted = options.address.address.substr(kSerial.size());
  std::string others;
  for (const std::string& address : transport->addresses()) {
    options.address.address = address;
    Result<std::string> serial = co_await ask_serial(options, transport);
    if (serial && *serial == wanted) co_return address;
    others += fmt::format("{}{} {}", others.empty() ? "" : ", ", address,
                          serial ? "has " + *serial : "does not tell: " + serial.error().message());
  }
  co_return Error(Errc::not_found,
                  fmt::format("no NVMe controller that this process may drive has the serial number {} ({})", wanted,
                              others.empty() ? "there are none" : others));
}

Task<Result<void>> HostManager::detach(std::string name, PathFilter filter) {
  auto at = entries_.find(name);
  if (at == entries_.end() || at->second->attaching || at->second->detaching)
    co_return Error(Errc::no_device, fmt::format("there is no NVMe controller named '{}'", name));
  Entry& entry = *at->second;
  if (!filter.matches(entry.controller->options()))
    co_return Error(Errc::not_found, fmt::format("controller {} has no such path", name));
  Gate::Pass pass(gate_);
  if (!pass) co_return Error(Errc::canceled, "the process is stopping");
  entry.detaching = true;
  Task<Result<void>> taking = take_down(entry);
  Result<void> gone = co_await taking;
  entries_.erase(name);
  co_return gone;
}

// Removes the devices of a controller and stops it. Its I/O is let finish while it is connected; otherwise it fails.
Task<Result<void>> HostManager::take_down(Entry& entry) {
  entry.detaching = true;
  std::shared_ptr<Controller> controller = entry.controller;
  if (controller->state() != Controller::State::enabled) {
    Task<void> stopping = controller->stop();
    co_await stopping;
  }
  Result<void> outcome;
  while (!entry.disks.empty()) {
    const std::string device = NvmeDisk::name_of(*controller, entry.disks.begin()->first);
    entry.disks.erase(entry.disks.begin());
    Task<Result<void>> removing = devices_.remove(device, kDrainNs);
    Result<void> removed = co_await removing;
    if (!removed) outcome = removed;
  }
  Task<void> stopping = controller->stop();
  co_await stopping;
  co_return outcome;
}

Task<Result<void>> HostManager::reset(std::string name, uint16_t controller_id) {
  Result<std::shared_ptr<Controller>> found = find(name);
  if (!found) co_return found.error();
  std::shared_ptr<Controller> controller = *found;
  if (controller_id != 0 && controller->limits().controller_id != controller_id)
    co_return Error(Errc::no_device, fmt::format("controller {} has no controller id {}", name, controller_id));
  Gate::Pass pass(gate_);
  if (!pass) co_return Error(Errc::canceled, "the process is stopping");
  Task<Result<void>> resetting = controller->reset();
  Result<void> done = co_await resetting;
  co_return done;
}

Task<Result<spec::SmartLog>> HostManager::read_health(std::string name) {
  Result<std::shared_ptr<Controller>> found = find(name);
  if (!found) co_return found.error();
  std::shared_ptr<Controller> controller = *found;
  if (controller->association() == nullptr)
    co_return Error(Errc::unreachable, fmt::format("controller {} is not connected: {}", name, controller->reason()));
  Task<Result<spec::SmartLog>> reading = controller->read_health();
  Result<spec::SmartLog> log = co_await reading;
  co_return log;
}

Task<Result<std::vector<spec::ErrorLogEntry>>> HostManager::read_errors(std::string name) {
  Result<std::shared_ptr<Controller>> found = find(name);
  if (!found) co_return found.error();
  std::shared_ptr<Controller> controller = *found;
  Task<Result<std::vector<spec::ErrorLogEntry>>> reading = controller->read_errors();
  Result<std::vector<spec::ErrorLogEntry>> log = co_await reading;
  co_return log;
}

// --- Namespaces -----------------------------------------------------------------------------------------------------

void HostManager::on_namespaces(Controller& controller, const std::vector<NamespaceInfo>& namespaces) {
  auto at = entries_.find(controller.options().name);
  if (at == entries_.end() || at->second->detaching) return;
  Entry& entry = *at->second;
  std::vector<uint32_t> gone;
  for (const auto& [nsid, disk] : entry.disks) gone.push_back(nsid);
  for (const NamespaceInfo& info : namespaces) {
    auto known = entry.disks.find(info.nsid);
    std::shared_ptr<NvmeDisk> disk = known == entry.disks.end() ? nullptr : known->second.lock();
    if (disk != nullptr && disk->ns().uuid == info.uuid && disk->ns().block_size == info.block_size &&
        disk->ns().read_only == info.read_only) {
      std::erase(gone, info.nsid);
      if (disk->size_blocks() != info.size_blocks) {
        LOG_INFO("nvme", "{}: {} blocks, {} before", disk->name(), info.size_blocks, disk->size_blocks());
        disk->resize(info.size_blocks);
      }
      continue;
    }
    if (known != entry.disks.end()) {
      std::erase(gone, info.nsid);
      drop_disk(entry, info.nsid, "another namespace has taken its place");
    }
    add_disk(entry, info);
  }
  for (uint32_t nsid : gone) drop_disk(entry, nsid, "the controller does not show it any more");
}

void HostManager::add_disk(Entry& entry, const NamespaceInfo& info) {
  std::shared_ptr<NvmeDisk> disk = NvmeDisk::create(entry.controller, info);
  Result<void> added = devices_.add(disk);
  if (!added) {
    LOG_ERROR("nvme", "namespace {} of {} becomes no device: {}", info.nsid, entry.controller->options().name,
              added.error().message());
    return;
  }
  entry.disks[info.nsid] = disk;
}

void HostManager::drop_disk(Entry& entry, uint32_t nsid, const char* why) {
  entry.disks.erase(nsid);
  std::string name = NvmeDisk::name_of(*entry.controller, nsid);
  LOG_WARN("nvme", "{} goes away: {}", name, why);
  spawn(remove_device(std::move(name)));
}

Task<void> HostManager::remove_device(std::string name) {
  Gate::Pass pass(gate_);
  if (!pass) co_return;
  Task<Result<void>> removing = devices_.remove(name, kDrainNs);
  Result<void> removed = co_await removing;
  if (!removed) LOG_WARN("nvme", "{}", removed.error().message());
}

void HostManager::on_reconnected(Controller& controller, const std::vector<NamespaceInfo>& namespaces,
                                 bool unknown_lost, const std::shared_ptr<void>& hold) {
  const auto at = entries_.find(controller.options().name);
  if (at == entries_.end() || at->second->detaching) return;
  const std::map<uint32_t, std::weak_ptr<NvmeDisk>> disks = at->second->disks;
  for (const NamespaceInfo& info : namespaces) {
    const auto known = disks.find(info.nsid);
    const std::shared_ptr<NvmeDisk> disk = known == disks.end() ? nullptr : known->second.lock();
    if (disk == nullptr || disk->ns().uuid != info.uuid) continue;
    const Uuid before = disk->cache_instance();
    disk->set_cache_instance(info.cache);
    const bool unknown = before.is_nil() && info.cache.is_nil();
    if (unknown ? !unknown_lost : before == info.cache) continue;
    LOG_WARN("nvme", "{}: {}: what it had not flushed may be lost", disk->name(),
             info.cache.is_nil() ? "it does not say whether its target was started anew" : "its cache is another one");
    disk->announce_cache_lost(hold);
  }
}

void HostManager::on_health(Controller& controller, const spec::SmartLog& log) {
  const std::string& name = controller.options().name;
  const std::string what = describe_warnings(log);
  if (log.critical_warning == 0) {
    LOG_INFO("nvme", "{}: {}", name, what);
  } else {
    LOG_WARN("nvme", "{}: {}", name, what);
  }
  if (health_watcher_) health_watcher_(name, what);
}

void HostManager::on_given_up(Controller& controller) { spawn(detach_lost(controller.options().name)); }

Task<void> HostManager::detach_lost(std::string name) {
  Task<Result<void>> detaching = detach(name, {});
  Result<void> detached = co_await detaching;
  if (!detached) LOG_WARN("nvme", "{}", detached.error().message());
}

// --- Discovery ------------------------------------------------------------------------------------------------------

Task<Result<void>> HostManager::start_discovery(DiscoveryOptions options) {
  Gate::Pass pass(gate_);
  if (!pass || stopping_) co_return Error(Errc::canceled, "the process is stopping");
  const std::string name = options.name;
  Result<void> policy = check_loss_policy(options.controller.loss);
  CO_TRY(policy);
  Result<fabric::HostTransport*> transport = transport_of(options.controller.address);
  CO_TRY(transport);
  if (discoveries_.contains(name))
    co_return Error(Errc::already_exists, fmt::format("a discovery service named {} already runs", name));
  for (const auto& [other, service] : discoveries_)
    if (service->same_address(options.controller.address))
      co_return Error(Errc::already_exists,
                      fmt::format("discovery service {} already looks at {}:{}", other,
                                  options.controller.address.address, options.controller.address.service));
  if (discoveries_.size() >= kDiscoveriesMax)
    co_return Error(Errc::no_space, fmt::format("there are already {} discovery services", kDiscoveriesMax));
  options.controller.name = name;
  options.controller.subsystem_nqn = spec::kDiscoveryNqn;
  if (options.controller.host_nqn.empty()) options.controller.host_nqn = host_nqn_;
  options.controller.host_id = host_id_;
  const uint64_t timeout_ns = options.attach_timeout_ns;
  Discovery& service =
      *discoveries_.emplace(name, std::make_unique<Discovery>(*this, **transport, std::move(options))).first->second;
  service.run();
  if (timeout_ns == 0) co_return Result<void>{};
  Task<Result<void>> attaching = service.wait_attached(timeout_ns);
  Result<void> attached = co_await attaching;
  if (!attached) {
    Task<Result<void>> stopping = stop_discovery(name);
    Result<void> stopped = co_await stopping;
  }
  co_return attached;
}

Task<Result<void>> HostManager::stop_discovery(std::string name) {
  auto at = discoveries_.find(name);
  if (at == discoveries_.end() || at->second->stopping())
    co_return Error(Errc::not_found, fmt::format("there is no discovery service named '{}'", name));
  Task<void> stopping = at->second->stop();
  co_await stopping;
  discoveries_.erase(name);
  co_return Result<void>{};
}

std::vector<const Discovery*> HostManager::discoveries() const {
  std::vector<const Discovery*> list;
  for (const auto& [name, service] : discoveries_) list.push_back(service.get());
  return list;
}

// --- Configuration and the end --------------------------------------------------------------------------------------

namespace {

std::string loss_json(const LossPolicy& loss) {
  return fmt::format(R"("ctrlr_loss_timeout_sec":{},"reconnect_delay_sec":{},"fast_io_fail_timeout_sec":{})",
                     loss.controller_loss_s, loss.reconnect_delay_s, loss.fast_io_fail_s);
}

std::string attach_call(const ControllerOptions& options) {
  const fabric::HostAddress& address = options.address;
  if (address.transport == "PCIe")
    return fmt::format(
        R"({{"method":"bdev_nvme_attach_controller","params":{{"name":{},"trtype":"PCIe","traddr":{},"hostnqn":{},{},)"
        R"("num_io_queues":{}}}}})",
        json_quote(options.name), json_quote(address.address), json_quote(options.host_nqn), loss_json(options.loss),
        options.io_queues);
  std::string host;
  if (!address.host_address.empty()) host += fmt::format(R"(,"hostaddr":{})", json_quote(address.host_address));
  if (!address.host_service.empty()) host += fmt::format(R"(,"hostsvcid":{})", json_quote(address.host_service));
  return fmt::format(
      R"({{"method":"bdev_nvme_attach_controller","params":{{"name":{},"trtype":{},"adrfam":{},"traddr":{},"trsvcid":{},)"
      R"("subnqn":{},"hostnqn":{}{},"hdgst":{},"ddgst":{},{},"fabrics_connect_timeout_us":{},"num_io_queues":{}}}}})",
      json_quote(options.name), json_quote(address.transport), json_quote(options.address_family),
      json_quote(address.address), json_quote(address.service), json_quote(options.subsystem_nqn),
      json_quote(options.host_nqn), host, options.header_digest, options.data_digest, loss_json(options.loss),
      options.connect_timeout_us, options.io_queues);
}

const char* action_name(TimeoutAction action) {
  return action == TimeoutAction::none ? "none" : action == TimeoutAction::reset ? "reset" : "abort";
}

}  // namespace

std::vector<std::string> HostManager::config_calls() const {
  std::vector<std::string> calls;
  if (options_set_)
    calls.push_back(fmt::format(
        R"({{"method":"bdev_nvme_set_options","params":{{"action_on_timeout":"{}","timeout_us":{},"timeout_admin_us":{},)"
        R"("keep_alive_timeout_ms":{},"io_queue_requests":{},"bdev_retry_count":{},{}}}}})",
        action_name(options_.action_on_timeout), options_.timeout_us, options_.timeout_admin_us, options_.keep_alive_ms,
        options_.io_queue_requests, options_.retries, loss_json(options_.loss)));
  for (const auto& [name, entry] : entries_)
    if (!entry->attaching && !entry->detaching && !entry->controller->options().from_discovery)
      calls.push_back(attach_call(entry->controller->options()));
  for (const auto& [name, service] : discoveries_) {
    const ControllerOptions& options = service->options().controller;
    calls.push_back(fmt::format(
        R"({{"method":"bdev_nvme_start_discovery","params":{{"name":{},"hostnqn":{},"trtype":{},"adrfam":{},"traddr":{},)"
        R"("trsvcid":{},"wait_for_attach":{},{}}}}})",
        json_quote(name), json_quote(options.host_nqn), json_quote(options.address.transport),
        json_quote(options.address_family), json_quote(options.address.address), json_quote(options.address.service),
        service->options().attach_timeout_ns != 0, loss_json(options.loss)));
  }
  return calls;
}

void HostManager::end_waits() {
  for (const auto& [name, entry] : entries_) entry->controller->end_waits();
}

Task<void> HostManager::stop() {
  stopping_ = true;
  while (!discoveries_.empty()) {
    const std::string name = discoveries_.begin()->first;
    Task<Result<void>> stopping = stop_discovery(name);
    Result<void> stopped = co_await stopping;
    if (!stopped) co_await sleep_for(main_, 1'000'000);  // someone else is stopping it
  }
  while (!entries_.empty()) {
    const std::string name = entries_.begin()->first;
    Task<Result<void>> detaching = detach(name, {});
    Result<void> detached = co_await detaching;
    if (detached) continue;
    if (entries_.contains(name)) {
      co_await sleep_for(main_, 1'000'000);  // on its way in or out
    } else {
      LOG_WARN("nvme", "{}", detached.error().message());
    }
  }
  OneShot<bool> left(main_);
  gate_.close([&left] { left.set(true); });
  co_await left;
}

}  // namespace diskengine::nvme
