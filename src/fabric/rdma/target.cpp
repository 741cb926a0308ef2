#include "fabric/rdma/target.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstring>
#include <utility>

#include "base/assert.h"
#include "base/log.h"
#include "fabric/rdma/target_queue.h"
#include "fabric/tcp/socket.h"

namespace diskengine::fabric::rdma {

using tcp::SocketAddress;

// --- What connections of a reactor share ----------------------------------------------------------------------------

Result<TargetDevice*> TargetLane::device_of(ibv_context* context) {
  for (const auto& device : devices)
    if (device->context() == context && !device->broken()) return device.get();
  TRY_ASSIGN(std::unique_ptr<TargetDevice> made, TargetDevice::make(verbs, reactor, context, options, dma_regions));
  const std::lock_guard lock(counters.mutex);
  counters.devices.push_back(made->counters());
  devices.push_back(std::move(made));
  return devices.back().get();
}

void TargetLane::drop_broken_devices() {
  const auto done = [](const auto& device) { return device->broken() && !device->has_queues(); };
  for (const auto& device : devices) {
    if (!done(device)) continue;
    const std::lock_guard lock(counters.mutex);
    std::erase(counters.devices, device->counters());
  }
  std::erase_if(devices, done);
}

void TargetLane::close() {
  DE_ASSERT(queues.empty());
  devices.clear();
  channel->close();
}

void refuse_request(Verbs& verbs, rdma_cm_id* id, spec::RdmaCmStatus status) {
  spec::RdmaCmReject data;
  data.status = status;
  std::array<uint8_t, sizeof data> bytes;
  std::memcpy(bytes.data(), &data, sizeof data);
  id->context = nullptr;
  verbs.reject(id, bytes);
  verbs.destroy_id(id);
}

// --- Listening ------------------------------------------------------------------------------------------------------

// A listening identifier on the main reactor. When its device goes away it tries to come back until it is destroyed.
class RdmaTarget::Listener final : public TargetListener, private CmHandler {
 public:
  Listener(RdmaTarget& target, Address address, const SocketAddress& socket_address)
      : TargetListener(std::move(address)),
        target_(target),
        socket_address_(socket_address),
        retry_([this] { listen_again(); }) {}

  Result<void> listen() {
    TRY_ASSIGN(rdma_cm_id* const id, target_.verbs_->create_id(target_.channel_->get(), static_cast<CmHandler*>(this)));
    OwnedId made(*target_.verbs_, id);
    TRY(target_.verbs_->bind_addr(id, reinterpret_cast<const sockaddr*>(&socket_address_.storage)));
    TRY(target_.verbs_->listen(id, static_cast<int>(target_.options().backlog)));
    id_ = std::move(made);
    return {};
  }

 private:
  void on_cm_event(const CmEvent& event) noexcept override {
    if (event.type == RDMA_CM_EVENT_CONNECT_REQUEST) return target_.place(event, address());
    if (event.type != RDMA_CM_EVENT_DEVICE_REMOVAL || !id_) return;
    LOG_WARN("fabric", "listener {}: its RDMA device goes away", address().to_string());
    target_.device_leaves(id_->verbs);
    id_.reset();
    retry_.arm(target_.lanes_.front()->reactor, kListenRetryNs);
  }

  void listen_again() {
    if (Result<void> listening = listen(); !listening) {
      retry_.arm(target_.lanes_.front()->reactor, kListenRetryNs);
      return;
    }
    LOG_INFO("fabric", "listener {}: listens again", address().to_string());
  }

