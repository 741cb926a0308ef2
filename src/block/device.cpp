#include "block/device.h"

#include <fmt/format.h>

#include <algorithm>
#include <mutex>

#include "base/checked.h"
#include "trace/probes.h"

namespace diskengine {

// The channels of one device on all reactors. Shared with collections under way, so that it may outlive the device.
// A channel is touched only on its own reactor; the mutex guards the list and the sum over closed channels.
struct Device::ChannelSet {
  std::mutex mutex;
  std::vector<Channel*> open;
  IoStats closed;

  std::vector<Reactor*> reactors() {
    std::lock_guard lock(mutex);
    std::vector<Reactor*> all;
    for (Channel* channel : open)
      if (std::find(all.begin(), all.end(), &channel->reactor()) == all.end()) all.push_back(&channel->reactor());
    return all;
  }
};

Device::Device(DeviceInfo info) : info_(std::move(info)), channels_(std::make_shared<ChannelSet>()) {}

Device::~Device() { DE_ASSERT(channels_->open.empty()); }

Result<void> Device::claim(const std::string& owner) {
  if (!claimed_by_.empty()) return Error(Errc::busy, "device '" + name() + "' is already claimed by " + claimed_by_);
  claimed_by_ = owner;
  return {};
}

void Device::set_size_blocks(uint64_t size_blocks) {
  info_.size_blocks = size_blocks;
  size_blocks_.store(size_blocks, std::memory_order_relaxed);
  watchers_.for_each([this](DeviceWatcher& watcher) { watcher.on_resized(*this); });
}

Uuid join_cache_instances(const Uuid& one, const Uuid& other) {
  if (one.is_nil() || other.is_nil()) return {};
  if (one == other || other == kNothingCached) return one;
  if (one == kNothingCached) return other;
  return Uuid::from_name(one.to_string() + other.to_string());
}

void Device::announce_cache_lost(const std::shared_ptr<void>& hold) {
  watchers_.for_each([&](DeviceWatcher& watcher) { watcher.on_cache_lost(*this, hold); });
}

void Device::announce_removed() {
  removed_ = true;
  on_remove();
  watchers_.for_each([this](DeviceWatcher& watcher) { watcher.on_removed(*this); });
}

void Device::attach_channel(Channel& channel) {
  std::lock_guard lock(channels_->mutex);
  channels_->open.push_back(&channel);
}

void Device::detach_channel(Channel& channel) {
  std::lock_guard lock(channels_->mutex);
  std::erase(channels_->open, &channel);
  channels_->closed.merge(channel.stats());
}

namespace {

// Visits `reactors` one after the other, running `visit` on each, and comes back to `home` for `done`.
void visit_reactors(std::vector<Reactor*> reactors, std::function<void(Reactor&)> visit, Reactor* home,
                    std::function<void()> done) {
  if (reactors.empty()) {
    if (home != nullptr) {
      home->post(std::move(done));
    } else {
      done();
    }
    return;
  }
  Reactor* next = reactors.back();
  reactors.pop_back();
  next->post([next, reactors = std::move(reactors), visit = std::move(visit), home, done = std::move(done)]() mutable {
    visit(*next);
    visit_reactors(std::move(reactors), std::move(visit), home, std::move(done));
  });
}

}  // namespace

void Device::collect_stats(StatsReset reset, std::function<void(DeviceStats)> done) {
  auto found = std::make_shared<DeviceStats>();
  std::shared_ptr<ChannelSet> set = channels_;
  {
    std::lock_guard lock(set->mutex);
    found->total.merge(set->closed);
    set->closed.reset(reset);
  }
  visit_reactors(
      set->reactors(),
      [set, found, reset](Reactor& reactor) {
        std::lock_guard lock(set->mutex);
        for (Channel* channel : set->open) {
          if (&channel->reactor() != &reactor) continue;
          found->channels.push_back({reactor.id(), channel->stats()});
          found->total.merge(channel->stats());
          channel->reset_stats(reset);
        }
      },
      Reactor::current(), [found, done = std::move(done)] { done(std::move(*found)); });
}

namespace {

Outstanding outstanding_on(const Channel& channel, uint64_t now_ticks) {
  const Request& oldest = *channel.oldest();
  return {.reactor_id = channel.reactor().id(),
          .count = channel.outstanding(),
          .oldest_op = oldest.op,
          .oldest_lba = oldest.lba,
          .oldest_blocks = oldest.blocks,
          .oldest_age_ticks = now_ticks > oldest.submit_ticks ? now_ticks - oldest.submit_ticks : 0};
}

}  // namespace

void Device::collect_outstanding(std::function<void(std::vector<Outstanding>)> done) {
  auto found = std::make_shared<std::vector<Outstanding>>();
  std::shared_ptr<ChannelSet> set = channels_;
  visit_reactors(
      set->reactors(),
      [set, found](Reactor& reactor) {
        std::lock_guard lock(set->mutex);
        for (const Channel* channel : set->open)
          if (&channel->reactor() == &reactor && channel->oldest() != nullptr)
            found->push_back(outstanding_on(*channel, reactor.batch_ticks()));
      },
      Reactor::current(), [found, done = std::move(done)] { done(std::move(*found)); });
}

// Runs the completions that came inside start().
struct Channel::Completer final : Deferred {
  explicit Completer(Channel& c) : channel(c) {}
  ~Completer() {
    if (linked()) unlink();
  }
  void run() noexcept override {
    // Completions submit new requests, whose completions wait for the next run: each run is bounded by what it found.
    List<Request> due;
    due.splice_back(channel.finished_);
    // The last completion may destroy the channel, and with it this object.
    while (!due.empty()) {
      Request& request = due.pop_front();
      channel.complete(request);
    }
  }
  Channel& channel;
};

Channel::Channel(std::shared_ptr<Device> device, Reactor& reactor)
    : device_(std::move(device)), reactor_(reactor), completer_(std::make_unique<Completer>(*this)) {
  device_->attach_channel(*this);
}

Channel::~Channel() {
  DE_ASSERT(outstanding_ == 0);
  device_->detach_channel(*this);
}

IoStatus Channel::check(const Request& request) const noexcept {
  const DeviceInfo& info = device_->info();
  if (request.op == Op::flush) return IoStatus::success();
  if (request.blocks == 0 || !in_range(request.lba, request.blocks, device_->size_blocks()))
    return IoStatus::error(IoCode::invalid);
  switch (request.op) {
    case Op::unmap:
      if (!info.can_unmap) return IoStatus::error(IoCode::not_supported);
      break;
    case Op::write_zeroes:
      if (!info.can_write_zeroes) return IoStatus::error(IoCode::not_supported);
      break;
    case Op::compare:
      if (!info.can_compare) return IoStatus::error(IoCode::not_supported);
      [[fallthrough]];
    case Op::read:
    case Op::write: {
      if (info.max_transfer_blocks != 0 && request.blocks > info.max_transfer_blocks)
        return IoStatus::error(IoCode::invalid);
      uint64_t bytes = 0;
      for (const iovec& piece : request.iov) bytes += piece.iov_len;
      if (bytes != request.blocks * info.block_size) return IoStatus::error(IoCode::invalid);
      break;
    }
    case Op::flush:
      break;
  }
  if (device_->read_only() && request.op != Op::read && request.op != Op::compare)
    return IoStatus::error(IoCode::read_only);
  return IoStatus::success();
}

void Channel::submit(Request& request) noexcept {
  DE_ASSERT(Reactor::current() == nullptr || Reactor::current() == &reactor_);
  DE_ASSERT(request.done != nullptr && !request.linked());
  request.channel = this;
  request.submit_ticks = reactor_.batch_ticks();
  ++outstanding_;
  link(request);
  DE_PROBE5(request_submit, &request, device_->info().name.c_str(), static_cast<int>(request.op), request.lba,
            request.blocks);
  if (request.visit != nullptr) [[unlikely]]
    enter(request);
  const bool nested = starting_;
  starting_ = true;
  const IoStatus checked = check(request);
  if (checked.ok()) [[likely]] {
    start(request);
  } else {
    finish(request, checked);
  }
  starting_ = nested;
}

void Channel::enter(Request& request) const noexcept {
  const DeviceInfo& info = device_->info();
  request.visit =
      request.visit->enter(info.name, info.layer, static_cast<uint8_t>(request.op), request.lba, request.blocks);
}

void Channel::link(Request& request) noexcept {
  request.older = newest_;
  request.newer = nullptr;
  (newest_ != nullptr ? newest_->newer : oldest_) = &request;
  newest_ = &request;
}

void Channel::unlink(Request& request) noexcept {
  (request.older != nullptr ? request.older->newer : oldest_) = request.newer;
  (request.newer != nullptr ? request.newer->older : newest_) = request.older;
}

void Channel::finish(Request& request, IoStatus status) noexcept {
  DE_ASSERT(request.channel == this);
  request.status = status;
  if (!starting_) {
    complete(request);
    return;
  }
  finished_.push_back(request);
  if (!completer_->linked()) reactor_.defer(*completer_);
}

void Channel::complete(Request& request) noexcept {
  const uint64_t took = reactor_.batch_ticks() - request.submit_ticks;
  OpStats& stats = stats_.ops[static_cast<size_t>(request.op)];
  ++stats.count;
  stats.bytes += request.op == Op::flush ? 0 : request.blocks * device_->info().block_size;
  if (!request.status.ok()) ++stats.errors;
  stats.ticks += took;
  if (took > stats.max_ticks) stats.max_ticks = took;
  if (took < stats.min_ticks) stats.min_ticks = took;
  stats_.latency[request.op == Op::read ? 0 : request.op == Op::write ? 1 : 2].record(took);
  DE_PROBE3(request_complete, &request, device_->info().name.c_str(), static_cast<int>(request.status.code));
  request.channel = nullptr;
  unlink(request);
  if (request.visit != nullptr) [[unlikely]]
    std::exchange(request.visit, nullptr)->leave(request.status.ok());
  DE_ASSERT(outstanding_ > 0);
  if (--outstanding_ == 0 && !idle_waiters_.empty()) [[unlikely]] {
    std::vector<std::function<void()>> waiters = std::move(idle_waiters_);
    idle_waiters_.clear();
    Reactor& reactor = reactor_;
    request.done(request);
    for (auto& waiter : waiters) reactor.post(std::move(waiter));
    return;
  }
  request.done(request);
}

void Channel::when_idle(std::function<void()> idle) {
  if (outstanding_ == 0) {
    idle();
  } else {
    idle_waiters_.push_back(std::move(idle));
  }
}

Task<Result<void>> Device::set_writer_epoch(uint64_t) {
  co_return Error(Errc::not_supported, fmt::format("device '{}' keeps no writer's epoch", name()));
}

}  // namespace diskengine
