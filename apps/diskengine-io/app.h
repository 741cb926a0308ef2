// The data plane process: reactors, devices, layers, RPC, and the order in which they come up and go down.
//
// Up: reactors, layers, RPC socket, start-up configuration, the line that says ready. Down, on SIGTERM or SIGINT: no
// more requests, layers stop from the top of the path down, devices go, calls under way finish, RPC ends, reactors
// stop.
//
// Threads: run() on the process's main thread, which becomes the main reactor's.
#pragma once

#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "block/registry.h"
#include "history/archive.h"
#include "history/machine.h"
#include "history/sampler.h"
#include "layers.h"
#include "options.h"
#include "rpc/dispatcher.h"
#include "rpc/methods_app.h"
#include "rpc/methods_bdev.h"
#include "rpc/methods_config.h"
#include "rpc/methods_stats.h"
#include "rpc/methods_thread.h"
#include "rpc/methods_trace.h"
#include "rpc/server.h"
#include "runtime/random.h"
#include "signals.h"
#include "trace/recorder.h"

namespace diskengine::app {

class App {
 public:
  explicit App(Options options);
  App(const App&) = delete;
  App& operator=(const App&) = delete;

  // Returns the exit code: 0 after a clean stop, 1 when it could not start.
  int run();

 private:
  static constexpr uint64_t kDeviceDrainNs = 10'000'000'000;
  // How long stopping may wait for others before everything that does so fails, and from then on how long until what
  // does so by then fails too.
  static constexpr uint64_t kPatienceNs = 3'000'000'000;
  static constexpr uint64_t kPatienceAgainNs = 500'000'000;
  // Then it ends as after a crash: nothing that was acknowledged needs an orderly end.
  static constexpr unsigned kPatienceTimesMax = 14;

  Result<void> make_reactors();
  void begin();  // on the main reactor
  void make_subsystems();
  void add_methods();
  void open_history();
  void start_sampling();
  void keep(std::string type, std::string object, std::string text);
  Task<Result<void>> start();
  Task<Result<void>> start_init();
  void say_ready() const;
  void on_signal(int number);
  void stop_soon();
  Task<void> stop();
  void end_waits();
  Task<void> remove_devices();

  Options options_;
  Random random_;
  std::unique_ptr<history::MachineLook> machine_look_;       // the archive's thread uses it
  std::unique_ptr<history::Archive> archive_;                // nullptr: no history
  std::vector<std::unique_ptr<trace::Recorder>> recorders_;  // one for each reactor
  std::vector<std::unique_ptr<Reactor>> reactors_;
  std::vector<std::thread> threads_;  // of the reactors but the main one
  std::vector<Reactor*> reactor_list_;
  std::unique_ptr<DeviceRegistry> devices_;
  std::unique_ptr<rpc::DeviceEvents> events_;
  std::unique_ptr<rpc::HistogramMarks> histograms_;
  std::unique_ptr<rpc::Examination> examination_;
  std::vector<Layer> layers_;
  rpc::MethodTable methods_;
  rpc::MethodTable kept_methods_;  // methods_, with those that change something kept in the history
  std::unique_ptr<rpc::Dispatcher> dispatcher_;
  rpc::AppControl control_;
  std::unique_ptr<rpc::BdevControl> bdevs_;
  std::unique_ptr<rpc::ContextSwitchMonitor> switches_;
  std::vector<rpc::Subsystem> subsystems_;
  std::unique_ptr<history::Sampler> sampler_;
  std::unique_ptr<rpc::Server> server_;
  std::unique_ptr<SignalSource> signals_;
  Timer* patience_ = nullptr;    // while it stops
  unsigned patience_ended_ = 0;  // times
  std::string stopping_what_;
  bool starting_ = true;
  bool stopping_ = false;
  int exit_code_ = 0;
};

}  // namespace diskengine::app
