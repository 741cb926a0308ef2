#include "lvol/store_channel.h"

#include "lvol/lvol_channel.h"
#include "lvol/store.h"

namespace diskengine::lvol {

Result<std::shared_ptr<StoreChannel>> StoreChannels::on(Reactor& reactor) {
  {
    std::lock_guard lock(mutex_);
    for (const auto& [channel, weak] : channels_)
      if (std::shared_ptr<StoreChannel> open = weak.lock(); open != nullptr && &open->reactor() == &reactor)
        return open;
  }
  // Nobody else opens one for this reactor meanwhile: this is its thread.
  TRY_ASSIGN(std::unique_ptr<Channel> disk, store_.disk().open_channel(reactor));
  auto made = std::make_shared<StoreChannel>(store_.shared_from_this(), reactor, std::move(disk));
  std::lock_guard lock(mutex_);
  channels_.emplace_back(made.get(), made);
  return made;
}

void StoreChannels::forget(const StoreChannel& channel) {
  std::lock_guard lock(mutex_);
  std::erase_if(channels_, [&](const auto& entry) { return entry.first == &channel; });
}

std::vector<Reactor*> StoreChannels::reactors() const {
  std::lock_guard lock(mutex_);
  std::vector<Reactor*> all;
  for (const auto& [channel, weak] : channels_) all.push_back(&channel->reactor());
  return all;
}

StoreChannel* StoreChannels::find(const Reactor& reactor) const {
  std::lock_guard lock(mutex_);
  for (const auto& [channel, weak] : channels_)
    if (&channel->reactor() == &reactor) return channel;
  return nullptr;
}

StoreChannel::StoreChannel(std::shared_ptr<Store> store, Reactor& reactor, std::unique_ptr<Channel> disk)
    : store_(std::move(store)),
      reactor_(reactor),
      disk_(std::move(disk)),
      pieces_(std::make_unique<Piece[]>(kPiecesMax)),
      resumer_(*this) {
  for (unsigned i = 0; i < kPiecesMax; ++i) {
    pieces_[i].next_free = std::exchange(free_, &pieces_[i]);
    ++free_count_;
  }
}

StoreChannel::~StoreChannel() {
  DE_ASSERT(free_count_ == kPiecesMax);
  if (resumer_.linked()) resumer_.unlink();
  store_->channels().forget(*this);
}

Piece* StoreChannel::take() noexcept {
  if (free_ == nullptr) [[unlikely]]
    return nullptr;
  Piece* piece = free_;
  free_ = piece->next_free;
  --free_count_;
  return piece;
}

void StoreChannel::give_back(Piece& piece) noexcept {
  piece.next_free = std::exchange(free_, &piece);
  ++free_count_;
  if (!waiting_.empty() && !resumer_.linked()) [[unlikely]]
    reactor_.defer(resumer_);
}

void StoreChannel::Resumer::run() noexcept {
  const std::shared_ptr<StoreChannel> keep = channel.shared_from_this();
  List<Request> before;
  before.splice_back(channel.waiting_);
  while (!before.empty()) {
    if (channel.free_ == nullptr) {
      // Those that are left were here before any that came meanwhile.
      before.splice_back(channel.waiting_);
      channel.waiting_.splice_back(before);
      return;
    }
    Request& request = before.pop_front();
    static_cast<LvolChannel*>(request.channel)->resume(request);
  }
}

void StoreChannel::begin_grace(const std::shared_ptr<DrainTicket>& ticket) {
  DE_ASSERT(grace_ == nullptr && in_flight_[era_ ^ 1] == 0);
  if (in_flight_[era_] > 0) {
    ticket->add();
    grace_ = ticket;
  }
  era_ ^= 1;
}

}  // namespace diskengine::lvol
