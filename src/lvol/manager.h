// All lvol stores of the process: makes them, finds them on devices that appear, and carries out what an operator asks
// of stores and lvols. Each lvol is a Device named by its UUID's text with the alias "store/name"; each store claims
// its base device.
//
// A store is named by its UUID's text or its name; a lvol by its device's name or alias, or its UUID. Errors carry
// SPDK's errno: no_device (ENODEV) for what does not exist, already_exists (EEXIST) for names that are taken, busy
// (EBUSY) for what is in use or has clones, no_space (ENOSPC), invalid_argument (EINVAL), permission_denied (EPERM).
// An operation that fails leaves everything as it was.
//
// Threads: the main reactor. Owner: the app, which calls stop() and waits for it before destroying this.
#pragma once

#include <functional>
#include <map>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "block/registry.h"
#include "lvol/types.h"
#include "runtime/gate.h"
#include "runtime/random.h"

namespace diskengine::lvol {

class Store;
class ShallowCopy;
struct Blob;

class LvolManager final : private DeviceRegistry::Observer {
 public:
  // Told of what happens by itself, for notifications. Main reactor.
  struct Events {
    // Free clusters went below one of kThresholdsPercent of all, or back above it.
    std::function<void(const StoreInfo& store, unsigned percent_free, bool below)> on_threshold;
    std::function<void(const StoreInfo& store)> on_store_loaded;
    std::function<void(const DamagedLvol& lvol)> on_damaged;
  };
  static constexpr unsigned kThresholdsPercent[] = {20, 10, 5, 1};
  static constexpr size_t kShallowCopiesMax = 1024;

  LvolManager(DeviceRegistry& registry, uint64_t random_seed);
  ~LvolManager();

  void set_events(Events events) { events_ = std::move(events); }

  // --- Stores
  // Makes a store over the whole device, whatever was on it, except another loaded store. The store's UUID.
  Task<Result<Uuid>> create_store(CreateStore options);
  // Looks for a store on a device that is there, as examination does when it appears. Errc::not_found: none on it.
  Task<Result<void>> load_store(std::string base_bdev);
  // Takes the store's devices away, waits for their users, writes everything back and lets the disk go. Errc::busy
  // while one of its lvols is in use by something that does not let go.
  Task<Result<void>> unload_store(std::string store);
  // The same, and the store is gone from the disk with all its lvols.
  Task<Result<void>> delete_store(std::string store);
  Task<Result<void>> rename_store(std::string store, std::string new_name);
  // Takes in what its disk has grown by; nothing to do is success.
  Task<Result<void>> grow_store(std::string store);
  // Compares what is on the disk with itself and, if the store is loaded, with memory; `repair` mends what can be
  // mended without risk. `target`: a store, or a device that holds one which is not loaded.
  Task<Result<CheckReport>> check(std::string target, bool repair);

