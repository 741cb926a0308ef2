#include "nvme/discovery.h"

#include <fmt/format.h>

#include <algorithm>
#include <set>
#include <utility>

#include "base/log.h"

namespace diskengine::nvme {

Discovery::Discovery(HostManager& manager, fabric::HostTransport& transport, DiscoveryOptions options)
    : manager_(manager), transport_(transport), main_(manager.main_), options_(std::move(options)) {}

bool Discovery::same_address(const fabric::HostAddress& address) const {
  return options_.controller.address.address == address.address &&
         options_.controller.address.service == address.service;
}

std::vector<ControllerOptions> Discovery::found() const {
  std::vector<ControllerOptions> list;
  for (const auto& [key, found] : found_) list.push_back(found.options);
  return list;
}

void Discovery::run() {
  running_ = true;
  spawn(serve());
}

Task<void> Discovery::serve() {
  std::string told;
  while (!stop_wanted_) {
    changed_ = true;
    association_ =
        std::make_unique<Association>(main_, transport_, manager_.options_, options_.controller, [this](const Error&) {
          connected_ = false;
          wake();
        });
    Result<void> up = co_await association_->establish();
    if (up)
      up = co_await association_->watch_discovery([this](uint32_t) {
        changed_ = true;
        wake();
      });
    connected_ = up.has_value();
    while (up && connected_ && !stop_wanted_) {
      if (std::exchange(changed_, false)) {
        up = co_await look();
        settle(up);
      } else {
        co_await wait(retry_ ? kRetryNs : 0);
        changed_ |= retry_;
      }
    }
    Task<void> closing = association_->close();
    co_await closing;
    association_.reset();
    if (stop_wanted_) break;
    if (!up && std::exchange(told, up.error().message()) != up.error().message())
      LOG_WARN("nvme", "discovery service {}: {}", options_.name, up.error().message());
    co_await wait(kRetryNs);
  }
  settle(Error(Errc::canceled, "the discovery service was stopped"));
  while (!found_.empty()) co_await drop(found_.begin()->first);
  running_ = false;
  for (OneShot<bool>* waiter : std::exchange(stop_waiters_, {})) waiter->set(true);
}

Task<Result<void>> Discovery::look() {
  Result<std::vector<spec::DiscoveryEntry>> entries = co_await association_->read_discovery_log();
  CO_TRY(entries);
  Task<void> applying = apply(std::move(*entries));
  co_await applying;
  co_return Result<void>{};
}

Task<void> Discovery::apply(std::vector<spec::DiscoveryEntry> entries) {
  std::map<std::string, ControllerOptions> listed;
  std::set<std::string> subsystems;
  // What the service speaks itself is known to work from here.
  const auto type =
      options_.controller.address.transport == "RDMA" ? spec::TransportType::rdma : spec::TransportType::tcp;
  for (const spec::DiscoveryEntry& entry : entries) {
    if (entry.subsystem_type != static_cast<uint8_t>(spec::SubsystemType::nvm) ||
        entry.transport_type != static_cast<uint8_t>(type))
      continue;
    ControllerOptions options = options_.controller;
    options.from_discovery = true;
    options.address.address = text_of(entry.address, sizeof entry.address);
    options.address.service = text_of(entry.service_id, sizeof entry.service_id);
    options.address_family = entry.address_family == static_cast<uint8_t>(spec::AddressFamily::ipv6) ? "IPv6" : "IPv4";
    options.subsystem_nqn = text_of(entry.subsystem_nqn, sizeof entry.subsystem_nqn);
    // One path for each subsystem: further listeners of it are alternatives.
    if (!subsystems.insert(options.subsystem_nqn).second) continue;
    listed[options.address.address + " " + options.address.service + " " + options.subsystem_nqn] = options;
  }
  retry_ = false;
  std::vector<std::string> gone;
  for (const auto& [key, found] : found_)
    if (!listed.contains(key)) gone.push_back(key);
  for (const std::string& key : gone) co_await drop(key);
  for (auto& [key, options] : listed) {
    if (stop_wanted_) co_return;
    if (found_.contains(key)) continue;
    options.name = fmt::format("{}{}", options_.name, next_number_);
    Task<Result<std::vector<std::string>>> attaching = manager_.attach(options);
    Result<std::vector<std::string>> attached = co_await attaching;
    if (attached) {
      ++next_number_;
      found_[key] = {options.name, options};
      told_.erase(key);
    } else {
      retry_ = true;
      if (told_.insert(key).second)
        LOG_WARN("nvme", "discovery service {}: {}", options_.name, attached.error().message());
    }
  }
}

Task<void> Discovery::drop(std::string key) {
  const std::string name = found_[key].controller;
  found_.erase(key);
  Task<Result<void>> detaching = manager_.detach(name, {});
  Result<void> detached = co_await detaching;
  if (!detached && detached.error().code() != Errc::no_device)
    LOG_WARN("nvme", "discovery service {}: {}", options_.name, detached.error().message());
}

Task<void> Discovery::wait(uint64_t limit_ns) {
  if (stop_wanted_) co_return;
  OneShot<bool> shot(main_);
  Timer timer([&shot] {
    if (!shot.is_set()) shot.set(true);
  });
  if (limit_ns != 0) timer.arm(main_, limit_ns);
  waiter_ = &shot;
  co_await shot;
  waiter_ = nullptr;
}

void Discovery::wake() {
  if (waiter_ != nullptr && !waiter_->is_set()) waiter_->set(true);
}

void Discovery::settle(Result<void> outcome) {
  if (settled_) return;
  settled_ = std::make_unique<Result<void>>(std::move(outcome));
  for (OneShot<bool>* waiter : std::exchange(settle_waiters_, {}))
    if (!waiter->is_set()) waiter->set(true);
}

Task<Result<void>> Discovery::wait_attached(uint64_t limit_ns) {
  OneShot<bool> shot(main_);
  Timer timer([&shot] {
    if (!shot.is_set()) shot.set(false);
  });
  timer.arm(main_, limit_ns);
  settle_waiters_.push_back(&shot);
  const bool settled = settled_ ? true : co_await shot;
  std::erase(settle_waiters_, &shot);
  if (!settled)
    co_return Error(Errc::timed_out, fmt::format("discovery service {} found and attached nothing within {} ms",
                                                 options_.name, limit_ns / 1'000'000));
  co_return *settled_;
}

Task<void> Discovery::stop() {
  stop_wanted_ = true;
  if (!running_) co_return;
  OneShot<bool> done(main_);
  stop_waiters_.push_back(&done);
  wake();
  co_await done;
}

}  // namespace diskengine::nvme
