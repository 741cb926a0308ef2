// The part of I/O that changes metadata: gives clusters to first writes, takes them back from unmaps. Pieces arrive as
// messages from the channels and leave the same way.
//
//   a first write    a cluster is reserved -> filled: the payload, and around it zeroes or what the parent has
//                    -> the map's change waits for the next transaction -> published -> the write is acknowledged
//   an unmap         the entry is made busy, so that nothing new reaches the cluster -> what is in flight lands
//                    -> transaction -> the cluster is discarded and free
//
// Changes that wait share one transaction (group commit). Whoever else wants a cluster that is being allocated or taken
// back waits for that alone, and then looks again.
//
// Threads: the main reactor. Owner: the store.
#pragma once

#include <deque>
#include <memory>
#include <unordered_map>
#include <vector>

#include "lvol/blob.h"
#include "lvol/channel_board.h"
#include "lvol/piece.h"
#include "runtime/dma_buffer.h"

namespace diskengine::lvol {

class Store;

class Provisioner {
 public:
  static constexpr unsigned kFillsMax = 64;         // clusters filled at a time; the others wait in order
  static constexpr size_t kCopyBytes = 256 * 1024;  // of each copy's buffer
  static constexpr unsigned kCopyBuffersKept = 16;

  explicit Provisioner(Store& store) : store_(store) {}
  ~Provisioner();

  void take(Piece& piece);
  // Gives `cluster` of `blob` a place of its own with the content it shows: for inflate and decouple. Nothing to do is
  // success.
  Task<Result<void>> own(std::shared_ptr<Blob> blob, uint64_t cluster);
  // Space was freed, or will never be: writes that wait for it try again.
  void space_changed();
  // Drops `ticket` when the copies under way are done.
  void begin_grace(const std::shared_ptr<DrainTicket>& ticket);
  bool idle() const noexcept { return works_.empty(); }

 private:
  struct Key {
    const Blob* blob;
    uint64_t cluster;
    bool operator==(const Key&) const = default;
  };
  struct KeyHash {
    size_t operator()(const Key& key) const noexcept {
      return std::hash<const void*>()(key.blob) ^ (key.cluster * 0x9e3779b97f4a7c15);
    }
  };
  struct Work {
    Blob* blob = nullptr;
    uint64_t cluster = 0;
    Piece* first = nullptr;    // null: for own()
    uint32_t old_cluster = 0;  // being taken back; 0: being allocated
    std::vector<Piece*> waiters;
    std::vector<OneShot<bool>*> observers;   // own() that wait for it
    OneShot<Result<void>>* owner = nullptr;  // own() that it is for
  };
  struct Change {
    Blob* blob;
    uint64_t cluster;
    uint32_t where;
    OneShot<Result<void>>* done;
  };
  struct Filled {
    IoStatus status;
    uint32_t cluster = 0;
  };

  Work& begin(Blob& blob, uint64_t cluster);
  void end(Work& work, Result<void> outcome, IoStatus status);
  void send_back(Piece& piece, bool again, IoStatus verdict);
  Task<void> allocate(Work& work);
  Task<Filled> reserve_and_fill(Work& work);
  Task<IoStatus> fill(const Work& work, uint32_t cluster);
  Task<IoStatus> fill_range(const Blob& blob, uint64_t cluster, uint32_t where, uint64_t from, uint64_t units);
  Task<IoStatus> copy(Channel& from, uint64_t from_lba, uint64_t to_lba, uint64_t bytes);
  Task<IoStatus> copy_outside(const Blob& blob, uint64_t at, uint64_t to_lba, uint64_t units);
  Task<void> zero_in_place(Piece& piece);
  Task<void> run_releases();
  Task<Result<void>> change(Blob& blob, uint64_t cluster, uint32_t where);
  Task<void> run_changes();
  Task<void> commit_some();
  uint32_t on_disk(const Blob& blob, uint64_t cluster) const;
  DmaBuffer take_buffer();
  void give_buffer(DmaBuffer buffer);
  uint8_t fill_began() noexcept;
  void fill_ended(uint8_t era) noexcept;

  Store& store_;
  std::unordered_map<Key, std::unique_ptr<Work>, KeyHash> works_;
  std::deque<Work*> releases_;
  bool releasing_ = false;
  std::deque<Change> changes_;
  bool changing_ = false;
  unsigned fills_ = 0;
  std::deque<OneShot<bool>*> fill_waiters_;
  std::vector<OneShot<bool>*> space_waiters_;
  std::vector<DmaBuffer> buffers_;
  uint8_t era_ = 0;
  uint64_t filling_[2] = {0, 0};  // as StoreChannel counts
  std::shared_ptr<DrainTicket> grace_;
};

}  // namespace diskengine::lvol
