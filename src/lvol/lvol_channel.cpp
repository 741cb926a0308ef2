#include "lvol/lvol_channel.h"

#include <algorithm>
#include <cstring>

#include "base/checked.h"
#include "base/log.h"
#include "lvol/provisioner.h"
#include "lvol/store.h"
#include "trace/probes.h"

namespace diskengine::lvol {

LvolChannel::LvolChannel(std::shared_ptr<Device> device, Reactor& on, std::shared_ptr<Blob> blob,
                         std::shared_ptr<StoreChannel> shared)
    : Channel(std::move(device), on),
      blob_(std::move(blob)),
      shared_(std::move(shared)),
      geometry_(shared_->store().geometry()) {
  frozen_ = blob_->board.join(*this);
  look_outside();
}

LvolChannel::~LvolChannel() {
  DE_ASSERT(active_ == 0);
  blob_->board.leave(*this);
}

// The outside device below an esnap clone, through a channel of this reactor.
void LvolChannel::look_outside() {
  const std::shared_ptr<Device> below = blob_->bottom().esnap.get();
  if (below == nullptr) {
    outside_ = nullptr;
    return;
  }
  if (outside_ != nullptr && &outside_->device() == below.get()) return;
  outside_ = nullptr;
  Result<std::unique_ptr<Channel>> opened = below->open_channel(reactor());
  if (!opened) {
    LOG_WARN("lvol", "{}: its outside parent '{}' cannot be opened: {}", device().name(), below->name(),
             opened.error().message());
    return;
  }
  outside_ = std::move(opened).value();
  outside_end_ = below->info().size_bytes() / geometry_.unit_bytes;
  const uint64_t most = below->info().max_transfer_blocks;
  outside_max_ = most == 0 ? UINT64_MAX : std::max<uint64_t>(1, most * below->info().block_size / geometry_.unit_bytes);
}

void LvolChannel::start(Request& request) noexcept {
  request.make_context<Io>();
  if (frozen_) [[unlikely]] {
    held_.push_back(request);
    return;
  }
  begin(request);
}

// Within one cluster, and nothing else speaks against passing the payload on as it is.
bool LvolChannel::whole_at_once(const Request& request) const noexcept {
  if (geometry_.offset_in_cluster(request.lba) + request.blocks > geometry_.units_per_cluster) return false;
  if (outside_ == nullptr) [[likely]]
    return true;
  const bool over_the_end = request.lba < outside_end_ && request.lba + request.blocks > outside_end_;
  return !over_the_end && request.blocks <= outside_max_;
}

void LvolChannel::begin(Request& request) noexcept {
  ++active_;
  Io& io = request.context<Io>();
  if (request.op != Op::read && request.op != Op::flush && blob_->read_only.load(std::memory_order_relaxed))
      [[unlikely]] {
    conclude(request, IoStatus::error(IoCode::read_only));
    return;
  }
  io.next = request.lba;
  io.left = request.op == Op::flush ? 1 : request.blocks;
  if (shared_->anyone_waits()) [[unlikely]] {
    shared_->wait(request);
    return;
  }
  go_on(request);
}

void LvolChannel::go_on(Request& request) noexcept {
  Io& io = request.context<Io>();
  io.sending = true;
  while (io.left > 0 && io.pending < kPiecesPerRequest) {
    Piece* piece = shared_->take();
    if (piece == nullptr) [[unlikely]] {
      if (io.pending > 0) break;  // one of them will come back
      io.sending = false;
      trace::note(request.visit, trace::Note::queued);
      shared_->wait(request);
      return;
    }
    piece->channel_above = this;
    piece->whole = &request;
    piece->owner = this;
    piece->done = &LvolChannel::on_piece;
    ++io.pending;
    if (request.op == Op::flush) {
      io.left = 0;
      send_flush(request, *piece);
    } else {
      cut(request, io, *piece);
    }
  }
  io.sending = false;
  if (io.pending == 0 && io.left == 0) conclude(request, io.status);
}

// Takes the next piece off `request` and sends it where it belongs.
void LvolChannel::cut(Request& request, Io& io, Piece& piece) noexcept {
  piece.what = request.op;
  piece.fua = request.fua;
  piece.gives_up = request.op == Op::unmap || (request.op == Op::write_zeroes && request.may_unmap);
  piece.cluster = geometry_.cluster_of(io.next);
  piece.offset = geometry_.offset_in_cluster(io.next);
  if (io.left == request.blocks && whole_at_once(request)) [[likely]] {
    piece.units = request.blocks;
    piece.payload = request.iov;
    io.left = 0;
    route(piece);
    return;
  }
  piece.units = std::min(io.left, geometry_.units_per_cluster - piece.offset);
  if (outside_ != nullptr) {
    piece.units = std::min(piece.units, outside_max_);
    if (io.next < outside_end_) piece.units = std::min(piece.units, outside_end_ - io.next);
  }
  piece.payload = {};
  if (request.op == Op::read || request.op == Op::write) {
    piece.units = cut_payload(request, io, piece);
    if (piece.units == 0) {
      io.left = 0;
      ended(piece, IoStatus::error(IoCode::invalid));
      return;
    }
  }
  io.next += piece.units;
  io.left -= piece.units;
  route(piece);
}

// The payload of up to piece.units blocks; how many whole blocks its iovecs hold.
uint64_t LvolChannel::cut_payload(const Request& request, Io& io, Piece& piece) noexcept {
  uint64_t wanted = piece.units * geometry_.unit_bytes;
  uint64_t got = 0;
  size_t used = 0;
  uint32_t index = io.iov_index;
  uint64_t offset = io.iov_offset;
  while (got < wanted && used < Piece::kSliceMax) {
    const iovec& from = request.iov[index];
    const uint64_t length = std::min<uint64_t>(from.iov_len - offset, wanted - got);
    piece.slice[used++] = {static_cast<uint8_t*>(from.iov_base) + offset, length};
    got += length;
    offset += length;
    if (offset == from.iov_len) {
      ++index;
      offset = 0;
    }
  }
  // Whole blocks only: what is too much goes back.
  uint64_t excess = got % geometry_.unit_bytes;
  got -= excess;
  while (excess > 0) {
    iovec& last = piece.slice[used - 1];
    const uint64_t back = std::min<uint64_t>(excess, last.iov_len);
    last.iov_len -= back;
    excess -= back;
    if (offset == 0) offset = request.iov[--index].iov_len;
    offset -= back;
    if (last.iov_len == 0) --used;
  }
  io.iov_index = index;
  io.iov_offset = offset;
  piece.payload = {piece.slice.data(), used};
  return got / geometry_.unit_bytes;
}

void LvolChannel::route(Piece& piece) noexcept {
  switch (piece.what) {
    case Op::read:
      route_read(piece);
      return;
    case Op::write: {
      const uint32_t cluster = blob_->map.lookup(piece.cluster);
      if (cluster != ClusterMap::kUnallocated && cluster != ClusterMap::kBusy) [[likely]] {
        to_disk(piece, cluster);
      } else {
        to_owner(piece);
      }
      return;
    }
    case Op::unmap:
    case Op::write_zeroes:
      route_zeroing(piece);
      return;
    case Op::flush:
    case Op::compare:
      ended(piece, IoStatus::error(IoCode::not_supported));
      return;
  }
}

void LvolChannel::route_read(Piece& piece) noexcept {
  const uint32_t cluster = blob_->map.lookup(piece.cluster);
  if (cluster == ClusterMap::kBusy) [[unlikely]] {
    to_owner(piece);
    return;
  }
  if (cluster != ClusterMap::kUnallocated) [[likely]] {
    to_disk(piece, cluster);
    return;
  }
  const Source source = source_of(*blob_, piece.cluster);
  switch (source.kind) {
    case Source::Kind::zeroes:
      read_zeroes(piece);
      return;
    case Source::Kind::cluster:
      to_disk(piece, source.cluster);
      return;
    case Source::Kind::outside:
      to_outside(piece);
      return;
    case Source::Kind::busy:
      to_owner(piece);
      return;
  }
}

// unmap and write_zeroes: what was written reads as zeroes afterwards.
void LvolChannel::route_zeroing(Piece& piece) noexcept {
  const uint32_t cluster = blob_->map.lookup(piece.cluster);
  if (cluster == ClusterMap::kBusy) {
    to_owner(piece);
    return;
  }
  const bool nothing_below = source_of(*blob_, piece.cluster).kind == Source::Kind::zeroes;
  if (cluster == ClusterMap::kUnallocated) {
    if (nothing_below) {
      ended(piece, IoStatus::success());
    } else {
      to_owner(piece);
    }
    return;
  }
  const bool whole = piece.offset == 0 && piece.units == geometry_.units_per_cluster;
  const DeviceInfo& disk = shared_->disk().device().info();
  if (whole && piece.gives_up && nothing_below && blob_->thin.load(std::memory_order_relaxed)) {
    to_owner(piece);
    return;
  }
  if (!disk.can_write_zeroes && !(piece.what == Op::unmap && disk.can_unmap)) {
    to_owner(piece);
    return;
  }
  to_disk(piece, cluster);
}

void LvolChannel::to_disk(Piece& piece, uint32_t cluster) noexcept {
  piece.op = piece.what;
  if (piece.op == Op::unmap && !shared_->disk().device().info().can_unmap) [[unlikely]]
    piece.op = Op::write_zeroes;
  piece.may_unmap = piece.gives_up;
  piece.lba = geometry_.lba_in_cluster(cluster, piece.offset);
  piece.blocks = piece.units * geometry_.disk_per_unit;
  piece.iov = piece.payload;
  shared_->send(piece, shared_->disk());
}

void LvolChannel::to_outside(Piece& piece) noexcept {
  const uint64_t at = piece.cluster * geometry_.units_per_cluster + piece.offset;
  if (outside_ == nullptr) {
    ended(piece, IoStatus::error(IoCode::disconnected));
    return;
  }
  if (at >= outside_end_) {
    read_zeroes(piece);
    return;
  }
  const uint64_t ratio = geometry_.unit_bytes / outside_->device().info().block_size;
  piece.op = Op::read;
  piece.fua = false;
  piece.may_unmap = false;
  piece.lba = at * ratio;
  piece.blocks = piece.units * ratio;
  piece.iov = piece.payload;
  shared_->send(piece, *outside_);
}

void LvolChannel::send_flush(Request& request, Piece& piece) noexcept {
  static_cast<void>(request);
  piece.what = Op::flush;
  piece.op = Op::flush;
  piece.fua = false;
  piece.may_unmap = false;
  piece.lba = 0;
  piece.blocks = 0;
  piece.iov = {};
  shared_->send(piece, shared_->disk());
}

void LvolChannel::to_owner(Piece& piece) noexcept {
  piece.stop = Piece::Stop::owner;
  piece.again = false;
  piece.copied = false;
  DE_PROBE2(lvol_allocate, piece.whole, piece.cluster);
  if (trace::Visit* visit = piece.whole->visit; visit != nullptr && visit->waiting == 0) [[unlikely]]
    visit->waiting = ticks();
  piece.provisioner = &shared_->store().provisioner();
  shared_->store().main().post(static_cast<Message&>(piece));
}

void LvolChannel::read_zeroes(Piece& piece) noexcept {
  for (const iovec& part : piece.payload) std::memset(part.iov_base, 0, part.iov_len);
  ended(piece, IoStatus::success());
}

void Piece::deliver() noexcept {
  if (stop == Stop::owner) {
    provisioner->take(*this);
  } else {
    channel_above->returned(*this);
  }
}

void LvolChannel::returned(Piece& piece) noexcept {
  DE_PROBE2(lvol_allocated, piece.whole, piece.copied);
  if (trace::Visit* visit = piece.whole->visit; visit != nullptr) [[unlikely]] {
    visit->prepared = ticks();
    visit->note(trace::Note::allocated);
    if (piece.copied) visit->note(trace::Note::copied);
  }
  if (piece.again) {
    route(piece);
  } else {
    ended(piece, piece.verdict);
  }
}

void LvolChannel::on_piece(Request& request) noexcept {
  auto& piece = static_cast<Piece&>(request);
  LvolChannel& channel = *piece.channel_above;
  channel.shared_->landed(piece);
  channel.ended(piece, piece.status);
}

void LvolChannel::ended(Piece& piece, IoStatus status) noexcept {
  Request& request = *piece.whole;
  Io& io = request.context<Io>();
  if (!status.ok() && io.status.ok()) [[unlikely]] {
    io.status = status;
    io.left = 0;
  }
  --io.pending;
  shared_->give_back(piece);
  if (io.sending) return;
  if (io.left > 0) {
    go_on(request);
  } else if (io.pending == 0) {
    conclude(request, io.status);
  }
}

// The end of `request` here. Runs its completion at once only where nothing follows that could miss this channel.
void LvolChannel::conclude(Request& request, IoStatus status) noexcept {
  if (--active_ == 0 && drain_ != nullptr) [[unlikely]]
    std::exchange(drain_, nullptr)->drop();
  if (!resuming_) [[likely]] {
    finish(request, status);
    return;
  }
  request.status = status;
  concluded_.push_back(request);
}

void LvolChannel::freeze(const std::shared_ptr<DrainTicket>& ticket) {
  frozen_ = true;
  if (active_ == 0) return;
  ticket->add();
  drain_ = ticket;
}

void LvolChannel::unfreeze() {
  frozen_ = false;
  look_outside();
  resuming_ = true;
  List<Request> before;
  before.splice_back(held_);
  while (!before.empty()) {
    Request& request = before.pop_front();
    // The lvol may have become smaller meanwhile.
    if (request.op != Op::flush && !in_range(request.lba, request.blocks, device().size_blocks())) {
      ++active_;
      conclude(request, IoStatus::error(IoCode::invalid));
    } else {
      begin(request);
    }
  }
  resuming_ = false;
  // The last of these may destroy this channel.
  List<Request> due;
  due.splice_back(concluded_);
  while (!due.empty()) {
    Request& request = due.pop_front();
    finish(request, request.status);
  }
}

}  // namespace diskengine::lvol
