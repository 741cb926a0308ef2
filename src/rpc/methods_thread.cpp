#include "rpc/methods_thread.h"

#include <fmt/format.h>
#include <sched.h>
#include <sys/resource.h>
#include <unistd.h>

#include <algorithm>
#include <boost/json/array.hpp>
#include <fstream>
#include <map>
#include <sstream>

#include "base/log.h"
#include "rpc/params.h"
#include "runtime/clock.h"

namespace diskengine::rpc {
namespace json = boost::json;

namespace {

constexpr uint64_t kSwitchPeriodNs = 1'000'000'000;

unsigned thread_id(const Reactor& reactor) { return reactor.id() + 1; }

uint64_t idle_ticks(const Reactor& reactor) { return reactor.stats().idle_ticks + reactor.stats().sleep_ticks; }

// The cores the current thread may run on, in hexadecimal.
std::string cpumask() {
  cpu_set_t usable;
  CPU_ZERO(&usable);
  sched_getaffinity(0, sizeof usable, &usable);
  std::string mask;
  for (int nibble = CPU_SETSIZE / 4 - 1; nibble >= 0; --nibble) {
    int digit = 0;
    for (int bit = 0; bit < 4; ++bit) digit |= CPU_ISSET(nibble * 4 + bit, &usable) ? 1 << bit : 0;
    if (digit != 0 || !mask.empty()) mask += fmt::format("{:x}", digit);
  }
  return mask;
}

size_t count_sources(Reactor& reactor) {
  size_t count = 0;
  reactor.for_each_source([&](const Source&) { ++count; });
  return count;
}

json::value thread_stats(Reactor& reactor) {
  return json::object{{"name", reactor.name()},
                      {"id", thread_id(reactor)},
                      {"cpumask", cpumask()},
                      {"busy", reactor.stats().busy_ticks},
                      {"idle", idle_ticks(reactor)},
                      {"active_pollers_count", count_sources(reactor)},
                      {"timed_pollers_count", reactor.timers_armed()},
                      {"paused_pollers_count", 0}};
}

json::value thread_pollers(Reactor& reactor) {
  json::array active;
  uint64_t id = 0;
  reactor.for_each_source([&](const Source& source) {
    active.push_back(json::object{{"name", source.name()},
                                  {"id", ++id},
                                  {"state", "waiting"},
                                  {"run_count", source.polls()},
                                  {"busy_count", source.busy_polls()}});
  });
  return json::object{{"name", reactor.name()},
                      {"id", thread_id(reactor)},
                      {"active_pollers", std::move(active)},
                      {"timed_pollers", json::array()},
                      {"paused_pollers", json::array()}};
}

// User, system and interrupt time of a core in the kernel's ticks, as /proc/stat has them.
void put_core_times(json::object& out, int core) {
  std::ifstream stat("/proc/stat");
  const std::string wanted = fmt::format("cpu{}", core);
  uint64_t usr = 0, sys = 0, irq = 0;
  for (std::string line; std::getline(stat, line);) {
    std::istringstream fields(line);
    std::string name;
    uint64_t nice = 0, system = 0, idle = 0, iowait = 0, hard = 0, soft = 0;
    if (fields >> name && name == wanted && fields >> usr >> nice >> system >> idle >> iowait >> hard >> soft) {
      sys = system;
      irq = hard + soft;
    }
  }
  out["irq"] = irq;
  out["sys"] = sys;
  out["usr"] = usr;
}

json::value reactor_entry(Reactor& reactor) {
  const int core = reactor.cpu() >= 0 ? reactor.cpu() : sched_getcpu();
  json::object entry{{"lcore", core},
                     {"tid", gettid()},
                     {"busy", reactor.stats().busy_ticks},
                     {"idle", idle_ticks(reactor)},
                     {"in_interrupt", false}};
  put_core_times(entry, core);
  entry["lw_threads"] = json::array{json::object{{"name", reactor.name()},
                                                 {"id", thread_id(reactor)},
                                                 {"cpumask", cpumask()},
                                                 {"elapsed", reactor.stats().busy_ticks + idle_ticks(reactor)}}};
  return entry;
}

// One entry from each reactor, made on its own thread.
Task<json::array> from_each(const std::vector<Reactor*>& reactors, json::value (*make)(Reactor&)) {
  json::array list;
  for (Reactor* reactor : reactors) {
    std::function<json::value()> work = [reactor, make] { return make(*reactor); };
    auto call = call_on<json::value>(*reactor, std::move(work));
    json::value entry = co_await call;
    list.push_back(std::move(entry));
  }
  co_return list;
}

Task<Reply> get_threads(const std::vector<Reactor*>& reactors, json::value (*make)(Reactor&)) {
  Task<json::array> collecting = from_each(reactors, make);
  json::array threads = co_await collecting;
  co_return json::value(json::object{{"tick_rate", ticks_per_second()}, {"threads", std::move(threads)}});
}

Task<Reply> get_reactors(const std::vector<Reactor*>& reactors) {
  Task<json::array> collecting = from_each(reactors, reactor_entry);
  json::array list = co_await collecting;
  co_return json::value(
      json::object{{"tick_rate", ticks_per_second()}, {"pid", getpid()}, {"reactors", std::move(list)}});
}

// The open channels of every device, by reactor.
Task<Reply> get_io_channels(const std::vector<Reactor*>& reactors, DeviceRegistry& devices) {
  std::map<unsigned, std::map<std::string, unsigned>> open;
  for (std::shared_ptr<Device>& device : devices.all()) {
    const std::string name = device->name();
    OneShot<DeviceStats> collected(devices.main_reactor());
    device->collect_stats(StatsReset::nothing, [&collected](DeviceStats stats) { collected.set(std::move(stats)); });
    device.reset();
    DeviceStats stats = co_await collected;
    for (const DeviceStats::PerChannel& channel : stats.channels) ++open[channel.reactor_id][name];
  }
  json::array threads;
  for (const Reactor* reactor : reactors) {
    json::array channels;
    for (const auto& [name, count] : open[reactor->id()])
      channels.push_back(json::object{{"name", name}, {"ref", count}});
    threads.push_back(json::object{{"name", reactor->name()}, {"io_channels", std::move(channels)}});
  }
  co_return json::value(json::object{{"tick_rate", ticks_per_second()}, {"threads", std::move(threads)}});
}

Task<Reply> get_scheduler(const std::vector<Reactor*>& reactors) {
  co_return json::value(json::object{{"scheduler_name", "static"},
                                     {"scheduler_period", 0},
                                     {"isolated_core_mask", "0x0"},
                                     {"scheduling_core", std::max(reactors.front()->cpu(), 0)}});
}

Task<Reply> done() { co_return json::value(true); }

Task<Reply> monitor_switches(ContextSwitchMonitor& switches, json::object params) {
  if (has(params, "enabled")) switches.enable(bool_param(params, "enabled"));
  co_return json::value(json::object{{"enabled", switches.enabled()}});
}

}  // namespace

struct ContextSwitchMonitor::Seen {
  bool known = false;
  long involuntary = 0;
};

ContextSwitchMonitor::ContextSwitchMonitor(std::vector<Reactor*> reactors)
    : reactors_(std::move(reactors)),
      seen_(std::make_shared<std::vector<Seen>>(reactors_.size())),
      timer_([this] { look(); }) {}

ContextSwitchMonitor::~ContextSwitchMonitor() = default;

void ContextSwitchMonitor::enable(bool on) {
  if (!on) {
    timer_.cancel();
  } else if (!timer_.armed()) {
    look();
  }
}

void ContextSwitchMonitor::look() {
  for (size_t i = 0; i < reactors_.size(); ++i)
    reactors_[i]->post([reactor = reactors_[i], seen = seen_, i] {
      Seen& mine = (*seen)[i];
      rusage usage{};
      getrusage(RUSAGE_THREAD, &usage);
      const long more = usage.ru_nivcsw - mine.involuntary;
      if (mine.known && more > 0) LOG_INFO("app", "{} was switched out {} times in a second", reactor->name(), more);
      mine = {true, usage.ru_nivcsw};
    });
  timer_.arm(*reactors_.front(), kSwitchPeriodNs);
}

void add_thread_methods(MethodTable& methods, const std::vector<Reactor*>& reactors, DeviceRegistry& devices,
                        ContextSwitchMonitor& switches) {
  methods.add("framework_get_reactors", [&reactors](json::object) { return get_reactors(reactors); });
  methods.add("thread_get_stats", [&reactors](json::object) { return get_threads(reactors, thread_stats); });
  methods.add("thread_get_pollers", [&reactors](json::object) { return get_threads(reactors, thread_pollers); });
  methods.add("thread_get_io_channels",
              [&reactors, &devices](json::object) { return get_io_channels(reactors, devices); });
  methods.add("framework_get_scheduler", [&reactors](json::object) { return get_scheduler(reactors); });
  methods.add("framework_set_scheduler", [](json::object) { return done(); });
  methods.add("framework_monitor_context_switch",
              [&switches](json::object params) { return monitor_switches(switches, std::move(params)); });
}

}  // namespace diskengine::rpc
