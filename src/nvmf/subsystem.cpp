#include "nvmf/subsystem.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>

#include "base/log.h"
#include "nvmf/target.h"

namespace diskengine::nvmf {

uint64_t epoch_of_host(std::string_view host_nqn) noexcept {
  constexpr std::string_view kMark = ":host:";
  const size_t mark = host_nqn.rfind(kMark);
  const size_t colon = host_nqn.rfind(':');
  if (mark == std::string_view::npos || colon < mark + kMark.size()) return 0;
  const std::string_view digits = host_nqn.substr(colon + 1);
  uint64_t epoch = 0;
  const auto [stop, error] = std::from_chars(digits.data(), digits.data() + digits.size(), epoch);
  return error == std::errc() && stop == digits.data() + digits.size() ? epoch : 0;
}

Namespace::Namespace(Subsystem& subsystem, uint32_t nsid, std::shared_ptr<Device> device, NamespaceOptions options)
    : subsystem_(subsystem), nsid_(nsid), device_(std::move(device)), options_(std::move(options)), ids_(options_.ids) {
  if (!options_.uuid_given) ids_.uuid = device_->info().uuid;
  if (!options_.nguid_given) ids_.nguid = ids_.uuid.bytes;
  device_->watch(*this);
}

Namespace::~Namespace() {
  device_->unwatch(*this);
  device_->release();
}

void Namespace::on_removed(Device& device) {
  LOG_INFO("nvmf", "subsystem {}: namespace {} goes: its device '{}' was removed", subsystem_.nqn(), nsid_,
           device.name());
  if (removing) return;
  Gate& tasks = subsystem_.target().tasks();
  if (!tasks.enter()) return;
  spawn<Result<void>>(subsystem_.remove_namespace(nsid_), [&tasks](Result<void>) { tasks.leave(); });
}

void Namespace::on_resized(Device&) { subsystem_.namespace_changed(nsid_); }

// Someone who waits for controllers to go.
struct Subsystem::Waiter {
  Waiter(Reactor& reactor, std::function<bool(const Controller&)> m)
      : matches(std::move(m)), gone(reactor), limit([this] {
          if (!gone.is_set()) gone.set(false);
        }) {}
  std::function<bool(const Controller&)> matches;
  OneShot<bool> gone;
  Timer limit;
};

Subsystem::Subsystem(Target& target, SubsystemOptions options)
    : target_(target), options_(std::move(options)), next_cntlid_(options_.min_cntlid) {}

Subsystem::~Subsystem() {
  DE_ASSERT(controllers_.empty() && namespaces_.empty() && waiters_.empty());
  // Each reactor's ports die there.
  for (auto& [reactor, ports] : ports_) reactor->post([last = std::move(ports)]() mutable { last.reset(); });
}

const Namespace* Subsystem::find_namespace(uint32_t nsid) const noexcept {
  const auto at = namespaces_.find(nsid);
  return at == namespaces_.end() || at->second->removing ? nullptr : at->second.get();
}

std::vector<uint32_t> Subsystem::namespace_ids_after(uint32_t nsid, size_t most) const {
  std::vector<uint32_t> list;
  for (auto at = namespaces_.upper_bound(nsid); at != namespaces_.end() && list.size() < most; ++at)
    if (!at->second->removing) list.push_back(at->first);
  return list;
}

bool Subsystem::every_namespace_compares() const noexcept {
  return std::all_of(namespaces_.begin(), namespaces_.end(),
                     [](const auto& entry) { return entry.second->device().info().can_compare; });
}

bool Subsystem::any_namespace_caches() const noexcept {
  return std::any_of(namespaces_.begin(), namespaces_.end(),
                     [](const auto& entry) { return entry.second->device().info().write_cache; });
}

uint32_t Subsystem::free_nsid() const noexcept {
  uint32_t nsid = 1;
  for (const auto& [used, ns] : namespaces_) {
    if (used != nsid) break;
    ++nsid;
  }
  return nsid;
}

Result<uint32_t> Subsystem::add_namespace(NamespaceOptions options) {
  const uint32_t nsid = options.nsid != 0 ? options.nsid : free_nsid();
  if (nsid > options_.max_namespaces)
    return Error(Errc::out_of_range, fmt::format("subsystem {}: namespace id {} is past its {} namespaces", nqn(), nsid,
                                                 options_.max_namespaces));
  if (namespaces_.count(nsid) != 0)
    return Error(Errc::already_exists, fmt::format("subsystem {}: namespace id {} is taken", nqn(), nsid));
  TRY_ASSIGN(std::shared_ptr<Device> device, target_.devices().find(options.device));
  TRY(device->claim("nvmf " + nqn()));
  for (auto& [reactor, ports] : ports_) reactor->post([ports = ports, nsid, device] { ports->open(nsid, device); });
  namespaces_.emplace(nsid, std::make_unique<Namespace>(*this, nsid, std::move(device), std::move(options)));
  namespace_changed(nsid);
  return nsid;
}

Task<Result<void>> Subsystem::remove_namespace(uint32_t nsid) {
  const auto at = namespaces_.find(nsid);
  if (at == namespaces_.end() || at->second->removing)
    co_return Error(Errc::not_found, fmt::format("subsystem {} has no namespace {}", nqn(), nsid));
  at->second->removing = true;
  namespace_changed(nsid);
  Reactor& main = target_.main_reactor();
  OneShot<bool> closed(main);
  size_t left = ports_.size();
  for (auto& [reactor, ports] : ports_) {
    auto one_closed = [&main, &left, &closed] {
      main.post([&left, &closed] {
        if (--left == 0) closed.set(true);
      });
    };
    reactor->post([ports = ports, nsid, one_closed] { ports->close(nsid, one_closed); });
  }
  if (left > 0) co_await closed;
  namespaces_.erase(nsid);
  co_return Result<void>{};
}

void Subsystem::namespace_changed(uint32_t nsid) {
  for (auto& [id, controller] : controllers_) controller->namespace_changed(nsid);
}

void Subsystem::set_allow_any_host(bool allow) {
  options_.allow_any_host = allow;
  target_.discovery_changed();
}

bool Subsystem::allows(const std::string& host_nqn) const noexcept {
  const uint64_t held = epoch();
  if (held != 0 && epoch_of_host(host_nqn) != held) return false;
  return options_.allow_any_host || hosts_.find(host_nqn) != hosts_.end();
}

uint64_t Subsystem::epoch() const noexcept {
  uint64_t highest = epoch_;
  for (const auto& [nsid, ns] : namespaces_) highest = std::max(highest, ns->device().writer_epoch());
  return highest;
}

Task<Result<void>> Subsystem::set_epoch(uint64_t epoch) {
  if (epoch < this->epoch())
    co_return Error(Errc::conflict,
                    fmt::format("subsystem {}: epoch {} is over, {} began", nqn(), epoch, this->epoch()));
  epoch_ = epoch;  // refused from now on, even if it cannot be kept
  std::vector<std::shared_ptr<Device>> devices;
  for (const auto& [nsid, ns] : namespaces_) devices.push_back(ns->device_ref());
  for (const std::shared_ptr<Device>& device : devices) {
    Task<Result<void>> setting = device->set_writer_epoch(epoch);
    const Result<void> set = co_await setting;
    if (!set && set.error().code() != Errc::not_supported) co_return set;
  }
  for (auto& [id, controller] : controllers_)
    if (!allows(controller->host_nqn())) controller->disconnect("the epoch of its host is over");
  target_.discovery_changed();
  co_return Result<void>{};
}

bool Subsystem::make_way() {
  if (epoch() == 0 || controllers_.empty()) return true;
  disconnect_all("its host, or a later one, connects anew");
  return false;
}

Result<void> Subsystem::add_host(const std::string& host_nqn) {
  TRY(check_nqn(host_nqn));
  if (const uint64_t held = epoch(); held != 0 && epoch_of_host(host_nqn) != held)
    return Error(Errc::conflict,
                 fmt::format("subsystem {} is held by epoch {}, which host {} does not have", nqn(), held, host_nqn));
  if (hosts_.size() >= kHostsMax)
    return Error(Errc::out_of_range, fmt::format("subsystem {} has its limit of {} hosts", nqn(), kHostsMax));
  if (!hosts_.insert(host_nqn).second)
    return Error(Errc::already_exists, fmt::format("subsystem {} admits host {} already", nqn(), host_nqn));
  target_.discovery_changed();
  return {};
}

Task<Result<void>> Subsystem::remove_host(std::string host_nqn, uint64_t timeout_ns) {
  if (hosts_.erase(host_nqn) == 0)
    co_return Error(Errc::not_found, fmt::format("subsystem {} has no host {} on its list", nqn(), host_nqn));
  target_.discovery_changed();
  if (allows(host_nqn)) co_return Result<void>{};
  for (auto& [id, controller] : controllers_)
    if (controller->host_nqn() == host_nqn) controller->disconnect("the host was removed from the access list");
  std::function<bool(const Controller&)> is_its = [host_nqn](const Controller& c) { return c.host_nqn() == host_nqn; };
  Task<bool> waiting = wait_gone(is_its, timeout_ns);
  const bool gone = co_await waiting;
  if (!gone)
    co_return Error(Errc::timed_out, fmt::format("subsystem {}: I/O of host {} is still under way after {} ms; it is "
                                                 "not cut off yet",
                                                 nqn(), host_nqn, timeout_ns / 1'000'000));
  co_return Result<void>{};
}

bool Subsystem::listens_on(const fabric::Address& address) const noexcept {
  return std::find(listeners_.begin(), listeners_.end(), address) != listeners_.end();
}

bool Subsystem::remove_listener(const fabric::Address& address) {
  if (std::erase(listeners_, address) == 0) return false;
  for (auto& [id, controller] : controllers_)
    for (QueueRecord* queue : controller->queues())
      if (queue->listen_address == address) target_.disconnect(*queue, "its listener was removed");
  return true;
}

std::shared_ptr<Controller> Subsystem::make_controller(std::string host_nqn, const Uuid& host_id,
                                                       uint32_t keep_alive_ms, QueueRecord& admin) {
  const size_t range = size_t{options_.max_cntlid} - options_.min_cntlid + 1;
  if (controllers_.size() >= std::min(range, kControllersMax)) return nullptr;
  while (controllers_.count(next_cntlid_) != 0)
    next_cntlid_ = next_cntlid_ >= options_.max_cntlid ? options_.min_cntlid : next_cntlid_ + 1;
  const uint16_t id = next_cntlid_;
  next_cntlid_ = id >= options_.max_cntlid ? options_.min_cntlid : static_cast<uint16_t>(id + 1);
  auto controller = std::make_shared<Controller>(
      *this,
      Controller::Identity{
          .id = id, .host_nqn = std::move(host_nqn), .host_id = host_id, .keep_alive_ms = keep_alive_ms},
      admin);
  controllers_.emplace(id, controller);
  return controller;
}

void Subsystem::forget(Controller& controller) {
  controllers_.erase(controller.id());
  for (Waiter* waiter : waiters_)
    if (!waiter->gone.is_set() && !any_matches(waiter->matches)) waiter->gone.set(true);
}

bool Subsystem::any_matches(const std::function<bool(const Controller&)>& matches) const {
  return std::any_of(controllers_.begin(), controllers_.end(),
                     [&matches](const auto& entry) { return matches(*entry.second); });
}

void Subsystem::disconnect_all(const char* why) {
  for (auto& [id, controller] : controllers_) controller->disconnect(why);
}

Task<bool> Subsystem::wait_gone(std::function<bool(const Controller&)> matches, uint64_t timeout_ns) {
  if (!any_matches(matches)) co_return true;
  Waiter waiter(target_.main_reactor(), std::move(matches));
  if (timeout_ns > 0) waiter.limit.arm(target_.main_reactor(), timeout_ns);
  waiters_.push_back(&waiter);
  const bool gone = co_await waiter.gone;
  std::erase(waiters_, &waiter);
  co_return gone;
}

Task<void> Subsystem::close() {
  disconnect_all("the subsystem is deleted");
  std::function<bool(const Controller&)> every = [](const Controller&) { return true; };
  Task<bool> waiting = wait_gone(every, 0);
  co_await waiting;
  while (!namespaces_.empty()) {
    const uint32_t nsid = namespaces_.begin()->first;
    Task<Result<void>> removing = remove_namespace(nsid);
    const Result<void> removed = co_await removing;
    // Someone else is at it: let them finish.
    if (!removed) co_await sleep_for(target_.main_reactor(), 1'000'000);
  }
}

std::shared_ptr<NamespacePorts> Subsystem::ports_on(Reactor& reactor) {
  std::shared_ptr<NamespacePorts>& ports = ports_[&reactor];
  if (ports != nullptr) return ports;
  ports = std::make_shared<NamespacePorts>(reactor, options_.max_namespaces);
  for (const auto& [nsid, ns] : namespaces_)
    if (!ns->removing) reactor.post([ports, id = nsid, device = ns->device_ref()] { ports->open(id, device); });
  return ports;
}

}  // namespace diskengine::nvmf
