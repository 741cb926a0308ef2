// One RAID1 volume: which devices are its legs, in which state, and every change of that. It decides; channels only do
// as the published view says (raid/view.h).
//
//   configuring   not all expected legs are there; no device yet
//   online        the device is registered; degraded while fewer legs are in sync than there are slots
//   offline       the last leg is gone or the volume is being deleted: the device is being unregistered
//
// Threads: the main reactor. Owner: RaidManager; coroutines under way hold a reference too.
#pragma once

#include <array>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "block/registry.h"
#include "format/raid_superblock.h"
#include "raid/board.h"
#include "raid/control_io.h"
#include "raid/dirty_log.h"
#include "raid/events.h"
#include "runtime/dma_buffer.h"
#include "runtime/random.h"

namespace diskengine::raid {

class Rebuild;
class Repairs;
class Scrub;
class RaidDevice;

struct RaidOptions {
  uint32_t process_window_size_kb = 1024;     // how much a rebuild locks and copies at a time
  uint32_t process_max_bandwidth_mb_sec = 0;  // of a rebuild, MiB a second; 0: no limit
  uint32_t log_region_kb = 0;                 // of the dirty-region log of volumes to come; 0: by their size
  uint32_t no_leg_timeout_sec = 300;          // how long I/O waits while no leg can be reached; 0: it fails at once
};

enum class VolumeState : uint8_t { online, configuring, offline };
std::string_view name_of(VolumeState state) noexcept;

enum class SlotRole : uint8_t {
  empty,       // takes a new leg by add_base
  expected,    // its device is known by name or UUID and not there yet
  attached,    // its device is claimed; before the volume is online, or waiting for its rebuild
  rebuilding,  // written to, being copied to
  in_sync,     // read from and written to
};
std::string_view name_of(SlotRole role) noexcept;

class Volume final : public std::enable_shared_from_this<Volume> {
 public:
  static constexpr uint64_t kSuperblockRetryNs = 1'000'000'000;
  static constexpr uint64_t kLegDrainWaitNs = 5'000'000'000;
  static constexpr uint64_t kTakeBackWaitNs = 60'000'000'000;
  static constexpr uint64_t kTakeBackPollNs = 5'000'000;
  static constexpr uint64_t kReachProbeNs = 100'000'000;
  // A leg that is lost again sooner than that after it was found was not there: the wait goes on as before.
  static constexpr uint64_t kReachSettleNs = 5'000'000'000;
  static constexpr const char* kLostCache =
      "its target's machine or drive was started anew: writes that were not flushed may be lost";

  struct Shared {  // what a volume needs of its manager, which outlives it
    DeviceRegistry& registry;
    const RaidOptions& options;
    std::shared_ptr<DmaBuffer> zeroes;
    RaidEvents& events;
    Random& random;
    Uuid machine;                       // its boot; nil: not known
    std::function<void(Volume&)> gone;  // the device is unregistered and every leg let go
  };

  struct Slot final : DeviceWatcher {
    void on_removed(Device& device) override;
    void on_resized(Device& device) override;
    void on_cache_lost(Device& device, const std::shared_ptr<void>& hold) override;
    bool present() const noexcept { return leg != nullptr; }

    Volume* volume = nullptr;
    unsigned index = 0;
    SlotRole role = SlotRole::empty;
    bool excluding = false;                 // on its way out: counts as gone
    bool unrecorded = false;                // in the superblocks of the others it is still in sync
    bool confirmed = false;                 // whoever keeps the record has this leg out already
    bool wanted = false;                    // its exclusion was asked for, and is not decided yet
    OneShot<bool>* confirmation = nullptr;  // its exclusion waits for this
    std::string name;                       // of the device; empty if unknown
    Uuid uuid;                              // of the device; nil if unknown
    uint64_t data_offset = 0;
    uint64_t data_size = 0;
    std::string reason;             // why the slot is not in sync, for people
    bool unsynced = false;          // in sync but for what is still to be copied to it: written to, not read from
    bool copied_in_full = false;    // by the rebuild under way, not only where the log says so
    bool gets_writes = false;       // by the rebuild under way: every channel sends it what it has to have
    uint64_t found_sequence = 0;    // of the superblock that its leg brought along; 0: none of this volume
    bool found_configured = false;  // that superblock calls the leg in sync
    uint64_t found_epoch = 0;       // in the header of the log that it brought along; 0: none
    bool found_damaged = false;     // that header cannot be believed
    bool found_unsynced = false;    // that header says it was not the leg to read
    Uuid cache;                     // its leg's Device::cache_instance() when it last lacked nothing; nil: not known
    uint64_t left_sequence = 0;     // of the first superblock that calls the leg in `recorded_uuid` out
    uint64_t attachments = 0;       // tells one leg in this slot from the next
    std::shared_ptr<Leg> leg;
    std::unique_ptr<Channel> control;  // this reactor's channel to the leg, for superblocks and copies
    spec::RaidBaseState recorded = spec::RaidBaseState::missing;  // in the superblock
    Uuid recorded_uuid;
  };

