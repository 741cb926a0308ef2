// Looks at the whole process once a second: what its devices, traced paths and reactors did goes to the history, and
// requests that are outstanding for too long are reported (the watchdog). The reactors are asked by messages; each is
// kept for some microseconds.
//
// Threads: the main reactor. Owned by the app: start(), and stop() before the layers go.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "block/registry.h"
#include "history/archive.h"
#include "history/states.h"
#include "history/tally.h"
#include "runtime/gate.h"
#include "runtime/reactor.h"
#include "runtime/task.h"

namespace diskengine::history {

class Sampler {
 public:
  static constexpr uint64_t kPeriodNs = 1'000'000'000;
  static constexpr unsigned kSecondsPerMinute = 60;
  static constexpr size_t kDevicesMax = 1024;  // further ones, in order of names, are left out
  static constexpr size_t kRootsMax = 256;     // of a reactor
  static constexpr size_t kAskedAtOnce = 16;   // devices; what more answer would be as much memory to touch

  struct Options {
    uint64_t stuck_ms = 5'000;  // a request that is outstanding for longer is stuck; 0: none is
  };
  struct Hooks {
    // Where records go; empty: nowhere.
    std::function<void(Series, spec::HistoryRecord)> record;
    // Looks at the machine, which must not keep this reactor: each second, and with the length of a minute (else 0) at
    // its end. Empty: nobody does.
    std::function<void(uint64_t now_ms, uint64_t span_ms, uint64_t minute_ms)> machine;
    // Adds what is not as it is most of the time. Empty: nothing is known.
    std::function<void(std::vector<ObjectState>&)> states;
    // A device of this name has requests that are stuck, or has none any more.
    std::function<void(const std::string& device, const std::string& what, bool over)> stuck;
  };

  // The references outlive this.
  Sampler(const std::vector<Reactor*>& reactors, DeviceRegistry& devices, Options options, Hooks hooks);
  ~Sampler();

  void start();
  // Returns once nothing is under way; nothing begins any more.
  Task<void> stop();

 private:
  struct DeviceMemory {
    DeviceLook look;
    DeviceTally minute;
    trace::Layer layer = trace::Layer::other;
    bool seen = true;
  };
  using RootKey = std::pair<std::string, trace::Layer>;
  struct ReactorMemory {
    uint64_t busy = 0, idle = 0, sleep = 0;  // ticks, at the last look
    std::array<uint64_t, 3> minute{};        // since the minute began
    std::map<RootKey, StagesLook> roots;
  };

  // What a device answers.
  struct AskedDevice {
    explicit AskedDevice(Reactor& main) : outstanding(main), stats(main) {}
    std::string name;
    trace::Layer layer = trace::Layer::other;
    OneShot<std::vector<Outstanding>> outstanding;
    OneShot<DeviceStats> stats;
  };

  void tick();
  Task<void> sample();
  std::unique_ptr<AskedDevice> ask(Device& device) const;
  Task<void> sample_reactor(Reactor* reactor, ReactorMemory* memory);
  void note_device(const std::string& name, trace::Layer layer, const IoStats& stats,
                   const std::vector<Outstanding>& outstanding);
  void note_stuck(const std::string& name, trace::Layer layer, const std::vector<Outstanding>& outstanding,
                  std::vector<ObjectState>* states) const;
  void note_states(std::vector<ObjectState> states);
  void end_minute();
  void put(Series series, spec::HistoryRecord record, std::string name, trace::Layer layer, uint64_t span_ms);

  const std::vector<Reactor*>& reactors_;
  DeviceRegistry& devices_;
  const Options options_;
  const Hooks hooks_;
  Timer timer_;
  Gate gate_;
  uint64_t now_ms_ = 0;        // of the look under way, since 1970
  uint64_t span_ms_ = 0;       // since the look before, whatever was done to the time of day
  uint64_t looked_at_ns_ = 0;  // the reactor's time of the last look
  uint64_t minute_ns_ = 0;     // and when the minute under way began
  unsigned looks_ = 0;         // in it
  std::map<std::string, DeviceMemory> device_memory_;
  std::vector<ReactorMemory> reactor_memory_;
  std::map<RootKey, StagesTally> roots_second_;
  std::map<RootKey, StagesTally> roots_minute_;
  StateBook book_;
};

}  // namespace diskengine::history
