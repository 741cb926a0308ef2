// All RAID1 volumes of the process: creates and deletes them, adds and removes legs, and assembles volumes from the
// superblocks of devices that appear.
//
// Threads: the main reactor. Owner: the app, which calls stop() and waits for it before destroying this.
#pragma once

#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "block/registry.h"
#include "raid/volume.h"
#include "runtime/gate.h"
#include "runtime/random.h"

namespace diskengine::raid {

class RaidManager final : private DeviceRegistry::Observer {
 public:
  static constexpr uint32_t kWindowKbMax = 64 * 1024;

  struct CreateOptions {
    std::string name;  // 1 to 63 bytes
    Uuid uuid;         // nil: a random one
    std::vector<std::string> base_bdevs;
    bool superblock = false;
    uint32_t strip_size_kb = 0;  // only 0: mirrors have no strips
  };

  RaidManager(DeviceRegistry& registry, uint64_t random_seed);
  ~RaidManager();

  // The volume comes online once all base devices are there; those that are missing may appear later. On an error
  // nothing is left of it. Errc::already_exists, invalid_argument, busy (a base device is in use), io_error.
  Task<Result<void>> create(CreateOptions options);
  // Errc::no_device if there is no such volume; else as Volume::shut_down.
  Task<Result<void>> remove(std::string name, bool clear_superblock);
  // Gives the volume a leg: in an online one it is rebuilt. Errc::invalid_argument if no slot is free or the device
  // does not fit, permission_denied while a rebuild runs, already_exists if the device belongs to another RAID volume.
  Task<Result<void>> add_base(std::string raid_name, std::string device_name);
  // Takes the device out of the volume it is in and returns when its I/O has drained. Errc::no_device: it is in none.
  // Removing the last leg takes the volume offline.
  Task<Result<void>> remove_base(std::string device_name);

  const RaidOptions& options() const noexcept { return options_; }
  // For processes that start from now on. Errc::invalid_argument: the window is 0 or too large.
  Result<void> set_options(RaidOptions options);

  // In order of creation.
  const std::vector<std::shared_ptr<Volume>>& volumes() const noexcept { return volumes_; }
  std::shared_ptr<Volume> find(std::string_view name) const;
  RaidEvents& events() noexcept { return events_; }
  // Devices whose superblock is being read: when 0, everything that can be assembled has been.
  uint64_t examining() const noexcept { return examinations_.inside(); }

  // The RPC calls that restore options and volumes which are not online; online ones say so by Device::config_json.
  std::vector<std::string> config_calls() const;

  // Deletes every volume (superblocks stay) and examines no more devices.
  Task<void> stop();

 private:
  // DeviceRegistry::Observer
  void on_examine(const std::shared_ptr<Device>& device) override;

  std::shared_ptr<Volume> make_volume(std::string name, Uuid uuid, bool superblock, unsigned slots);
  Result<void> check(const CreateOptions& options) const;
  std::shared_ptr<Volume> find(const Uuid& uuid) const;
  // A superblock on a device that is to be a new leg of `volume`: none, or its own (then the device may rejoin).
  Task<Result<void>> check_superblock(Volume& volume, Volume::Slot& slot);
  Task<void> examine(std::shared_ptr<Device> device);
  Task<void> examine_superblock(std::shared_ptr<Device> device, spec::RaidSuperblock superblock);
  Task<void> join_by_name(std::shared_ptr<Device> device);
  Task<void> rejoin(std::shared_ptr<Volume> volume, std::shared_ptr<Device> device, unsigned slot_index,
                    spec::RaidSuperblock superblock);

  DeviceRegistry& registry_;
  Random random_;
  RaidOptions options_;
  RaidEvents events_;
  std::shared_ptr<DmaBuffer> zeroes_;
  std::vector<std::shared_ptr<Volume>> volumes_;
  Gate examinations_;
};

}  // namespace diskengine::raid
