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
#include "raid/assembly.h"
#include "raid/volume.h"
#include "runtime/gate.h"
#include "runtime/random.h"

namespace diskengine::raid {

class RaidManager final : private DeviceRegistry::Observer {
 public:
  static constexpr uint32_t kWindowKbMax = 64 * 1024;
  static constexpr uint32_t kNoLegTimeoutSecMax = 24 * 60 * 60;

  struct CreateOptions {
    std::string name;  // 1 to 63 bytes
    Uuid uuid;         // nil: a random one
    std::vector<std::string> base_bdevs;
    bool superblock = false;
    uint32_t strip_size_kb = 0;  // only 0: mirrors have no strips
  };

  // `machine` is its boot; nil: not known.
  RaidManager(DeviceRegistry& registry, uint64_t random_seed, const Uuid& machine = {});
  ~RaidManager();

  // The volume comes online once all base devices are there; those that are missing may appear later. On an error
  // nothing is left of it. Errc::already_exists, invalid_argument, busy (a base device is in use), io_error.
  Task<Result<void>> create(CreateOptions options);
  // Puts a volume with superblocks together from exactly the named legs, under an epoch, and brings it online at once:
  // a new one if they are blank. A leg that is not named is out from then on, and lacks what the log says. The same
  // call again changes nothing. Nothing is written before everything was checked. Errors of plan_assembly, and Errc::
  // no_device (a named one is not there), busy (claimed), already_exists (the volume is online with other legs),
  // conflict (its writer was fenced, or is in a later epoch), io_error.
  Task<Result<void>> assemble(AssembleOptions options);
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

  // The process ends and is to end soon: what waits in volumes for legs, or for somebody's word, fails. Say it again
  // for volumes that came since.
  void end_waits();
  // Deletes every volume (superblocks stay) and examines no more devices.
  Task<void> stop();

 private:
  // DeviceRegistry::Observer
  void on_examine(const std::shared_ptr<Device>& device) override;

  // raid/manager_assemble.cpp
  Result<void> check(const AssembleOptions& options) const;
  Task<Result<void>> reassemble(std::shared_ptr<Volume> volume, AssembleOptions options);
  Task<Result<std::vector<NamedLeg>>> look_at(const AssembleOptions& options);
  Task<Result<NamedLeg>> look_at(std::shared_ptr<Device> device);
  Task<Result<void>> look_and_assemble(AssembleOptions options);
  Task<Result<void>> carry_out(AssembleOptions options, AssemblyPlan plan);
  Task<Result<std::vector<std::shared_ptr<Device>>>> make_way(const AssembleOptions& options, Uuid uuid);
  Task<Result<void>> bring_online(const AssembleOptions& options, const AssemblyPlan& plan);
  Result<void> attach_named(Volume& volume, const AssemblyPlan& plan);

  std::shared_ptr<Volume> make_volume(std::string name, Uuid uuid, bool superblock, unsigned slots);
  Result<void> check(const CreateOptions& options) const;
  std::shared_ptr<Volume> find(const Uuid& uuid) const;
  // A superblock on a device that is to be a new leg of `volume`: none, or its own (then the device may rejoin).
  Task<Result<void>> check_superblock(Volume& volume, Volume::Slot& slot);
  Task<void> examine(std::shared_ptr<Device> device);
  Task<void> examine_superblock(std::shared_ptr<Device> device, LegContents contents);
  void set_aside(const std::shared_ptr<Device>& device);
  Task<void> examine_set_aside();
  Task<void> join_by_name(std::shared_ptr<Device> device);
  Task<void> rejoin(std::shared_ptr<Volume> volume, std::shared_ptr<Device> device, unsigned slot_index,
                    LegContents contents);

  DeviceRegistry& registry_;
  Random random_;
  const Uuid machine_;
  RaidOptions options_;
  RaidEvents events_;
  std::shared_ptr<DmaBuffer> zeroes_;
  std::vector<std::shared_ptr<Volume>> volumes_;
  std::vector<std::string> assembling_;           // names of volumes that nobody else puts together meanwhile
  std::vector<std::weak_ptr<Device>> set_aside_;  // with superblocks of volumes in which they had no place
  Gate examinations_;
};

}  // namespace diskengine::raid
