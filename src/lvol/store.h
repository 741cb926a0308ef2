// One lvol store: a blobstore on its disk, with its lvols. Everything that changes metadata is here or below; names of
// stores, the registry and what an operator may ask for are the manager's (lvol/manager.h).
//
// What must hold, at every moment and on every disk that keeps what was flushed:
//   - a cluster or metadata page that durable metadata refers to is in use in `space`;
//   - metadata never refers to a cluster whose content is not durable before it;
//   - what is given up becomes free only after the transaction that gives it up is durable, and nothing in flight can
//     still reach it.
//
// Operations on a lvol are one at a time (Errc::busy); I/O goes on except where a map is exchanged as a whole.
//
// Threads: the main reactor, except channels() and geometry(). Owner: the manager, and every device and channel of its
// lvols, by shared_ptr; after unload() or abandon() nothing of it reaches the disk any more.
#pragma once

#include <map>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "block/registry.h"
#include "lvol/blob.h"
#include "lvol/geometry.h"
#include "lvol/journal.h"
#include "lvol/loader.h"
#include "lvol/provisioner.h"
#include "lvol/space.h"
#include "lvol/store_channel.h"
#include "lvol/types.h"
#include "runtime/task_mutex.h"

namespace diskengine::lvol {

class Edit;

class Store final : public std::enable_shared_from_this<Store> {
 public:
  using Ptr = std::shared_ptr<Store>;
  using BlobPtr = std::shared_ptr<Blob>;

  struct NewBlob {
    std::string name;
    Uuid uuid;
    uint64_t clusters = 0;
    bool thin = false;
    ClearMethod clear_method = ClearMethod::by_default;
    std::string esnap_id;           // not empty: a clone of that device
    std::shared_ptr<Device> esnap;  // the device, if it is there
    Blob* parent = nullptr;         // a snapshot of this store
  };

  // Writes a new store over `disk`, which the caller has claimed. Errc::invalid_argument, no_space, no_memory,
  // io_error.
  static Task<Result<Ptr>> create(Reactor& main, std::shared_ptr<Device> disk, CreateStore options);
  // As Loader::load; the caller has claimed `disk`.
  static Task<Result<Ptr>> load(Reactor& main, std::shared_ptr<Device> disk, bool trust_masks = true);

  Store(Reactor& main, std::shared_ptr<Device> disk, std::unique_ptr<Channel> channel, LoadedStore loaded);
  ~Store();

  Reactor& main() const noexcept { return main_; }
  Device& disk() const noexcept { return *disk_; }
  Channel& channel() noexcept { return *channel_; }
  const Geometry& geometry() const noexcept { return geometry_; }
  Space& space() noexcept { return space_; }
  Journal& journal() noexcept { return journal_; }
  Provisioner& provisioner() noexcept { return provisioner_; }
  StoreChannels& channels() noexcept { return channels_; }
  TaskMutex& metadata_mutex() noexcept { return metadata_mutex_; }
  std::span<const uint8_t> zeroes() const noexcept { return {zeroes_.data(), zeroes_.size()}; }

  const Uuid& uuid() const noexcept { return uuid_; }
  const std::string& name() const noexcept { return name_; }
  bool stopping() const noexcept { return stopping_; }
  uint64_t data_clusters() const noexcept {
    return journal_.super().total_clusters() - journal_.super().metadata_clusters();
  }
  StoreInfo info() const;
  LvolInfo info_of(const Blob& blob) const;
  std::vector<DamagedLvol> damaged() const;
  // By id; without the super blob.
  const std::map<uint64_t, BlobPtr>& blobs() const noexcept { return blobs_; }
  BlobPtr find(std::string_view name) const;
  BlobPtr find(const Uuid& uuid) const;

  // --- Operations. The manager has checked names and looked after devices.
  Task<Result<void>> rename(std::string name);
  Task<Result<void>> grow();
  Task<Result<BlobPtr>> create_blob(NewBlob options);
  // Its device is gone. Errc::busy: it has several clones.
  Task<Result<void>> delete_blob(BlobPtr blob);
  Task<Result<void>> rename_blob(BlobPtr blob, std::string name);
  Task<Result<void>> resize_blob(BlobPtr blob, uint64_t clusters);
  Task<Result<BlobPtr>> snapshot(BlobPtr blob, std::string name, Uuid uuid);
  Task<Result<void>> inflate(BlobPtr blob, bool only_what_parent_has);
  Task<Result<void>> set_parent(BlobPtr blob, BlobPtr parent);
  Task<Result<void>> set_outside_parent(BlobPtr blob, std::string esnap_id, std::shared_ptr<Device> device);
  Task<Result<void>> set_read_only(BlobPtr blob);
  Task<Result<void>> set_pause_when_full(BlobPtr blob, bool pause);
  // As Device::set_writer_epoch.
  Task<Result<void>> set_writer_epoch(BlobPtr blob, uint64_t epoch);
  // The outside device of esnap clones came or went.
  Task<void> set_outside_device(std::string esnap_id, std::shared_ptr<Device> device);