  Volume(Shared shared, std::string name, Uuid uuid, bool superblock, unsigned slots);
  ~Volume();

  const std::string& name() const noexcept { return name_; }
  const Uuid& uuid() const noexcept { return uuid_; }
  VolumeState state() const noexcept { return state_; }
  bool has_superblock() const noexcept { return superblock_; }
  uint64_t sequence() const noexcept { return sequence_; }
  std::vector<std::unique_ptr<Slot>>& slots() noexcept { return slots_; }
  Slot* slot_of_device(const Device& device) noexcept;
  bool deleting() const noexcept { return deleting_; }
  // While its creator goes through the base devices, nobody else attaches them.
  bool creating() const noexcept { return creating_; }
  void set_creating(bool creating) noexcept { creating_ = creating; }

  // Before the volume is online: what is known of slot `index`.
  void expect(unsigned index, std::string device_name, const Uuid& device_uuid);
  void expect_from(const spec::RaidSuperblock& superblock);
  // As the superblock says, but in sync are `legs`, by somebody's record, and no others; those that are not among them
  // left with this assembly, which comes after the superblock with number `sequence`.
  void expect_only(const spec::RaidSuperblock& superblock, const std::vector<Uuid>& legs, uint64_t sequence);
  // Claims `device` for the slot. Checks block size, size and limits against what the volume needs.
  Result<void> attach(Slot& slot, const std::shared_ptr<Device>& device);
  // Lets the slot's device go (drained by its channels) and makes the slot empty or expected again.
  void detach(Slot& slot, SlotRole role);

  // Registers the device if every expected leg is there; otherwise does nothing.
  Task<Result<void>> go_online_if_complete();
  // Copies to the next attached leg, if the volume is online and no copy is under way.
  void start_next_rebuild();
  // Takes a leg out of an online volume; the others go on. The last one in sync does not go this way: Errc::busy.
  Task<Result<void>> exclude(Slot& slot, spec::RaidBaseState recorded_as, std::string reason);

  // Before the volume is online: somebody keeps the record of its legs and has put it together under this epoch.
  void assembled_under(uint64_t epoch, bool confirm_exclusions) noexcept;
  // Found by its superblocks, and somebody keeps the record of its legs: only who knows that record may put it
  // together.
  bool waits_for_assembly() const noexcept;
  // Whether somebody keeps the record of its legs.
  bool managed() const noexcept { return epoch_ != 0; }
  uint64_t epoch() const noexcept { return epoch_; }
  bool fenced() const noexcept { return fenced_; }

  // With `confirm_exclusions`, from now on no leg that is in sync leaves before confirm_exclusion() was called for it:
  // the writes that it lacks wait, and an `exclusion_wanted` event says so. Otherwise exclusions count once they are
  // in the superblocks. Returns when the legs' logs say the epoch. Epochs only rise; Errc::conflict: this one is over,
  // or the writer was fenced; io_error: a leg could not be written and leaves, say it again.
  Task<Result<void>> set_epoch(uint64_t epoch, bool confirm_exclusions);
  // The exclusion of `leg` (name or UUID of its device) is on record under `epoch`. Of a leg that is well it is an
  // order to exclude it. Errc::conflict: another epoch than the volume's; no_device: no such leg; busy: the last one.
  Task<Result<void>> confirm_exclusion(uint64_t epoch, std::string leg);
  // A later `epoch` began: when this returns no reactor acknowledges anything any more, nor ever will. Held writes and
  // new requests fail with IoCode::fenced. Errc::conflict: `epoch` is not later than the volume's own.
  Task<Result<void>> fence(uint64_t epoch);

  // After every leg may have lost what it had not flushed: goes on with what they hold. Errc::not_found: not stopped.
  Task<Result<void>> resume();
  bool stopped() const noexcept { return stopped_; }

  // The process ends: what waits for a leg, or for an exclusion to count, fails, now and from here on.
  void end_waits();

