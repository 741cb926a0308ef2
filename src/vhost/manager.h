// All vhost controllers of this process: creates, deletes and lists them for the RPC layer. Owned by the app; main
// reactor.
#pragma once

#include <functional>
#include <map>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "block/registry.h"
#include "vhost/controller.h"

namespace diskengine::vhost {

// SPDK's name of the one transport there is.
inline constexpr std::string_view kTransport = "vhost_user_blk";

class VhostManager {
 public:
  static constexpr size_t kControllersMax = 4096;

  struct Options {
    Reactor* main = nullptr;
    std::vector<Reactor*> reactors;  // for the queues; not empty
    DeviceRegistry* registry = nullptr;
    DmaRegions* dma_regions = nullptr;  // where guest memory is listed for devices; outlives the manager
    std::string socket_dir;             // where the controllers' sockets are made; empty: the current directory
  };

  explicit VhostManager(Options options);
  // After close().
  ~VhostManager();

  struct BlkOptions {
    std::string name;
    std::string device;
    std::string cpumask;  // "0x3", "[0,2-3]"; empty: all reactors
    bool read_only = false;
  };
  // Errc::already_exists, no_device, busy, invalid_argument.
  Result<void> create_blk_controller(const BlkOptions& options);
  // Disconnects its front end, after the I/O under way. Errc::no_device.
  Task<Result<void>> delete_controller(std::string name);
  // Errc::no_device; invalid_argument.
  Result<void> set_coalescing(std::string_view name, const Coalescing& coalescing);

  // Returns when every queue has looked at its ring: its progress is as of now then.
  Task<void> refresh_progress();
  // Errc::no_device.
  Result<const Controller*> find(std::string_view name) const;
  // In order of names.
  std::vector<const Controller*> all() const;
  // The calls that make the controllers again, each {"method":…,"params":…} as text.
  std::vector<std::string> config_calls() const;

  // The process ends, and what waits for others is about to fail: guests are not to see that, but to find their
  // requests done by the next process. Say it again for front ends that came since.
  void end_waits();
  // Deletes all.
  Task<void> close();

 private:
  struct Placement {
    std::vector<Reactor*> reactors;
    std::string mask;
  };
  Result<Placement> place(const std::string& cpumask) const;

  Options options_;
  std::shared_ptr<Unmapper> unmapper_;
  std::map<std::string, std::unique_ptr<Controller>, std::less<>> controllers_;
  std::vector<Controller*> closing_;  // no longer among the others
  size_t created_ = 0;
};

}  // namespace diskengine::vhost