  RdmaTarget& target_;
  const SocketAddress socket_address_;
  OwnedId id_;
  Timer retry_;
};

Result<std::unique_ptr<RdmaTarget>> RdmaTarget::create(std::unique_ptr<Verbs> verbs, std::vector<Reactor*> reactors,
                                                       TargetAcceptor& acceptor, TargetOptions options,
                                                       DmaRegions* regions) {
  DE_ASSERT(!reactors.empty());
  TRY(check_target_options(options));
  std::unique_ptr<RdmaTarget> target(new RdmaTarget(std::move(verbs), options));
  TRY_ASSIGN(target->channel_, CmChannel::make(*target->verbs_, "nvmf_rdma_accept"));
  for (Reactor* reactor : reactors) {
    auto lane = std::make_shared<TargetLane>(*reactor, *target->verbs_, options, regions);
    lane->acceptor = &acceptor;
    TRY_ASSIGN(lane->channel, CmChannel::make(*target->verbs_, "nvmf_rdma_cm"));
    target->lanes_.push_back(std::move(lane));
  }
  return target;
}

RdmaTarget::RdmaTarget(std::unique_ptr<Verbs> verbs, TargetOptions options)
    : TargetTransport("RDMA", options), verbs_(std::move(verbs)) {}

RdmaTarget::~RdmaTarget() = default;

Result<std::unique_ptr<TargetListener>> RdmaTarget::listen(const Address& address) {
  TRY_ASSIGN(const SocketAddress socket_address, SocketAddress::parse(address.address, address.service));
  if (socket_address.is_ipv6() != (address.family == "IPv6"))
    return Error(Errc::invalid_argument, fmt::format("'{}' is not an {} address", address.address, address.family));
  channel_->open(lanes_.front()->reactor);
  auto listener = std::make_unique<Listener>(*this, address, socket_address);
  if (Result<void> listening = listener->listen(); !listening)
    return listening.error().with_context(fmt::format("cannot listen on {}", address.to_string()));
  return std::unique_ptr<TargetListener>(std::move(listener));
}

// Checks a connection request and hands it to the next reactor.
void RdmaTarget::place(const CmEvent& event, const Address& listen_address) {
  const spec::RdmaQueueLimits limits{.queue_id_max = options().max_io_queues,
                                     .admin_entries_max = options().max_admin_depth,
                                     .io_entries_max = options().max_queue_depth};
  const spec::RdmaQueueWish wish = spec::read_rdma_request(event.data(), limits);
  if (!wish.ok()) return refuse(event.id, wish.refused, listen_address);
  // Without READs no write of more than its capsule holds could be served.
  if (event.initiator_depth == 0) return refuse(event.id, spec::RdmaCmStatus::invalid_initiator_depth, listen_address);
  std::shared_ptr<TargetLane> lane = lanes_[next_lane_];
  next_lane_ = (next_lane_ + 1) % lanes_.size();
  event.id->context = nullptr;  // its events wait until the queue is there
  if (Result<void> moved = verbs_->migrate_id(event.id, lane->channel->get()); !moved) {
    LOG_WARN("fabric", "listener {}: {}", listen_address.to_string(), moved.error().message());
    return refuse(event.id, spec::RdmaCmStatus::no_resources, listen_address);
  }
  const TargetRequest request{
      .id = event.id, .wish = wish, .reads = event.initiator_depth, .listen_address = listen_address};
  lane->reactor.post([lane, request] {
    lane->channel->open(lane->reactor);
    RdmaTargetQueue::accept(lane, request);
  });
}

void RdmaTarget::refuse(rdma_cm_id* id, spec::RdmaCmStatus status, const Address& listen_address) {
  lanes_.front()->counters.refused.fetch_add(1, std::memory_order_relaxed);
  LOG_WARN("fabric", "listener {}: a connection from {} was refused: {}", listen_address.to_string(),
           address_of(&id->route.addr.dst_addr).to_string(), spec::name_of(status));
  refuse_request(*verbs_, id, status);
}

// What reactors have of the device is let go once its connections are gone; they hear of it themselves.
void RdmaTarget::device_leaves(ibv_context* context) {
  for (const auto& lane : lanes_)
    lane->reactor.post([lane, context] {
      for (const auto& device : lane->devices)
        if (device->context() == context) device->leave();
      lane->drop_broken_devices();
    });
}

// --- Figures and the end --------------------------------------------------------------------------------------------

TargetTransportStats RdmaTarget::stats(size_t reactor_index) const {
  const TargetLane::Counters& c = lanes_.at(reactor_index)->counters;
  TargetTransportStats stats;
  stats.connections = c.connections.load(std::memory_order_relaxed);
  stats.protocol_errors = c.protocol_errors.load(std::memory_order_relaxed);
  const std::lock_guard lock(c.mutex);
  for (const auto& device : c.devices) {
    const auto read = [](const std::atomic<uint64_t>& counter) { return counter.load(std::memory_order_relaxed); };
    stats.devices.push_back({.name = device->name,
                             .polls = read(device->polls),
                             .idle_polls = read(device->idle_polls),
                             .completions = read(device->completions),
                             .requests = read(device->requests),
                             .pending_data_buffer = read(device->waited_for_buffers),
                             .pending_rdma_read = read(device->waited_for_read),
                             .pending_rdma_send = read(device->waited_for_send),
                             .total_send_wrs = read(device->send_wrs),
                             .send_doorbell_updates = read(device->send_doorbells),
                             .total_recv_wrs = read(device->recv_wrs),
                             .recv_doorbell_updates = read(device->recv_doorbells)});
    stats.waited_for_buffers += stats.devices.back().pending_data_buffer;
    stats.receive_calls += stats.devices.back().polls;
    stats.send_calls += stats.devices.back().send_doorbell_updates;
  }
  return stats;
}

void RdmaTarget::stop(std::function<void()> done) {
  Reactor& main = lanes_.front()->reactor;
  channel_->close();
  auto left = std::make_shared<size_t>(lanes_.size());
  for (const auto& lane : lanes_) {
    auto lane_empty = [&main, lane, left, done] {
      // Not within the last queue's end.
      lane->reactor.post([&main, lane, left, done] {
        lane->close();
        main.post([left, done] {
          if (--*left == 0) done();
        });
      });
    };
    lane->reactor.post([lane, lane_empty] {
      lane->stopping = true;
      lane->on_empty = lane_empty;
      lane->queues.for_each([](RdmaTargetQueue& queue) { queue.disconnect("the target stops"); });
      if (lane->queues.empty()) std::exchange(lane->on_empty, nullptr)();
    });
  }
}

}  // namespace diskengine::fabric::rdma
