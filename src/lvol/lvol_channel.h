// A lvol on the I/O path: one lvol's channel on one reactor.
//
//   Input object: Request. Output object: a Piece for each cluster that the request touches, from the pool of the
//   store's channel, to the store's disk (or to the outside device below). Completion callback: on_piece, which ends in
//   Channel::finish for the request.
//
// A request within one allocated cluster costs a look into the map and one request to the disk. Reads of what is not
// allocated are zeroes, or go where the lvol's parents have it. What needs metadata (first writes, giving up clusters)
// goes as a message to the main reactor (lvol/provisioner.h) and comes back: nothing else ever waits for metadata.
//
// Threads: its own reactor. Owner: whoever opened it.
#pragma once

#include <memory>

#include "lvol/blob.h"
#include "lvol/geometry.h"
#include "lvol/store_channel.h"

namespace diskengine::lvol {

class LvolChannel final : public Channel, private BoardMember {
 public:
  // Pieces of one request that are under way at a time.
  static constexpr uint16_t kPiecesPerRequest = 8;

  LvolChannel(std::shared_ptr<Device> device, Reactor& reactor, std::shared_ptr<Blob> blob,
              std::shared_ptr<StoreChannel> shared);
  ~LvolChannel() override;

  Blob& blob() const noexcept { return *blob_; }

  // There are pieces again for a request that waited.
  void resume(Request& request) noexcept { go_on(request); }
  // Back from the main reactor.
  void returned(Piece& piece) noexcept;

 private:
  struct Io {
    uint64_t next = 0;       // lvol block
    uint64_t left = 0;       // lvol blocks that no piece has
    uint32_t iov_index = 0;  // where `next` is in the payload
    uint16_t pending = 0;    // pieces under way
    bool sending = false;    // go_on() runs: it looks after the rest itself
    uint64_t iov_offset = 0;
    IoStatus status;  // the first error
  };

  void start(Request& request) noexcept override;
  void begin(Request& request) noexcept;
  void go_on(Request& request) noexcept;
  void cut(Request& request, Io& io, Piece& piece) noexcept;
  uint64_t cut_payload(const Request& request, Io& io, Piece& piece) noexcept;
  void route(Piece& piece) noexcept;
  void route_read(Piece& piece) noexcept;
  void route_zeroing(Piece& piece) noexcept;
  void send_flush(Request& request, Piece& piece) noexcept;
  void to_disk(Piece& piece, uint32_t cluster) noexcept;
  void to_outside(Piece& piece) noexcept;
  void to_owner(Piece& piece) noexcept;
  void read_zeroes(Piece& piece) noexcept;
  static void on_piece(Request& request) noexcept;
  void ended(Piece& piece, IoStatus status) noexcept;
  void conclude(Request& request, IoStatus status) noexcept;
  bool whole_at_once(const Request& request) const noexcept;
  void look_outside();

  // BoardMember
  Reactor& member_reactor() const noexcept override { return reactor(); }
  void freeze(const std::shared_ptr<DrainTicket>& ticket) override;
  void unfreeze() override;

  std::shared_ptr<Blob> blob_;
  std::shared_ptr<StoreChannel> shared_;
  const Geometry& geometry_;
  std::unique_ptr<Channel> outside_;   // to the device at the bottom of the parents
  uint64_t outside_end_ = 0;           // lvol blocks that it has
  uint64_t outside_max_ = UINT64_MAX;  // lvol blocks it takes at a time
  uint64_t active_ = 0;                // requests begun and not ended
  bool frozen_ = false;
  bool resuming_ = false;
  List<Request> held_;       // came while frozen
  List<Request> concluded_;  // ended while resuming_
  std::shared_ptr<DrainTicket> drain_;
};

}  // namespace diskengine::lvol
