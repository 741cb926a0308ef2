#include "fabric/tcp/stream.h"

#include <poll.h>
#include <sys/socket.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

namespace diskengine::fabric::tcp {
namespace {

constexpr unsigned kSendRoundsMax = 16;  // sendmsg calls of one turn

}  // namespace

Stream::Stream(Reactor& reactor, Staging& staging, Handler& handler, UniqueFd socket, Options options)
    : Source(options.name, socket.get()),
      home_(reactor),
      staging_(staging),
      handler_(handler),
      socket_(std::move(socket)),
      connecting_(options.connecting),
      linger_([this] { fail(0); }),
      arena_(std::make_unique_for_overwrite<uint8_t[]>(options.output_bytes)),
      arena_bytes_(options.output_bytes),
      pieces_(options.output_pieces) {
  DE_ASSERT(socket_ && !pieces_.empty());
  set_events(connecting_ ? POLLOUT : POLLIN);
  home_.add(*this);
}

Stream::~Stream() { close(); }

void Stream::close() noexcept {
  if (!open()) return;
  linger_.cancel();
  if (linked()) unlink();
  home_.remove(*this);
  socket_.reset();
  held_ = 0;
  while (piece_count_ > 0) pop_piece();
}

// Ends the connection from within, and tells the owner.
void Stream::fail(int positive_errno) noexcept {
  if (!open()) return;
  close();
  handler_.on_closed(positive_errno);
}

void Stream::shut_down(uint64_t limit_ns) {
  if (!open() || shutting_down_) return;
  shutting_down_ = true;
  held_ = 0;
  linger_.arm(home_, limit_ns);
  send_later();
}

void Stream::heat() noexcept {
  if (open()) home_.heat(*this);
}

int Stream::poll() noexcept {
  if (connecting_) return check_connected();
  if (blocked_) send();
  return open() ? receive() : 1;
}

int Stream::check_connected() noexcept {
  pollfd wait{socket_.get(), POLLOUT, 0};
  if (::poll(&wait, 1, 0) <= 0) return 0;
  const int error = socket_error(socket_.get());
  if (error != 0) {
    fail(error);
    return 1;
  }
  connecting_ = false;
  set_events(POLLIN);
  handler_.on_connected();
  return 1;
}

int Stream::receive() noexcept {
  std::array<iovec, kDirectPiecesMax + 1> iov;
  size_t pieces = 0;
  size_t direct = 0;
  if (!shutting_down_) {
    pieces = handler_.direct_target(std::span<iovec, kDirectPiecesMax>(iov.data(), kDirectPiecesMax));
    DE_ASSERT(pieces <= kDirectPiecesMax && (pieces == 0 || held_ == 0));
    for (size_t i = 0; i < pieces; ++i) direct += iov[i].iov_len;
  }
  iov[pieces] = {staging_.area(), Staging::kBytes};
  ++stats_.receive_calls;
  const ssize_t got = pieces == 0 ? recv(socket_.get(), staging_.area(), Staging::kBytes, 0)
                                  : readv(socket_.get(), iov.data(), static_cast<int>(pieces + 1));
  if (got < 0) {
    if (errno == EAGAIN || errno == EINTR) return 0;
    fail(errno);
    return 1;
  }
  if (got == 0) {
    fail(0);
    return 1;
  }
  size_t left = static_cast<size_t>(got);
  stats_.received_bytes += left;
  if (shutting_down_) return 1;
  if (direct > 0) {
    const size_t placed = std::min(left, direct);
    left -= placed;
    handler_.on_direct(placed);
  }
  if (left > 0 && open() && !shutting_down_) deliver(left);
  return 1;
}

void Stream::deliver(size_t received) noexcept {
  uint8_t* start = staging_.area() - held_;
  std::memcpy(start, hold_.data(), held_);
  const size_t size = held_ + received;
  const size_t taken = handler_.on_bytes({start, size});
  if (!open() || shutting_down_) return;
  DE_ASSERT(taken <= size && size - taken <= Staging::kHoldMax);
  held_ = size - taken;
  std::memcpy(hold_.data(), start + taken, held_);
}

uint8_t* Stream::reserve(size_t bytes) noexcept {
  if (arena_used_ == 0) arena_head_ = 0;
  const size_t skipped = arena_bytes_ - arena_head_ < bytes ? arena_bytes_ - arena_head_ : 0;
  DE_ASSERT(arena_used_ + skipped + bytes <= arena_bytes_);
  if (skipped > 0) arena_head_ = 0;
  uint8_t* at = arena_.get() + arena_head_;
  arena_head_ += bytes;
  arena_used_ += skipped + bytes;
  Piece* last = piece_count_ > 0 ? &piece_at(piece_count_ - 1) : nullptr;
  if (skipped == 0 && last != nullptr && last->arena_bytes > 0 && last->base + last->bytes == at) {
    last->bytes += bytes;
    last->arena_bytes += bytes;
  } else {
    push_piece({at, bytes, skipped + bytes, nullptr});
  }
  send_later();
  return at;
}

void Stream::append_payload(std::span<const iovec> iov, SendHook* hook) noexcept {
  DE_ASSERT(!iov.empty());
  for (const iovec& piece : iov)
    push_piece({static_cast<const uint8_t*>(piece.iov_base), piece.iov_len, 0, &piece == &iov.back() ? hook : nullptr});
  send_later();
}

void Stream::push_piece(const Piece& piece) noexcept {
  DE_ASSERT(piece_count_ < pieces_.size());
  piece_at(piece_count_++) = piece;
}

void Stream::pop_piece() noexcept {
  const Piece piece = piece_at(0);
  first_piece_ = (first_piece_ + 1) % pieces_.size();
  --piece_count_;
  first_sent_ = 0;
  DE_ASSERT(arena_used_ >= piece.arena_bytes);
  arena_used_ -= piece.arena_bytes;
  if (piece.hook != nullptr) piece.hook->on_released();
}

void Stream::resize_output(size_t bytes, size_t pieces) {
  bytes = std::max(bytes, arena_bytes_);
  pieces = std::max(pieces, pieces_.size());
  auto arena = std::make_unique_for_overwrite<uint8_t[]>(bytes);
  std::vector<Piece> moved(pieces);
  size_t used = 0;
  for (size_t i = 0; i < piece_count_; ++i) {
    Piece piece = piece_at(i);
    if (piece.arena_bytes > 0) {
      std::memcpy(arena.get() + used, piece.base, piece.bytes);
      piece.base = arena.get() + used;
      piece.arena_bytes = piece.bytes;
      used += piece.bytes;
    }
    moved[i] = piece;
  }
  arena_ = std::move(arena);
  arena_bytes_ = bytes;
  arena_head_ = arena_used_ = used;
  pieces_ = std::move(moved);
  first_piece_ = 0;
}

void Stream::send_later() noexcept {
  // Output for a closed stream is accepted and dropped, so that callers need not ask.
  if (!open()) {
    while (piece_count_ > 0) pop_piece();
    return;
  }
  if (!blocked_) home_.at_turn_end(*this);
}

void Stream::at_turn_end() noexcept { send(); }

size_t Stream::gather(std::span<iovec> iov, size_t* bytes) const noexcept {
  const size_t count = std::min(piece_count_, iov.size());
  *bytes = 0;
  for (size_t i = 0; i < count; ++i) {
    const Piece& piece = pieces_[(first_piece_ + i) % pieces_.size()];
    const size_t skip = i == 0 ? first_sent_ : 0;
    iov[i] = {const_cast<uint8_t*>(piece.base) + skip, piece.bytes - skip};
    *bytes += piece.bytes - skip;
  }
  return count;
}

void Stream::send() noexcept {
  if (connecting_) return;
  std::array<iovec, kSendPiecesMax> iov;
  for (unsigned round = 0; piece_count_ > 0 && round < kSendRoundsMax; ++round) {
    size_t bytes = 0;
    msghdr message{};
    message.msg_iov = iov.data();
    message.msg_iovlen = gather(iov, &bytes);
    ++stats_.send_calls;
    const ssize_t sent = sendmsg(socket_.get(), &message, MSG_NOSIGNAL | MSG_DONTWAIT);
    if (sent < 0) {
      if (errno == EINTR) continue;
      if (errno != EAGAIN) {
        fail(errno);
        return;
      }
      set_blocked(true);
      return;
    }
    stats_.sent_bytes += static_cast<size_t>(sent);
    release(static_cast<size_t>(sent));
    if (!open()) return;
    if (static_cast<size_t>(sent) < bytes) {
      set_blocked(true);
      return;
    }
  }
  set_blocked(false);
  if (piece_count_ > 0) {
    home_.at_turn_end(*this);
  } else if (shutting_down_ && !write_shut_) {
    write_shut_ = true;
    shutdown(socket_.get(), SHUT_WR);
  }
  home_.heat(*this);
}

void Stream::release(size_t bytes) noexcept {
  while (bytes > 0) {
    DE_ASSERT(piece_count_ > 0);
    const size_t left = piece_at(0).bytes - first_sent_;
    if (bytes < left) {
      first_sent_ += bytes;
      break;
    }
    bytes -= left;
    pop_piece();
    if (!open()) return;
  }
  if (room_wanted_) {
    room_wanted_ = false;
    handler_.on_output_room();
  }
}

void Stream::set_blocked(bool blocked) noexcept {
  blocked_ = blocked;
  set_events(blocked ? POLLIN | POLLOUT : POLLIN);
  // A cold source waits for the events it had when it went cold.
  if (blocked) home_.heat(*this);
}

}  // namespace diskengine::fabric::tcp