  // Compares memory with what is on the disk. `repair` frees what belongs to nobody.
  Task<Result<CheckReport>> check(bool repair);
  // Of a store that is not loaded; the caller has claimed `disk`. `repair` makes the masks anew, completes what a crash
  // has left half done, and puts a torn super block right.
  static Task<Result<CheckReport>> check_disk(Reactor& main, std::shared_ptr<Device> disk, bool repair);

  // No device and no channel is left. Writes the masks and says so on disk.
  Task<Result<void>> unload();
  // The same, but the disk is gone or is to be forgotten: nothing is written.
  void abandon();
  // Whether the store is about to go: nothing waits for space any more.
  void set_stopping(bool stopping);
  // After abandon(): the disk no longer holds a store.
  static Task<Result<void>> wipe(Channel& channel);

  // --- For its parts
  // Everything that is in flight now has landed, on every reactor.
  Task<void> grace();
  // Tells the disk that nothing needs the clusters any more, as `method` says; then they are free.
  Task<void> discard_and_release(std::vector<uint32_t> clusters, ClearMethod method);
  // Pages that the latest transaction overwrote as it gave them up: the journal still has an image for them, so they
  // are free only after the next one.
  void release_pages_later(std::vector<uint32_t> pages);
  // With the metadata mutex held: a blob of an older store gets the form that can be changed.
  Task<Result<void>> give_extent_table(Blob& blob);

 private:
  void count_uses(CheckReport& report, Bitmap& pages, Bitmap& clusters) const;
  bool at_rest() const;
  Task<Result<void>> compare_pages(CheckReport& report);
  void free_leaked(CheckReport& report, const Bitmap& pages, const Bitmap& clusters, bool repair);
  void build_blobs(std::vector<LoadedBlob>& loaded);
  BlobPtr build_blob(LoadedBlob& loaded);
  void keep_place_of_super_blob(const std::vector<LoadedBlob>& loaded);
  void build_super_blob(Blob& blob);
  void build_parents();
  Task<Result<void>> finish_load(std::vector<uint32_t> erase, std::vector<uint64_t> rewrite, bool mend_super);
  Task<Result<void>> write_masks();
  Task<Result<void>> write_mask(spec::blobstore::MaskType type, const Bitmap& bits, spec::blobstore::PageRange range);
  Task<Result<void>> put_record(Blob& blob, spec::blobstore::BlobRecord record);
  Task<Result<void>> put_locked(Blob& blob, spec::blobstore::BlobRecord record);
  Task<Result<void>> create_locked(Blob& blob, const NewBlob& options, const std::vector<uint32_t>& clusters);
  Result<void> put_new_extents(Edit& edit, Blob& blob, spec::blobstore::BlobRecord& record, uint64_t first,
                               std::span<const uint32_t> clusters);
  Task<Result<void>> zero_clusters(std::vector<uint32_t> clusters);
  Task<Result<void>> resize_locked(Blob& blob, uint64_t clusters, const std::vector<uint32_t>& added,
                                   std::vector<uint32_t>& freed);
  Task<Result<void>> delete_alone(BlobPtr blob);
  Task<Result<void>> delete_damaged(BlobPtr blob);
  Task<Result<void>> merge_into_clone(Blob& blob, Blob& clone, std::vector<uint32_t>& freed);
  Task<Result<void>> snapshot_locked(Blob& blob, Blob& made);
  Task<Result<void>> own_and_freeze(BlobPtr blob, std::function<bool(uint64_t)> must);
  static bool hides_below(const Blob& parent, uint64_t cluster);
  bool must_own(const Blob& blob, uint64_t cluster, bool only_what_parent_has) const;
  Task<Result<void>> stand_alone(BlobPtr blob, bool only_what_parent_has);
  void adopt(BlobPtr blob);
  void set_parent_of(Blob& blob, Blob* parent);
  Result<void> check_fits(const Blob& blob, const Device& device) const;

  Reactor& main_;
  std::shared_ptr<Device> disk_;
  std::unique_ptr<Channel> channel_;
  Geometry geometry_;
  Space space_;
  Journal journal_;
  Provisioner provisioner_;
  StoreChannels channels_;
  TaskMutex metadata_mutex_;
  TaskMutex grace_mutex_;
  DmaBuffer zeroes_;
  Uuid uuid_;
  std::string name_;
  BlobPtr super_blob_;
  std::map<uint64_t, BlobPtr> blobs_;
  std::vector<uint32_t> pages_for_later_;
  bool was_recovered_ = false;
  bool scanned_ = false;  // every lvol that is on the disk is in memory
  bool stopping_ = false;
  bool closed_ = false;
};

}  // namespace diskengine::lvol