  // --- lvols
  Task<Result<LvolInfo>> create_lvol(CreateLvol options);
  // `name` may name a damaged lvol by "store/name", "store/<blob id in hex, 0x...>" or UUID. Errc::busy with clones
  // (more than one) or users.
  Task<Result<void>> delete_lvol(std::string name);
  Task<Result<void>> rename_lvol(std::string name, std::string new_name);
  // Rounded up to whole clusters. Shrinking gives up what is beyond. Errc::permission_denied: it is read-only.
  Task<Result<void>> resize_lvol(std::string name, uint64_t size_bytes);
  // A read-only lvol with the content of this moment; `name` becomes its thin clone.
  Task<Result<LvolInfo>> snapshot(std::string name, std::string snapshot_name, Uuid uuid = {});
  // A thin lvol on top of a read-only one. Errc::invalid_argument: `snapshot_name` is writable.
  Task<Result<LvolInfo>> clone(std::string snapshot_name, std::string clone_name, Uuid uuid = {});
  // A thin lvol on top of a device outside the store, found again by that device's UUID, which then is to be read-only
  // in practice: it is claimed.
  Task<Result<LvolInfo>> clone_bdev(std::string bdev, std::string store, std::string clone_name, Uuid uuid = {});
  // Allocates every cluster, so that it stands alone.
  Task<Result<void>> inflate(std::string name);
  // Copies what its parent has, so that the parent is no longer needed; what nobody has stays unallocated.
  Task<Result<void>> decouple_parent(std::string name);
  // Puts a thin lvol without own parent, or with another, on top of a snapshot of its size.
  Task<Result<void>> set_parent(std::string name, std::string snapshot_name);
  Task<Result<void>> set_parent_bdev(std::string name, std::string bdev);
  Task<Result<void>> set_read_only(std::string name);
  // Copies the clusters of `name` itself, not of its parents, to the same places of a device that is as large; returns
  // at once with the operation's id. The lvol must be read-only.
  Result<uint32_t> start_shallow_copy(std::string name, std::string destination_bdev);
  // Errc::no_device: no such operation. One that has ended is forgotten once it was asked about.
  Result<ShallowCopyStatus> check_shallow_copy(uint32_t operation_id);
  // A write that finds the store full waits for space instead of failing. Kept with the lvol, not with its snapshots.
  Task<Result<void>> set_pause_when_full(std::string name, bool pause);

  // --- Looking
  std::vector<StoreInfo> stores() const;
  Result<StoreInfo> store(std::string_view store) const;
  // In order of name; `store` empty: of all stores.
  Result<std::vector<LvolInfo>> lvols(std::string_view store = {}) const;
  Result<LvolInfo> lvol(std::string_view name) const;
  std::vector<DamagedLvol> damaged(std::string_view store = {}) const;
  // Devices being looked at: when 0, everything that can be found has been.
  uint64_t examining() const noexcept { return examinations_.inside(); }

  // Unloads every store, examines no more devices.
  Task<void> stop();

 private:
  struct Held;     // a store, watching its disk
  struct Outside;  // a device below esnap clones, claimed and watched
  struct Found {
    Held* held = nullptr;
    std::shared_ptr<Blob> blob;
  };
  // A name that an operation under way is about to give.
  class Pending;

  // DeviceRegistry::Observer
  void on_device_added(const std::shared_ptr<Device>& device) override;
  void on_examine(const std::shared_ptr<Device>& device) override;

  Held* find_store(std::string_view name) const;
  Result<Held*> need_store(std::string_view name) const;
  Result<Found> find_lvol(std::string_view name) const;
  Result<Found> find_sound_lvol(std::string_view name) const;
  Result<void> check_new_lvol(const Store& store, std::string_view name, const Uuid& uuid) const;
  Result<Held*> take_up(std::shared_ptr<Store> store, const std::shared_ptr<Device>& disk);
  void list(Held& held, const std::shared_ptr<Blob>& blob);
  Result<LvolInfo> list_new(Held& held, const std::shared_ptr<Blob>& blob);
  Task<Result<void>> load_device(std::shared_ptr<Device> device);
  Task<void> examine(std::shared_ptr<Device> device);
  Task<Result<void>> close_lvols(Held& held);
  Task<Result<void>> close_store(Held& held, bool lost);
  void forget(Held& held);
  Task<void> lose_store(std::string uuid);
  Result<std::shared_ptr<Device>> take_outside(const std::string& esnap_id);
  void drop_unused_outside();
  Task<void> outside_changed(std::string esnap_id, std::shared_ptr<Device> device);
  void on_outside_removed(Outside& outside);
  void watch_space(Held& held);

  DeviceRegistry& registry_;
  Random random_;
  Events events_;
  std::vector<std::unique_ptr<Held>> stores_;
  std::map<std::string, std::unique_ptr<Outside>> outsides_;  // by UUID text
  std::vector<std::string> pending_names_;
  std::map<uint32_t, std::shared_ptr<ShallowCopy>> copies_;
  uint32_t last_copy_id_ = 0;
  Gate examinations_;
  Gate background_;
};

}  // namespace diskengine::lvol
