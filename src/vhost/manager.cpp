#include "vhost/manager.h"

#include <fmt/format.h>

#include <algorithm>

#include "base/log.h"
#include "vhost/cpu_mask.h"

namespace diskengine::vhost {
namespace {

unsigned core_of(const Reactor& reactor) {
  return reactor.cpu() >= 0 ? static_cast<unsigned>(reactor.cpu()) : reactor.id();
}

// It names a file, and stands unescaped in JSON.
bool valid_name(std::string_view name) {
  const auto bad = [](char c) { return c == '/' || c == '"' || c == '\\' || c < ' ' || c == 0x7f; };
  return !name.empty() && name != "." && name != ".." && std::none_of(name.begin(), name.end(), bad);
}

Error no_such_controller(std::string_view name) {
  return Error(Errc::no_device, fmt::format("there is no vhost controller '{}'", name));
}

}  // namespace

VhostManager::VhostManager(Options options)
    : options_(std::move(options)), unmapper_(std::make_shared<Unmapper>(options_.dma_regions)) {
  DE_ASSERT(options_.main != nullptr && options_.registry != nullptr && !options_.reactors.empty());
  if (Result<void> installed = FaultGuard::install(); !installed)
    LOG_ERROR("vhost", "a front end that shrinks its memory will end this process: {}", installed.error().message());
}

VhostManager::~VhostManager() { DE_ASSERT(controllers_.empty()); }

Result<VhostManager::Placement> VhostManager::place(const std::string& cpumask) const {
  Placement placement;
  std::vector<unsigned> wanted;
  if (cpumask.empty()) {
    for (const Reactor* reactor : options_.reactors) wanted.push_back(core_of(*reactor));
  } else {
    TRY_ASSIGN(wanted, parse_cpu_mask(cpumask));
  }
  for (const unsigned core : wanted) {
    const auto at = std::find_if(options_.reactors.begin(), options_.reactors.end(),
                                 [core](const Reactor* reactor) { return core_of(*reactor) == core; });
    if (at == options_.reactors.end())
      return Error(Errc::invalid_argument, fmt::format("cpumask {}: no reactor runs on core {}", cpumask, core));
    placement.reactors.push_back(*at);
  }
  placement.mask = format_cpu_mask(wanted);
  return placement;
}

Result<void> VhostManager::create_blk_controller(const BlkOptions& options) {
  const std::string& name = options.name;
  if (!valid_name(name))
    return Error(Errc::invalid_argument, fmt::format("'{}' cannot name a controller: it names its socket", name));
  if (controllers_.contains(name))
    return Error(Errc::already_exists, fmt::format("there is a vhost controller '{}' already", name));
  if (controllers_.size() >= kControllersMax)
    return Error(Errc::no_space, fmt::format("there are {} vhost controllers already", kControllersMax));
  TRY_ASSIGN(Placement placement, place(options.cpumask));
  TRY_ASSIGN(std::shared_ptr<Device> device, options_.registry->find(options.device));
  Controller::Options made;
  made.name = name;
  made.socket_path = options_.socket_dir.empty() ? name : options_.socket_dir + "/" + name;
  made.device = std::move(device);
  made.read_only = options.read_only;
  made.first_reactor = created_ % placement.reactors.size();
  made.reactors = std::move(placement.reactors);
  made.cpumask = std::move(placement.mask);
  made.placed = !options.cpumask.empty();
  TRY_ASSIGN(std::unique_ptr<Controller> controller, Controller::create(std::move(made), *options_.main, unmapper_));
  controllers_.emplace(name, std::move(controller));
  ++created_;
  return {};
}

Task<Result<void>> VhostManager::delete_controller(std::string name) {
  const auto at = controllers_.find(name);
  if (at == controllers_.end()) co_return no_such_controller(name);
  std::unique_ptr<Controller> controller = std::move(at->second);
  controllers_.erase(at);
  closing_.push_back(controller.get());
  co_await controller->close();
  std::erase(closing_, controller.get());
  co_return Result<void>();
}

Result<void> VhostManager::set_coalescing(std::string_view name, const Coalescing& coalescing) {
  const auto at = controllers_.find(name);
  if (at == controllers_.end()) return no_such_controller(name);
  constexpr uint32_t kDelayMaxUs = 1'000'000;
  if (coalescing.iops_threshold == 0 || coalescing.delay_base_us > kDelayMaxUs)
    return Error(Errc::invalid_argument, fmt::format("coalescing of {} us from {} I/Os a second on: the delay is at "
                                                     "most {} us, the threshold at least 1",
                                                     coalescing.delay_base_us, coalescing.iops_threshold, kDelayMaxUs));
  at->second->set_coalescing(coalescing);
  return {};
}

Task<void> VhostManager::refresh_progress() {
  for (const auto& [name, controller] : controllers_) controller->refresh_progress();
  for (Reactor* reactor : options_.reactors) {
    // Messages stay in order: this one comes back after the looks that were posted before it.
    std::function<bool()> nothing = [] { return true; };
    auto call = call_on<bool>(*reactor, std::move(nothing));
    co_await call;
  }
}

Result<const Controller*> VhostManager::find(std::string_view name) const {
  const auto at = controllers_.find(name);
  if (at == controllers_.end()) return no_such_controller(name);
  return at->second.get();
}

std::vector<const Controller*> VhostManager::all() const {
  std::vector<const Controller*> all;
  for (const auto& [name, controller] : controllers_) all.push_back(controller.get());
  return all;
}

std::vector<std::string> VhostManager::config_calls() const {
  std::vector<std::string> calls;
  for (const auto& [name, controller] : controllers_) {
    if (controller->device() == nullptr) continue;
    // Only if it was asked for: the next process may have other reactors.
    const std::string cpumask =
        controller->placed() ? fmt::format(R"(,"cpumask":"{}")", controller->cpumask()) : std::string();
    calls.push_back(fmt::format(R"({{"method":"vhost_create_blk_controller","params":{{"ctrlr":"{}","dev_name":"{}",)"
                                R"("readonly":{},"transport":"{}"{}}}}})",
                                name, controller->device()->name(), controller->read_only(), kTransport, cpumask));
    const Coalescing& coalescing = controller->coalescing();
    if (coalescing.delay_base_us == 0) continue;
    calls.push_back(fmt::format(R"({{"method":"vhost_controller_set_coalescing","params":{{"ctrlr":"{}",)"
                                R"("delay_base_us":{},"iops_threshold":{}}}}})",
                                name, coalescing.delay_base_us, coalescing.iops_threshold));
  }
  return calls;
}

void VhostManager::end_waits() {
  for (const auto& [name, controller] : controllers_) controller->leave_failures();
  for (Controller* controller : closing_) controller->leave_failures();
}

Task<void> VhostManager::close() {
  while (!controllers_.empty()) {
    std::string name = controllers_.begin()->first;
    Result<void> deleted = co_await delete_controller(std::move(name));
    DE_ASSERT(deleted.has_value());
  }
}

}  // namespace diskengine::vhost
