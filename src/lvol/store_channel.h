// What the channels of all lvols of one store share on one reactor: the channel to the store's disk, the pool of
// pieces, and the count of what is in flight. Memory is bounded by reactor and store, not by lvol.
//
// Threads: its own reactor, except where noted. Owner: the lvol channels, by shared_ptr; it ends with the last of them.
#pragma once

#include <memory>
#include <mutex>
#include <vector>

#include "block/device.h"
#include "lvol/channel_board.h"
#include "lvol/piece.h"

namespace diskengine::lvol {

class Store;
class StoreChannel;

// All store channels of a store, and the waiting for what they have in flight. Any thread, except grace().
class StoreChannels {
 public:
  explicit StoreChannels(Store& store) : store_(store) {}

  // The store's channel on the current reactor, opened if need be.
  Result<std::shared_ptr<StoreChannel>> on(Reactor& reactor);
  void forget(const StoreChannel& channel);
  std::vector<Reactor*> reactors() const;
  StoreChannel* find(const Reactor& reactor) const;

 private:
  Store& store_;
  mutable std::mutex mutex_;
  std::vector<std::pair<StoreChannel*, std::weak_ptr<StoreChannel>>> channels_;
};

class StoreChannel final : public std::enable_shared_from_this<StoreChannel> {
 public:
  // Pieces under way on one reactor and store; requests that find none wait in order.
  static constexpr unsigned kPiecesMax = 1024;

  StoreChannel(std::shared_ptr<Store> store, Reactor& reactor, std::unique_ptr<Channel> disk);
  ~StoreChannel();

  Store& store() const noexcept { return *store_; }
  Reactor& reactor() const noexcept { return reactor_; }
  Channel& disk() const noexcept { return *disk_; }
  unsigned free_pieces() const noexcept { return free_count_; }

  Piece* take() noexcept;
  void give_back(Piece& piece) noexcept;
  // `request` is resumed (LvolChannel::resume) once there are pieces.
  void wait(Request& request) noexcept { waiting_.push_back(request); }
  bool anyone_waits() noexcept { return !waiting_.empty(); }

  // To the disk, or to the outside device below an esnap clone; counted as in flight until `landed`.
  void send(Piece& piece, Channel& to) noexcept {
    piece.era = era_;
    piece.visit = piece.whole->visit;
    ++in_flight_[era_];
    to.submit(piece);
  }
  void landed(Piece& piece) noexcept {
    if (--in_flight_[piece.era] == 0 && grace_ != nullptr && piece.era != era_) [[unlikely]]
      std::exchange(grace_, nullptr)->drop();
  }
  // Drops `ticket` when everything that is in flight now has landed. One at a time.
  void begin_grace(const std::shared_ptr<DrainTicket>& ticket);

 private:
  struct Resumer final : Deferred {
    explicit Resumer(StoreChannel& c) : channel(c) {}
    void run() noexcept override;
    StoreChannel& channel;
  };

  std::shared_ptr<Store> store_;
  Reactor& reactor_;
  std::unique_ptr<Channel> disk_;
  std::unique_ptr<Piece[]> pieces_;
  Piece* free_ = nullptr;
  unsigned free_count_ = 0;
  List<Request> waiting_;
  Resumer resumer_;
  uint8_t era_ = 0;
  uint64_t in_flight_[2] = {0, 0};
  std::shared_ptr<DrainTicket> grace_;
};

}  // namespace diskengine::lvol
