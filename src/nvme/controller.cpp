#include "nvme/controller.h"

#include <fmt/format.h>

#include <algorithm>
#include <utility>

#include "base/log.h"
#include "block/device.h"
#include "runtime/machine.h"

namespace diskengine::nvme {

Result<void> check_loss_policy(const LossPolicy& policy) {
  const auto refuse = [](const char* why) { return Error(Errc::invalid_argument, why); };
  if (policy.controller_loss_s < -1) return refuse("ctrlr_loss_timeout_sec must be -1 or more");
  if (policy.controller_loss_s == -1) {
    if (policy.reconnect_delay_s == 0)
      return refuse("reconnect_delay_sec must not be 0 if ctrlr_loss_timeout_sec is -1");
    if (policy.fast_io_fail_s != 0 && policy.fast_io_fail_s < policy.reconnect_delay_s)
      return refuse("reconnect_delay_sec must not be more than fast_io_fail_timeout_sec");
  } else if (policy.controller_loss_s != 0) {
    const auto loss_s = static_cast<uint32_t>(policy.controller_loss_s);
    if (policy.reconnect_delay_s == 0)
      return refuse("reconnect_delay_sec must not be 0 if ctrlr_loss_timeout_sec is not 0");
    if (policy.reconnect_delay_s > loss_s)
      return refuse("reconnect_delay_sec must not be more than ctrlr_loss_timeout_sec");
    if (policy.fast_io_fail_s != 0 && policy.fast_io_fail_s < policy.reconnect_delay_s)
      return refuse("reconnect_delay_sec must not be more than fast_io_fail_timeout_sec");
    if (policy.fast_io_fail_s > loss_s)
      return refuse("fast_io_fail_timeout_sec must not be more than ctrlr_loss_timeout_sec");
  } else if (policy.reconnect_delay_s != 0 || policy.fast_io_fail_s != 0) {
    return refuse("reconnect_delay_sec and fast_io_fail_timeout_sec must be 0 if ctrlr_loss_timeout_sec is 0");
  }
  return {};
}

Controller::Controller(Reactor& main, fabric::HostTransport& transport, const HostOptions& host,
                       ControllerOptions options, ControllerEvents& events)
    : main_(main),
      transport_(transport),
      host_(host),
      options_(std::move(options)),
      events_(events),
      fast_fail_timer_([this] { fail_links(true); }) {}

Controller::~Controller() { DE_ASSERT(state_ == State::stopped || state_ == State::connecting); }

std::string_view Controller::state_name() const noexcept {
  switch (state_) {
    case State::enabled:
      return "enabled";
    case State::connecting:
    case State::resetting:
      return "resetting";
    case State::waiting:
      return "reconnect_is_delayed";
    case State::failed:
      return "failed";
    case State::stopping:
    case State::stopped:
      return "deleting";
  }
  return "failed";
}

Task<Result<void>> Controller::start() {
  std::shared_ptr<Controller> self = shared_from_this();
  Result<void> up = co_await bring_up();
  if (!up) {
    Task<void> down = take_down(false);
    co_await down;
    state_ = State::stopped;
    co_return up;
  }
  supervised_ = true;
  spawn(supervise());
  co_return Result<void>{};
}

// The life of a connected controller: wait until it is lost, close everything, bring it up again.
Task<void> Controller::supervise() {
  std::shared_ptr<Controller> self = shared_from_this();
  while (!stop_wanted_) {
    if (!lost_ && !reset_wanted_) co_await wait(0);
    if (stop_wanted_) break;
    LOG_WARN("nvme", "{}: {}: closing its connections to begin again", options_.name,
             reset_wanted_ && !lost_ ? "reset was asked for" : reason_);
    Task<bool> recovering = recover();
    const bool recovered = co_await recovering;
    if (!recovered) break;
  }
  state_ = State::stopping;
  fast_fail_timer_.cancel();
  Task<void> down = take_down(!ending_);
  co_await down;
  OneShot<bool> left(main_);
  gate_.close([&left] { left.set(true); });
  co_await left;
  fail_links(true);
  state_ = State::stopped;
  supervised_ = false;
  for (OneShot<bool>* waiter : std::exchange(reset_waiters_, {})) waiter->set(false);
  for (OneShot<bool>* waiter : std::exchange(stop_waiters_, {})) waiter->set(true);
}

// From a lost controller to an enabled one; false if it is to be stopped.
Task<bool> Controller::recover() {
  lost_ns_ = main_.now_ns();
  state_ = State::resetting;
  if (options_.loss.fast_io_fail_s != 0)
    fast_fail_timer_.arm(main_, uint64_t{options_.loss.fast_io_fail_s} * 1'000'000'000);
  bool told = false;
  for (;;) {
    reset_wanted_ = false;
    Task<void> down = take_down(false);
    co_await down;
    if (stop_wanted_) co_return false;
    if (ending_) {
      fail_links(true);
      state_ = State::failed;
      for (OneShot<bool>* waiter : std::exchange(reset_waiters_, {})) waiter->set(false);
      co_await wait(0);
      continue;
    }
    state_ = State::resetting;
    Result<void> up = gone_ ? Result<void>(Error(Errc::not_found, reason_)) : Result<void>();
    if (!gone_) up = co_await bring_up();
    if (up) {
      fast_fail_timer_.cancel();
      LOG_INFO("nvme", "{}: connected again", options_.name);
      for (OneShot<bool>* waiter : std::exchange(reset_waiters_, {})) waiter->set(true);
      co_return true;
    }
    Task<void> undone = take_down(false);
    co_await undone;
    if (stop_wanted_) co_return false;
    reason_ = up.error().message();
    if (!std::exchange(told, true)) LOG_WARN("nvme", "{}: cannot reconnect: {}", options_.name, reason_);
    for (OneShot<bool>* waiter : std::exchange(reset_waiters_, {})) waiter->set(false);
    gone_ = up.error().code() == Errc::not_found;
    if (gone_ || given_up()) {
      LOG_ERROR("nvme", "{}: it is given up: {}", options_.name, reason_);
      fail_links(true);
      state_ = State::failed;
      events_.on_given_up(*this);
      co_await wait(0);
      continue;
    }
    if (options_.loss.reconnect_delay_s == 0) {
      fail_links(true);
      state_ = State::failed;
      co_await wait(0);
    } else {
      state_ = State::waiting;
      uint64_t delay_ns = uint64_t{options_.loss.reconnect_delay_s} * 1'000'000'000;
      if (options_.loss.controller_loss_s > 0) {
        const uint64_t deadline_ns = lost_ns_ + static_cast<uint64_t>(options_.loss.controller_loss_s) * 1'000'000'000;
        delay_ns = std::min(delay_ns, std::max(deadline_ns, main_.now_ns() + 1) - main_.now_ns());
      }
      co_await wait(delay_ns);
    }
    if (stop_wanted_) co_return false;
  }
}

bool Controller::given_up() const noexcept {
  return options_.loss.controller_loss_s > 0 &&
         main_.now_ns() - lost_ns_ >= static_cast<uint64_t>(options_.loss.controller_loss_s) * 1'000'000'000;
}

Task<Result<void>> Controller::bring_up() {
  ++epoch_;
  lost_ = false;
  association_ =
      std::make_unique<Association>(main_, transport_, host_, options_, [this](const Error& reason) { lose(reason); });
  Result<void> established = co_await association_->establish();
  CO_TRY(established);
  Result<void> prepared = co_await association_->prepare_io([this](uint32_t cdw0) { on_event(cdw0); });
  CO_TRY(prepared);
  Result<std::vector<NamespaceInfo>> namespaces = co_await association_->read_namespaces();
  CO_TRY(namespaces);
  if (lost_) co_return Error(Errc::unreachable, reason_);
  co_await name_local_cache(*namespaces);
  co_await compare_instance(*namespaces);
  if (lost_) co_return Error(Errc::unreachable, reason_);
  version_ = association_->version();
  limits_ = association_->limits();
  state_ = State::enabled;
  failing_ = false;
  reason_.clear();
  events_.on_namespaces(*this, *namespaces);
  for (const auto& link : links_) connect_link(link);
  co_return Result<void>{};
}

// A disk on the PCI bus keeps its cache while its driver's process comes and goes; what it loses is power, and that it
// counts. The machine's run is part of the name for controllers that count wrong.
Task<void> Controller::name_local_cache(std::vector<NamespaceInfo>& namespaces) {
  if (options_.address.transport != "PCIe") co_return;
  const Uuid boot = machine_boot();
  const spec::IdentifyController& id = association_->identity();
  const Result<spec::SmartLog> health = co_await association_->read_health();
  if (!health || boot.is_nil()) co_return;
  const Uuid cache = Uuid::from_name(fmt::format(
      "{} {} {} {}:{}", boot.to_string(), text_of(id.model_number, sizeof id.model_number),
      text_of(id.serial_number, sizeof id.serial_number), health->power_cycles.high, health->power_cycles.low));
  for (NamespaceInfo& info : namespaces) info.cache = association_->limits().write_cache ? cache : kNothingCached;
}

// Whoever has the controller's devices hears, before any I/O goes there, of caches that do not show that they are the
// same as before. Where a namespace says nothing of its own, a controller with a volatile write cache has to show that
// it is the same process.
Task<void> Controller::compare_instance(const std::vector<NamespaceInfo>& namespaces) {
  const Uuid before = spec::instance_of(identity_);
  identity_ = association_->identity();
  const Uuid now = spec::instance_of(identity_);
  const bool first = !std::exchange(identified_, true);
  if (first) co_return;
  const bool unknown_lost = association_->limits().write_cache && (now != before || now.is_nil());
  OneShot<bool> released(main_);
  {
    const std::shared_ptr<void> hold(&released, [](void* shot) { static_cast<OneShot<bool>*>(shot)->set(true); });
    events_.on_reconnected(*this, namespaces, unknown_lost, hold);
  }
  co_await released;
}

// Closes the I/O queues and then the admin queue, and waits until nothing of them is left.
Task<void> Controller::take_down(bool orderly) {
  OneShot<bool> all(main_);
  size_t left = 1;
  const auto one_less = [&left, &all] {
    if (--left == 0) all.set(true);
  };
  for (const auto& link : links_) {
    link->connected = link->connecting = false;
    link->queue_id = 0;
    ++left;
    Reactor& main = main_;
    link->reactor.post([link, &main, one_less] {
      auto closed = [&main, one_less] { main.post(one_less); };
      if (link->channel != nullptr) {
        link->channel->disconnect(std::move(closed));
      } else {
        closed();
      }
    });
  }
  one_less();
  co_await all;
  if (association_) {
    Task<void> closing = orderly ? association_->shut_down() : association_->close();
    co_await closing;
    // Rescans and aborts use it until they noticed.
    while (gate_.inside() > 0) co_await sleep_for(main_, 1'000'000);
    association_.reset();
  }
}

Task<Controller::Wake> Controller::wait(uint64_t limit_ns) {
  if (stop_wanted_) co_return Wake::stop;
  OneShot<Wake> shot(main_);
  Timer timer([&shot] {
    if (!shot.is_set()) shot.set(Wake::timer);
  });
  if (limit_ns != 0) timer.arm(main_, limit_ns);
  waiter_ = &shot;
  const Wake why = co_await shot;
  waiter_ = nullptr;
  co_return why;
}

void Controller::wake(Wake why) {
  if (waiter_ != nullptr && !waiter_->is_set()) waiter_->set(why);
}

void Controller::lose(const Error& reason) {
  if (lost_) return;
  lost_ = true;
  gone_ = reason.code() == Errc::not_found;
  reason_ = reason.message();
  if (state_ == State::enabled) {
    state_ = State::resetting;
    wake(Wake::lost);
  }
}

Task<Result<void>> Controller::reset() {
  std::shared_ptr<Controller> self = shared_from_this();
  if (stop_wanted_ || !supervised_)
    co_return Error(Errc::busy, fmt::format("controller {} is being deleted", options_.name));
  OneShot<bool> done(main_);
  reset_waiters_.push_back(&done);
  reset_wanted_ = true;
  wake(Wake::reset);
  const bool enabled = co_await done;
  if (!enabled)
    co_return Error(Errc::io_error, fmt::format("controller {} did not come back: {}", options_.name, reason_));
  co_return Result<void>{};
}

Task<void> Controller::stop() {
  std::shared_ptr<Controller> self = shared_from_this();
  stop_wanted_ = true;
  if (!supervised_) co_return;
  OneShot<bool> done(main_);
  stop_waiters_.push_back(&done);
  wake(Wake::stop);
  co_await done;
}

void Controller::end_waits() {
  ending_ = true;
  if (state_ == State::enabled) {
    for (const auto& link : links_)
      link->reactor.post([link] {
        if (link->channel != nullptr) link->channel->fail_overdue(kEndLimitNs);
      });
    return;
  }
  fail_links(true);
  if (association_) association_->cut();
  wake(Wake::timer);
}

Task<Result<spec::SmartLog>> Controller::read_health() {
  std::shared_ptr<Controller> self = shared_from_this();
  Gate::Pass pass(gate_);
  if (!pass || association() == nullptr)
    co_return Error(Errc::unreachable, fmt::format("controller {} is not connected: {}", options_.name, reason_));
  Task<Result<spec::SmartLog>> reading = association_->read_health();
  Result<spec::SmartLog> log = co_await reading;
  co_return log;
}

void Controller::read_temperature() {
  if (options_.address.transport != "PCIe" || reading_temperature_) return;
  reading_temperature_ = true;
  spawn(refresh_temperature());
}

Task<void> Controller::refresh_temperature() {
  std::shared_ptr<Controller> self = shared_from_this();
  Task<Result<spec::SmartLog>> reading = read_health();
  Result<spec::SmartLog> log = co_await reading;
  temperature_k_ = log ? log->temperature_k() : uint16_t{0};
  reading_temperature_ = false;
}

Task<Result<std::vector<spec::ErrorLogEntry>>> Controller::read_errors() {
  std::shared_ptr<Controller> self = shared_from_this();
  Gate::Pass pass(gate_);
  if (!pass || association() == nullptr)
    co_return Error(Errc::unreachable, fmt::format("controller {} is not connected: {}", options_.name, reason_));
  Task<Result<std::vector<spec::ErrorLogEntry>>> reading = association_->read_errors();
  Result<std::vector<spec::ErrorLogEntry>> log = co_await reading;
  co_return log;
}

// --- Events of the controller ---------------------------------------------------------------------------------------

void Controller::on_event(uint32_t cdw0) {
  switch (spec::async_event_type(cdw0)) {
    case spec::AsyncEventType::smart:
      spawn(report_health());
      return;
    case spec::AsyncEventType::error:
      spawn(report_error());
      return;
    case spec::AsyncEventType::notice:
      if (spec::async_event_information(cdw0) != spec::AsyncNotice::namespace_attribute) return;
      rescan_again_ = true;
      if (!rescanning_) spawn(rescan());
      return;
    default:
      return;
  }
}

// Reading the log lets the controller send the next event of its kind; one that has always something to say is read a
// few times a second.
Task<void> Controller::report_health() {
  Gate::Pass pass(gate_);
  if (!pass || std::exchange(reading_health_, true)) co_return;
  std::shared_ptr<Controller> self = shared_from_this();
  co_await sleep_for(main_, kEventPauseNs);
  reading_health_ = false;
  Task<Result<spec::SmartLog>> reading = read_health();
  Result<spec::SmartLog> log = co_await reading;
  if (log) {
    if (log->critical_warning != std::exchange(told_warning_, log->critical_warning)) events_.on_health(*this, *log);
  } else {
    LOG_WARN("nvme", "{}: its health changed but could not be read: {}", options_.name, log.error().message());
  }
}

Task<void> Controller::report_error() {
  Gate::Pass pass(gate_);
  if (!pass || std::exchange(reading_errors_, true)) co_return;
  std::shared_ptr<Controller> self = shared_from_this();
  co_await sleep_for(main_, kEventPauseNs);
  reading_errors_ = false;
  Task<Result<std::vector<spec::ErrorLogEntry>>> reading = read_errors();
  Result<std::vector<spec::ErrorLogEntry>> log = co_await reading;
  if (log) {
    LOG_WARN("nvme",
             "{}: reports an error: its error log has {} entries (diskengine_bdev_nvme_get_error_log shows them)",
             options_.name, log->size());
  } else {
    LOG_WARN("nvme", "{}: reports an error, but its error log could not be read: {}", options_.name,
             log.error().message());
  }
}

Task<void> Controller::rescan() {
  Gate::Pass pass(gate_);
  if (!pass) co_return;
  std::shared_ptr<Controller> self = shared_from_this();
  rescanning_ = true;
  while (std::exchange(rescan_again_, false) && association() != nullptr) {
    const uint64_t epoch = epoch_;
    Result<void> acknowledged = co_await association_->acknowledge_namespace_change();
    if (epoch_ != epoch || association() == nullptr) break;
    Result<std::vector<NamespaceInfo>> namespaces = co_await association_->read_namespaces();
    if (epoch_ != epoch || association() == nullptr) break;
    if (!acknowledged || !namespaces) {
      LOG_WARN("nvme", "{}: its namespaces changed but could not be read", options_.name);
      break;
    }
    events_.on_namespaces(*this, *namespaces);
  }
  rescanning_ = false;
}

void Controller::abort_command(uint64_t epoch, uint16_t queue_id, uint16_t cid) {
  main_.post([self = shared_from_this(), epoch, queue_id, cid] {
    if (epoch == self->epoch_ && self->association() != nullptr) spawn(self->send_abort(queue_id, cid));
  });
}

Task<void> Controller::send_abort(uint16_t queue_id, uint16_t cid) {
  Gate::Pass pass(gate_);
  if (!pass) co_return;
  Result<bool> aborted = co_await association_->abort(queue_id, cid);
  LOG_WARN("nvme", "{}: command {:#06x} of queue {} is overdue: abort {}", options_.name, cid, queue_id,
           !aborted   ? aborted.error().message()
           : *aborted ? "succeeded"
                      : "did not find it");
}

// --- Channels -------------------------------------------------------------------------------------------------------

void Controller::open_link(std::shared_ptr<QueueLink> link) {
  main_.post([self = shared_from_this(), link = std::move(link)] {
    self->links_.push_back(link);
    if (self->state_ == State::enabled) {
      self->connect_link(link);
    } else if (self->failing_ || self->stop_wanted_) {
      link->reactor.post([link] {
        if (link->channel != nullptr) link->channel->set_failing(true);
      });
    }
  });
}

void Controller::close_link(std::shared_ptr<QueueLink> link) {
  main_.post([self = shared_from_this(), link = std::move(link)] { std::erase(self->links_, link); });
}

uint16_t Controller::free_queue_id() const {
  for (uint32_t id = 1; id <= limits_.io_queues; ++id) {
    const auto used = [id](const auto& link) { return link->queue_id == id; };
    if (std::none_of(links_.begin(), links_.end(), used)) return static_cast<uint16_t>(id);
  }
  return 0;
}

void Controller::connect_link(const std::shared_ptr<QueueLink>& link) {
  link->queue_id = free_queue_id();
  if (link->queue_id == 0) {
    LOG_ERROR("nvme", "{}: all {} I/O queues of the controller are in use: I/O of one more channel of {} fails",
              options_.name, limits_.io_queues, link->device_name);
    link->reactor.post([link] {
      if (link->channel != nullptr) link->channel->set_failing(true);
    });
    return;
  }
  link->connecting = true;
  QueueParams params;
  params.transport = &transport_;
  params.controller = options_;
  params.limits = limits_;
  params.host = host_;
  params.queue_id = link->queue_id;
  params.epoch = epoch_;
  link->reactor.post([link, params = std::move(params)] {
    if (link->channel != nullptr) link->channel->connect(params);
  });
}

void Controller::link_connected(std::shared_ptr<QueueLink> link, uint64_t epoch) {
  main_.post([self = shared_from_this(), link = std::move(link), epoch] {
    if (epoch != self->epoch_ || !link->connecting) return;
    link->connecting = false;
    link->connected = true;
  });
}

void Controller::link_lost(std::shared_ptr<QueueLink> link, uint64_t epoch, Error reason) {
  main_.post([self = shared_from_this(), link = std::move(link), epoch, reason = std::move(reason)] {
    if (epoch != self->epoch_) return;
    link->connected = link->connecting = false;
    self->lose(reason);
  });
}

void Controller::fail_links(bool failing) {
  failing_ = failing;
  for (const auto& link : links_)
    link->reactor.post([link, failing] {
      if (link->channel != nullptr) link->channel->set_failing(failing);
    });
}

}  // namespace diskengine::nvme
