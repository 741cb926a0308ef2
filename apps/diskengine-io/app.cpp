#include "app.h"

#include <fmt/format.h>
#include <pthread.h>
#include <sched.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <iterator>
#include <utility>

#include "base/log.h"
#include "fabric/tcp/connections.h"
#include "rpc/methods_history.h"
#include "rpc/methods_log.h"
#include "rpc/methods_notify.h"
#include "startup_config.h"
#include "version.h"

namespace diskengine::app {
namespace {

// One connection is named as its target listens, on either side.
history::MachineLook::Sources machine_sources() {
  history::MachineLook::Sources sources;
  sources.networks = [] {
    std::vector<history::NetworkCounters> all = history::network_counters({});
    for (const fabric::tcp::Connection& one : fabric::tcp::connections())
      all.push_back({.name = one.local + " " + one.peer,
                     .record = "tcp " + (one.accepted ? one.local : one.peer),
                     .type = spec::HistoryNetwork::tcp,
                     .sent = one.sent,
                     .again = one.again,
                     .dropped = 0,
                     .damaged = 0,
                     .congested = 0,
                     .rtt_us = one.rtt_us});
    return all;
  };
  sources.temperatures = [] { return history::disk_temperatures({}); };
  return sources;
}

}  // namespace

App::App(Options options) : options_(std::move(options)), random_(Random::from_system()) {}

Result<void> App::make_reactors() {
  cpu_set_t usable;
  CPU_ZERO(&usable);
  sched_getaffinity(0, sizeof usable, &usable);
  std::vector<int> cores = options_.cores;
  if (cores.empty()) cores.push_back(-1);
  for (size_t i = 0; i < cores.size(); ++i) {
    const int core = cores[i];
    if (core >= 0 && (core >= CPU_SETSIZE || !CPU_ISSET(core, &usable)))
      return Error(Errc::invalid_argument, fmt::format("-m names core {}, which this process may not use", core));
    Reactor::Options reactor;
    reactor.name = fmt::format("reactor_{}", i);
    reactor.id = static_cast<unsigned>(i);
    reactor.cpu = core;
    reactors_.push_back(std::make_unique<Reactor>(std::move(reactor)));
    recorders_.push_back(std::make_unique<trace::Recorder>(*reactors_.back(), trace::Options{}));
    reactors_.back()->set_recorder(recorders_.back().get());
  }
  for (size_t i = 1; i < reactors_.size(); ++i) {
    threads_.emplace_back([reactor = reactors_[i].get()] { reactor->run(); });
    pthread_setname_np(threads_.back().native_handle(), reactors_[i]->name().c_str());
  }
  return {};
}

// SPDK's subsystems: bdev is made of several layers, and of what its devices say themselves.
void App::make_subsystems() {
  const auto calls_of = [this](const std::string& subsystem) {
    std::vector<std::string> calls;
    for (const Layer& layer : layers_)
      if (layer.subsystem == subsystem && layer.config_calls)
        std::ranges::move(layer.config_calls(), std::back_inserter(calls));
    return calls;
  };
  subsystems_.push_back({"iobuf", {}, [this] { return rpc::iobuf_calls(*bdevs_); }});
  subsystems_.push_back({"bdev", {"iobuf"}, [this, calls_of] {
                           std::vector<std::string> calls = rpc::bdev_option_calls(*bdevs_);
                           std::ranges::move(calls_of("bdev"), std::back_inserter(calls));
                           std::ranges::move(rpc::bdev_device_calls(*bdevs_), std::back_inserter(calls));
                           return calls;
                         }});
  for (const Layer& layer : layers_) {
    const auto same = [&](const rpc::Subsystem& subsystem) { return subsystem.name == layer.subsystem; };
    if (std::ranges::none_of(subsystems_, same))
      subsystems_.push_back({layer.subsystem, {"bdev"}, [calls_of, name = layer.subsystem] { return calls_of(name); }});
  }
}

void App::add_methods() {
  control_.version_major = kVersionMajor;
  control_.version_minor = kVersionMinor;
  control_.version_patch = kVersionPatch;
  control_.start_init = [this] { return start_init(); };
  rpc::add_app_methods(methods_, *dispatcher_, control_);
  rpc::add_log_methods(methods_);
  rpc::add_config_methods(methods_, subsystems_);
  rpc::add_thread_methods(methods_, reactor_list_, *devices_, *switches_);
  rpc::add_notify_methods(methods_, *events_);
  rpc::add_bdev_methods(methods_, *bdevs_);
  rpc::add_stats_methods(methods_, *devices_, *histograms_);
  rpc::add_trace_methods(methods_, reactor_list_, *devices_);
  rpc::add_history_methods(methods_, archive_.get());
  for (const Layer& layer : layers_)
    if (layer.add_methods) layer.add_methods(methods_);
  kept_methods_ = archive_ == nullptr ? methods_ : rpc::with_history(methods_, *archive_);
}

// Where it cannot be kept the process goes on without.
void App::open_history() {
  if (!options_.history) return;
  const std::string directory = options_.state_dir.empty() ? options_.rpc_path + ".state" : options_.state_dir;
  Result<std::unique_ptr<history::Archive>> archive = history::Archive::open(directory);
  if (archive)
    archive_ = std::move(*archive);
  else
    LOG_WARN("app", "no history is kept: {}", archive.error().message());
}

void App::keep(std::string type, std::string object, std::string text) {
  if (archive_ == nullptr) return;
  const uint64_t now_ms = reactors_.front()->clock().wall_ns() / 1'000'000;
  archive_->add(history::Series::events, history::event(std::move(type), std::move(object), std::move(text), now_ms));
}

void App::start_sampling() {
  history::Sampler::Hooks hooks;
  if (archive_ != nullptr) {
    hooks.record = [this](history::Series series, spec::HistoryRecord record) {
      archive_->add(series, std::move(record));
    };
    machine_look_ = std::make_unique<history::MachineLook>(machine_sources(), hooks.record);
    hooks.machine = [this](uint64_t now_ms, uint64_t span_ms, uint64_t minute_ms) {
      std::vector<history::DiskTemperature> temperatures;
      if (minute_ms > 0)
        for (const Layer& layer : layers_)
          if (layer.temperatures) layer.temperatures(temperatures);
      archive_->do_beside([look = machine_look_.get(), now_ms, span_ms, minute_ms, temperatures] {
        look->look(now_ms, span_ms);
        if (minute_ms > 0) look->end_minute(now_ms, minute_ms, temperatures);
      });
    };
  }
  hooks.states = [this](std::vector<history::ObjectState>& states) {
    for (const Layer& layer : layers_)
      if (layer.states) layer.states(states);
  };
  hooks.stuck = [this](const std::string& device, const std::string& what, bool over) {
    const LogLevel level = over ? LogLevel::info : LogLevel::warn;
    LOG_AT(level, "watchdog", "{}: {}", device, what);
    events_->announce(rpc::DeviceEvents::kIoStuck, fmt::format("{}: {}", device, what));
  };
  sampler_ = std::make_unique<history::Sampler>(
      reactor_list_, *devices_, history::Sampler::Options{.stuck_ms = options_.stuck_ms}, std::move(hooks));
  sampler_->start();
  keep("started", "diskengine-io", kVersion);
  events_->set_listener([this](const rpc::DeviceEvents::Notification& event) {
    // The watchdog has an event of its own.
    if (std::string_view(event.type) != rpc::DeviceEvents::kIoStuck) keep(event.type, event.context, event.context);
  });
}

int App::run() {
  Result<int> signal_fd = SignalSource::open();  // before there is any other thread
  log_start(options_.log_level);
  for (const std::string& note : options_.notes) LOG_WARN("app", "{}", note);
  Result<void> made = signal_fd ? make_reactors() : Result<void>(signal_fd.error());
  if (made) {
    signals_ = std::make_unique<SignalSource>(*signal_fd, [this](int number) { on_signal(number); });
    reactors_.front()->post([this] { begin(); });
    reactors_.front()->run();
  } else {
    std::fprintf(stderr, "diskengine-io: %s\n", made.error().message().c_str());
    exit_code_ = 1;
  }
  for (size_t i = 1; i < reactors_.size(); ++i) reactors_[i]->stop();
  for (std::thread& thread : threads_) thread.join();
  while (!layers_.empty()) layers_.pop_back();
  archive_.reset();
  log_stop();
  return exit_code_;
}

void App::begin() {
  Reactor& main = *reactors_.front();
  main.add(*signals_);
  devices_ = std::make_unique<DeviceRegistry>(main);
  events_ = std::make_unique<rpc::DeviceEvents>(*devices_);
  histograms_ = std::make_unique<rpc::HistogramMarks>(*devices_);
  dispatcher_ = std::make_unique<rpc::Dispatcher>(main, kept_methods_);
  for (const auto& reactor : reactors_) reactor_list_.push_back(reactor.get());
  switches_ = std::make_unique<rpc::ContextSwitchMonitor>(reactor_list_);
  examination_ = std::make_unique<rpc::Examination>(main);
  layers_ = make_layers({.reactors = reactor_list_,
                         .devices = *devices_,
                         .events = *events_,
                         .examination = *examination_,
                         .random = random_,
                         .vhost_dir = options_.vhost_dir,
                         .allow_no_iommu = options_.allow_no_iommu});
  bdevs_ = std::make_unique<rpc::BdevControl>(rpc::BdevControl{.devices = *devices_,
                                                               .events = *events_,
                                                               .dispatcher = *dispatcher_,
                                                               .examination = *examination_,
                                                               .bdev_options = {},
                                                               .iobuf_options = {}});
  for (const Layer& layer : layers_)
    if (layer.examining) examination_->add(layer.examining);
  make_subsystems();
  open_history();
  add_methods();
  spawn<Result<void>>(start(), [this](Result<void> started) {
    starting_ = false;
    if (stopping_) {  // a signal came meanwhile
      stop_soon();
    } else if (started) {
      say_ready();
    } else {
      std::fprintf(stderr, "diskengine-io: %s\n", started.error().message().c_str());
      exit_code_ = 1;
      stopping_ = true;
      stop_soon();
    }
  });
}

Task<Result<void>> App::start() {
  Result<void> verified = dispatcher_->verify();
  if (!verified) co_return verified;
  // The socket's lock comes first: two processes with one socket would fight over disks and ports as well.
  Result<rpc::Listener> listener = rpc::Listener::open(options_.rpc_path);
  if (!listener) co_return listener.error();
  if (!options_.config_path.empty()) {
    Task<Result<void>> applying =
        apply_startup_config(*dispatcher_, options_.config_path, options_.ignore_config_errors);
    Result<void> applied = co_await applying;
    if (!applied) co_return applied;
  } else if (!options_.wait_for_rpc) {
    dispatcher_->set_running();
  }
  start_sampling();
  Result<std::unique_ptr<rpc::Server>> server = rpc::Server::start(std::move(*listener), *dispatcher_);
  if (!server) co_return server.error();
  server_ = std::move(*server);
  co_return Result<void>{};
}

Task<Result<void>> App::start_init() {
  dispatcher_->set_running();
  co_return Result<void>{};
}

void App::say_ready() const {
  std::printf("diskengine-io %s ready: rpc %s, reactors %zu%s\n", kVersion, options_.rpc_path.c_str(), reactors_.size(),
              options_.wait_for_rpc ? ", waiting for framework_start_init" : "");
  std::fflush(stdout);
}

void App::on_signal(int number) {
  if (stopping_) {
    LOG_ERROR("app", "signal {} again: ending at once", number);
    log_stop();
    _exit(1);
  }
  LOG_INFO("app", "signal {}: stopping", number);
  stopping_ = true;
  dispatcher_->refuse();
  if (!starting_) stop_soon();
}

void App::stop_soon() {
  reactors_.front()->post([this] { spawn(stop(), [this] { reactors_.front()->stop(); }); });
}

Task<void> App::stop() {
  Reactor& main = *reactors_.front();
  dispatcher_->refuse();
  Timer patience([this] { end_waits(); });
  patience_ = &patience;
  patience.arm(main, kPatienceNs);
  if (sampler_ != nullptr) {
    Task<void> ending = sampler_->stop();
    co_await ending;
    keep("stopped", "diskengine-io", kVersion);
  }
  for (auto layer = layers_.rbegin(); layer != layers_.rend(); ++layer) {
    if (!layer->stop) continue;
    LOG_DEBUG("app", "stopping {}", layer->name);
    stopping_what_ = layer->name;
    Task<void> stopping = layer->stop();
    co_await stopping;
  }
  stopping_what_ = "devices";
  Task<void> removing = remove_devices();
  co_await removing;
  OneShot<bool> drained(main);
  dispatcher_->drain([&drained] { drained.set(true); });
  co_await drained;
  patience_ = nullptr;
  if (server_) server_->stop();
  switches_->enable(false);
  main.remove(*signals_);
}

// Time enough for everything that is well has passed.
void App::end_waits() {
  if (++patience_ended_ == 1) LOG_WARN("app", "stopping takes long: what waits for others fails now");
  if (patience_ended_ > kPatienceTimesMax) {
    LOG_ERROR("app", "{} did not stop in time: ending without it, as after a crash", stopping_what_);
    log_stop();
    _exit(1);
  }
  for (auto layer = layers_.rbegin(); layer != layers_.rend(); ++layer)
    if (layer->end_waits) layer->end_waits();
  if (patience_ != nullptr) patience_->arm(*reactors_.front(), kPatienceAgainNs);
}

// What no layer took away itself, the newest first: a device may stand on older ones.
Task<void> App::remove_devices() {
  std::vector<std::string> names;
  for (const std::shared_ptr<Device>& device : events_->in_order()) names.push_back(device->name());
  std::ranges::reverse(names);
  for (const std::string& name : names) {
    if (!devices_->find(name)) continue;  // went with the device it stood on
    Task<Result<void>> removing = devices_->remove(name, kDeviceDrainNs);
    Result<void> removed = co_await removing;
    if (removed) continue;
    LOG_ERROR("app", "{}", removed.error().message());
    exit_code_ = 1;
  }
}

}  // namespace diskengine::app