  // Compares all legs in sync (raid/scrub.h). Errc::already_exists: a scrub is under way; busy: it is not online.
  Result<void> start_scrub(uint64_t max_bandwidth_mb_sec);
  // Returns when it has ended; its findings stay until the next one. Errc::not_found: none is under way.
  Task<Result<void>> stop_scrub();
  const Scrub* scrub() const noexcept { return scrub_.get(); }
  const Repairs& repairs() const noexcept { return *repairs_; }
  std::string scrub_json() const;

  // Unregisters the device, writes zeroes over superblocks if told, and lets every leg go. Errc::timed_out: its users
  // did not let go of it in time; it is gone from the registry and its legs are released all the same.
  Task<Result<void>> shut_down(bool clear_superblock);
  // Waits until nothing is outstanding on a leg that was detached and its device is free, at most kLegDrainWaitNs.
  Task<void> wait_for_drain(std::weak_ptr<Leg> leg);

  // SPDK's description of a RAID volume and our additions, as JSON text without name; for driver_specific too.
  std::string info_json();
  uint64_t known_epoch() const noexcept;  // its own; before it is put together, the latest in its legs' logs
  std::string epoch_json() const;         // a part of it
  std::string why_configuring() const;    // for people
  // The bdev_raid_create call that makes it again; empty if its superblocks do.
  std::string config_json() const;
  Uuid cache_instance() const;  // Device::cache_instance(), of all legs in sync

  // For Rebuild, Repairs and Scrub.
  Reactor& main() const noexcept { return shared_.registry.main_reactor(); }
  const RaidOptions& options() const noexcept { return shared_.options; }
  Board& board() noexcept { return *board_; }
  uint64_t size_blocks() const noexcept { return size_blocks_; }
  uint32_t block_size() const noexcept { return block_size_; }
  void set_copied_until(uint64_t blocks) noexcept { copied_until_ = blocks; }
  // Publishes what has changed; returns when every channel has adopted it.
  Task<void> sync();
  // Holds writes to [begin, end) on all channels; returns when those under way are done. The place of a lock in the
  // view: pass it to unlock, which takes effect with the next sync().
  Task<unsigned> lock_range(uint64_t begin, uint64_t end);
  void unlock_range(unsigned lock) noexcept { locks_[lock] = RangeLock{}; }
  Task<Result<void>> write_superblocks();
  bool rebuilding() const noexcept { return rebuild_ != nullptr; }
  // One of repairs and scrub at a time.
  TaskMutex& process_mutex() noexcept { return process_mutex_; }
  void announce(EventType type, const Slot* slot, std::string reason);
  // The leg could not read these blocks, or write what a process wrote.
  void repair(Slot& slot, uint64_t lba, uint64_t blocks);
  void leg_failed_write(const Slot& slot, IoStatus status);

  // For DirtyLog, and of it (volume_log.cpp).
  DirtyLog& dirty_log() noexcept { return log_; }
  bool keeps_log(const Slot& slot) const noexcept;
  bool legs_are_well() const noexcept;
  // Whether the superblocks still call a leg in sync that is on its way out: it may lack marks that the others have.
  bool exclusion_unrecorded() const noexcept;
  // Higher with every leg that leaves.
  uint64_t leg_changes() const noexcept { return leg_changes_; }
  static void note_found(Slot& slot, const LegContents& contents);

 private:
  friend class RaidDevice;
  struct Waiter {
    uint64_t generation;
    OneShot<bool>* reached;
  };

