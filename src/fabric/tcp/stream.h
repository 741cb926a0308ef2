// One TCP connection on one reactor: received bytes go to a handler in large batches, output of a whole turn leaves in
// one system call. Both ends of NVMe/TCP stand on it.
//
//   Input: bytes from the socket, to Handler::on_bytes (or straight into Handler::direct_target's memory).
//   Output: reserve() and append_payload(), sent at the end of the turn. Completion: SendHook::on_released.
//
// Threads: everything on the stream's reactor. The owner creates it there, and destroys it there outside of its
// callbacks (through Reactor::defer or post). What a handler does with a closed stream is ignored, so it need not ask.
#pragma once

#include <sys/uio.h>

#include <array>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "fabric/tcp/socket.h"
#include "runtime/dma_buffer.h"
#include "runtime/reactor.h"

namespace diskengine::fabric::tcp {

// Where sockets of one reactor receive into, one after the other: it stays in the processor's cache however many
// connections there are. Made with its reactor's transport; streams keep only an incomplete header between turns.
class Staging {
 public:
  static constexpr size_t kBytes = 256 * 1024;
  // Most bytes that a handler may leave untaken.
  static constexpr size_t kHoldMax = 256;

  Staging() : memory_(kHoldMax + kBytes) {}
  uint8_t* area() noexcept { return memory_.data() + kHoldMax; }  // kHoldMax bytes before it are usable too

 private:
  DmaBuffer memory_;
};

// Told once memory given to append_payload is no longer needed: sent, or the stream closed.
class SendHook {
 public:
  virtual void on_released() noexcept = 0;

 protected:
  ~SendHook() = default;
};

class Stream final : private Source, private TurnEndHook {
 public:
  static constexpr size_t kSendPiecesMax = 256;   // iovecs of one sendmsg
  static constexpr size_t kDirectPiecesMax = 64;  // of one direct_target

  class Handler {
   public:
    // The connection attempt of Options::connecting succeeded.
    virtual void on_connected() noexcept {}
    // Received bytes, contiguous; returns how many were taken. What is left, at most Staging::kHoldMax, comes again in
    // front of the next ones.
    virtual size_t on_bytes(std::span<uint8_t> bytes) noexcept = 0;
    // Where the next bytes of the stream belong, if it pays to receive them there at once (nothing is held then):
    // fills `out` and returns how many pieces; 0 for staging. on_direct() follows with how many bytes arrived.
    virtual size_t direct_target(std::span<iovec, kDirectPiecesMax> out) noexcept {
      static_cast<void>(out);
      return 0;
    }
    virtual void on_direct(size_t bytes) noexcept { static_cast<void>(bytes); }
    // There is output room again after want_room().
    virtual void on_output_room() noexcept {}
    // The connection is over: the peer closed it (0), it failed (errno), or shut_down() came to its end (0). Last call.
    virtual void on_closed(int positive_errno) noexcept = 0;

   protected:
    ~Handler() = default;
  };

  struct Options {
    const char* name = "nvme_tcp";  // a literal for thread_get_pollers
    bool connecting = false;        // the descriptor comes from begin_connect()
    size_t output_bytes = 16 * 1024;
    size_t output_pieces = 128;
  };

  struct Stats {
    uint64_t receive_calls = 0;
    uint64_t send_calls = 0;
    uint64_t received_bytes = 0;
    uint64_t sent_bytes = 0;
  };

  // Begins to receive. On the reactor's thread.
  Stream(Reactor& reactor, Staging& staging, Handler& handler, UniqueFd socket, Options options);
  ~Stream();  // closes

  bool open() const noexcept { return socket_.get() >= 0; }
  int descriptor() const noexcept { return socket_.get(); }
  const Stats& stats() const noexcept { return stats_; }

  // `bytes` contiguous bytes of output for small PDUs, to be filled before the turn ends; neighbours merge into one
  // iovec. The caller made sure of the room.
  uint8_t* reserve(size_t bytes) noexcept;
  // Output by reference: `iov` itself is copied, its memory stays put until `hook` (may be null) is released.
  void append_payload(std::span<const iovec> iov, SendHook* hook) noexcept;
  // True if reserve() calls of `bytes` in sum and `pieces` pieces of payload and headers fit now.
  bool has_room(size_t bytes, size_t pieces) const noexcept {
    return arena_bytes_ - arena_used_ >= 2 * bytes && pieces_.size() - piece_count_ >= pieces;
  }
  void want_room() noexcept { room_wanted_ = true; }
  // Makes room for at least so much unsent output at once. Allocates: for set-up.
  void resize_output(size_t bytes, size_t pieces);
  bool output_empty() const noexcept { return piece_count_ == 0; }

  // An answer is expected soon: poll instead of waiting.
  void heat() noexcept;
  // At once, unsent output is dropped; no on_closed. Idempotent.
  void close() noexcept;
  // Sends what is pending, then says so to the peer, drops whatever still arrives, and closes when the peer does, or
  // after `limit_ns`.
  void shut_down(uint64_t limit_ns);

 private:
  struct Piece {
    const uint8_t* base;
    size_t bytes;
    size_t arena_bytes;  // to free once sent: its own, and what was skipped at the arena's end before it
    SendHook* hook;
  };

  int poll() noexcept override;
  void at_turn_end() noexcept override;
  int check_connected() noexcept;
  int receive() noexcept;
  void deliver(size_t received) noexcept;
  void send() noexcept;
  size_t gather(std::span<iovec> iov, size_t* bytes) const noexcept;
  void release(size_t bytes) noexcept;
  void pop_piece() noexcept;
  void push_piece(const Piece& piece) noexcept;
  Piece& piece_at(size_t index) noexcept { return pieces_[(first_piece_ + index) % pieces_.size()]; }
  void set_blocked(bool blocked) noexcept;
  void send_later() noexcept;
  void fail(int positive_errno) noexcept;

  Reactor& home_;
  Staging& staging_;
  Handler& handler_;
  UniqueFd socket_;
  bool connecting_;
  bool shutting_down_ = false;
  bool write_shut_ = false;
  bool blocked_ = false;  // the socket's buffer is full
  bool room_wanted_ = false;
  Timer linger_;
  Stats stats_;

  size_t held_ = 0;
  std::array<uint8_t, Staging::kHoldMax> hold_;

  std::unique_ptr<uint8_t[]> arena_;  // ring of small PDUs
  size_t arena_bytes_;
  size_t arena_head_ = 0;  // next byte to hand out
  size_t arena_used_ = 0;
  std::vector<Piece> pieces_;  // ring
  size_t first_piece_ = 0;
  size_t piece_count_ = 0;
  size_t first_sent_ = 0;  // bytes of the first piece already sent
};

}  // namespace diskengine::fabric::tcp