  void on_leg_failed(const LegFailure& failure);
  void on_leg_removed(Slot& slot);
  void on_device_removing();
  void grow_to_legs();
  Task<bool> record_exclusion(Slot& slot);
  // volume_epoch.cpp
  Event event_of(EventType type, const Slot* slot, std::string reason) const;
  Result<void> check_epoch(uint64_t epoch) const;
  void stop_writer(std::string reason);
  void wake_confirmations();
  Task<bool> wait_for_confirmation(Slot& slot);
  Task<void> clear_superblocks();
  // volume_cache.cpp
  void spawn_leg_lost_cache(Slot& slot, std::shared_ptr<void> hold);
  Task<void> leg_lost_cache(Slot& slot, std::shared_ptr<void> hold);
  Task<void> take_back(Slot& slot, std::shared_ptr<Device> device);
  Task<void> stop(Slot& slot);
  void find_lost_caches(const std::vector<spec::RaidDirtyLogHeader>& headers);
  bool lost_cache(const Slot& slot) const;
  bool every_leg_lost_its_cache() const;
  void accept_caches();
  void settle_lost_caches();
  Task<void> write_log_headers();
  // volume_reach.cpp
  void look_for_leg();
  Task<void> wait_for_leg();
  Task<bool> reach_leg();
  void begin_to_wait();
  void stop_waiting();
  std::string waiting_json() const;
  unsigned count_in_sync() const noexcept;
  unsigned free_tag() const noexcept;
  unsigned count_present() const noexcept;
  void choose_log();
  Task<void> load_log();
  const Slot* choose_source() const noexcept;
  Task<std::optional<spec::RaidDirtyLogHeader>> load_header_of(Slot& slot);
  Task<void> load_pages_of(Slot& slot, uint64_t log_id, std::vector<bool>& known);
  Task<void> load_log_of(Slot& slot, std::vector<bool>& known, std::vector<spec::RaidDirtyLogHeader>& headers);
  Task<bool> load_log_of_returned(Slot& slot);
  Task<Result<void>> store_log_header(Slot& slot);
  Task<bool> choose_copy(Slot& slot);
  void promote_unsynced();
  void publish_soon();
  Task<void> publish();
  std::shared_ptr<const View> snapshot(uint64_t generation) const;
  spec::RaidSuperblock superblock_now() const;
  Result<void> choose_size();
  DeviceInfo device_info() const;
  bool processes_run() const noexcept;
  Task<void> run_rebuild(Slot& slot);
  Task<Result<void>> copy_and_record(Slot& slot);

  Shared shared_;
  std::string name_;
  Uuid uuid_;
  bool superblock_;
  VolumeState state_ = VolumeState::configuring;
  bool going_online_ = false;
  bool deleting_ = false;
  bool creating_ = false;
  bool assembled_ = false;       // by who keeps the record
  uint64_t epoch_ = 0;           // 0: none was given
  uint64_t recorded_epoch_ = 0;  // the legs' logs say it
  bool confirms_ = false;        // exclusions count only when confirmed
  bool fenced_ = false;          // for good
  std::string fence_reason_;
  bool stopped_ = false;  // until it is told to go on
  std::string stop_reason_;
  bool ending_ = false;            // the process does: nothing waits for others any more
  bool looking_ = false;           // wait_for_leg runs
  bool waiting_ = false;           // no leg to read from can be reached
  bool gave_up_ = false;           // and that lasted too long
  uint64_t waiting_since_ns_ = 0;  // 0: never
  uint64_t found_leg_ns_ = 0;      // when that was last over
  Timer wait_timer_;
  unsigned operational_ = 0;    // legs that are, or are expected to be, working
  uint32_t block_size_ = 0;     // bytes; 0 until the first leg
  uint64_t size_blocks_ = 0;    // 0 until online
  uint64_t recorded_size_ = 0;  // in the superblock this volume was found by; 0: none
  uint32_t max_transfer_blocks_ = 0;
  uint64_t sequence_ = 0;  // of the superblock
  std::vector<std::unique_ptr<Slot>> slots_;
  std::weak_ptr<RaidDevice> device_;
  unsigned tags_used_ = 0;  // bit per tag

  std::shared_ptr<Board> board_;
  uint64_t wanted_ = 0;    // generation that holds the latest change
  uint64_t released_ = 0;  // generation that all channels have
  bool publishing_ = false;
  std::vector<Waiter> waiters_;
  uint64_t copied_until_ = 0;
  std::array<RangeLock, kRangeLocksMax> locks_;

  TaskMutex superblock_mutex_;
  DirtyLog log_{*this};
  uint64_t leg_changes_ = 0;
  std::unique_ptr<Rebuild> rebuild_;
  std::unique_ptr<Repairs> repairs_;
  TaskMutex process_mutex_;
  std::unique_ptr<Scrub> scrub_;  // the last one
};

// What the registry lists: a thin face of the volume for the layers above.
class RaidDevice final : public Device {
 public:
  RaidDevice(DeviceInfo info, std::shared_ptr<Board> board, std::shared_ptr<DmaBuffer> zeroes,
             std::weak_ptr<Volume> volume)
      : Device(std::move(info)), board_(std::move(board)), zeroes_(std::move(zeroes)), volume_(std::move(volume)) {}

  Result<std::unique_ptr<Channel>> open_channel(Reactor& reactor) override;
  std::string driver_specific_json() const override;
  std::string config_json() const override;
  Uuid cache_instance() const override;  // of all legs in sync
  void on_remove() override;
  using Device::set_size_blocks;

 private:
  std::shared_ptr<Board> board_;
  std::shared_ptr<DmaBuffer> zeroes_;
  std::weak_ptr<Volume> volume_;
};

}  // namespace diskengine::raid
