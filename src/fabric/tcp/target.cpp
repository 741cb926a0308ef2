#include "fabric/tcp/target.h"

#include <fmt/format.h>
#include <sys/socket.h>

#include <cerrno>

#include "base/log.h"
#include "fabric/tcp/target_queue.h"

namespace diskengine::fabric::tcp {
namespace {

constexpr int kBacklog = 1024;
constexpr unsigned kAcceptsPerPollMax = 64;

}  // namespace

Address address_of(const SocketAddress& socket) {
  return {.type = "TCP",
          .family = socket.is_ipv6() ? "IPv6" : "IPv4",
          .address = socket.host(),
          .service = std::to_string(socket.port())};
}

// A listening socket on the main reactor.
class TcpTarget::Listener final : public TargetListener, private Source {
 public:
  Listener(TcpTarget& target, Address address, UniqueFd socket)
      : TargetListener(std::move(address)),
        Source("nvmf_tcp_accept", socket.get()),
        target_(target),
        socket_(std::move(socket)),
        main_(target.lanes_.front()->reactor) {
    main_.add(*this);
  }
  ~Listener() override { main_.remove(*this); }

 private:
  int poll() noexcept override {
    unsigned accepted = 0;
    while (accepted < kAcceptsPerPollMax) {
      UniqueFd socket(accept4(socket_.get(), nullptr, nullptr, SOCK_NONBLOCK | SOCK_CLOEXEC));
      if (!socket) {
        // Out of descriptors: said once; the peers wait in the backlog until some are free.
        if ((errno == EMFILE || errno == ENFILE) && !out_of_descriptors_) {
          out_of_descriptors_ = true;
          LOG_ERROR("fabric", "listener {}: no file descriptors left for new connections; raise the limit (ulimit -n)",
                    address().to_string());
        }
        break;
      }
      out_of_descriptors_ = false;
      ++accepted;
      target_.place(std::move(socket), address());
    }
    return static_cast<int>(accepted);
  }

  TcpTarget& target_;
  UniqueFd socket_;
  Reactor& main_;
  bool out_of_descriptors_ = false;
};

Result<std::unique_ptr<TcpTarget>> TcpTarget::create(std::vector<Reactor*> reactors, TargetAcceptor& acceptor,
                                                     TargetOptions options, DmaRegions* regions) {
  DE_ASSERT(!reactors.empty());
  TRY(check_target_options(options));
  return std::unique_ptr<TcpTarget>(new TcpTarget(std::move(reactors), acceptor, options, regions));
}

TcpTarget::TcpTarget(std::vector<Reactor*> reactors, TargetAcceptor& acceptor, TargetOptions options,
                     DmaRegions* regions)
    : TargetTransport("TCP", options) {
  for (Reactor* reactor : reactors) {
    lanes_.push_back(std::make_shared<TargetLane>(*reactor, options, regions));
    lanes_.back()->acceptor = &acceptor;
  }
}

TcpTarget::~TcpTarget() = default;

Result<std::unique_ptr<TargetListener>> TcpTarget::listen(const Address& address) {
  TRY_ASSIGN(const SocketAddress socket_address, SocketAddress::parse(address.address, address.service));
  if (socket_address.is_ipv6() != (address.family == "IPv6"))
    return Error(Errc::invalid_argument, fmt::format("'{}' is not an {} address", address.address, address.family));
  TRY_ASSIGN(UniqueFd socket, listen_on(socket_address, kBacklog));
  const SocketBuffers buffers = socket_buffers(socket.get());
  if (!buffers.fixed)
    LOG_WARN(
        "fabric",
        "listener {}: the kernel grants only {} and {} bytes of socket buffer; raise net.core.rmem_max and wmem_max to "
        "{} for steady throughput",
        address.to_string(), buffers.receive_bytes, buffers.send_bytes, kSocketBufferBytes);
  return std::unique_ptr<TargetListener>(std::make_unique<Listener>(*this, address, std::move(socket)));
}

void TcpTarget::place(UniqueFd socket, const Address& listen_address) {
  std::shared_ptr<TargetLane> lane = lanes_[next_lane_];
  next_lane_ = (next_lane_ + 1) % lanes_.size();
  // std::function wants something it can copy.
  auto held = std::make_shared<UniqueFd>(std::move(socket));
  lane->reactor.post([lane, held, listen_address] { TcpTargetQueue::accept(lane, std::move(*held), listen_address); });
}

TargetTransportStats TcpTarget::stats(size_t reactor_index) const {
  const TargetLane::Counters& c = lanes_.at(reactor_index)->counters;
  return {.connections = c.connections.load(std::memory_order_relaxed),
          .protocol_errors = c.protocol_errors.load(std::memory_order_relaxed),
          .digest_errors = c.digest_errors.load(std::memory_order_relaxed),
          .waited_for_buffers = c.waited_for_buffers.load(std::memory_order_relaxed),
          .receive_calls = c.receive_calls.load(std::memory_order_relaxed),
          .send_calls = c.send_calls.load(std::memory_order_relaxed),
          .devices = {}};
}

void TcpTarget::stop(std::function<void()> done) {
  Reactor& main = lanes_.front()->reactor;
  auto left = std::make_shared<size_t>(lanes_.size());
  for (const auto& lane : lanes_) {
    auto lane_empty = [&main, left, done] {
      main.post([left, done] {
        if (--*left == 0) done();
      });
    };
    lane->reactor.post([lane, lane_empty] {
      lane->stopping = true;
      lane->on_empty = lane_empty;
      lane->queues.for_each([](TcpTargetQueue& queue) { queue.disconnect("the target stops"); });
      if (lane->queues.empty()) std::exchange(lane->on_empty, nullptr)();
    });
  }
}

}  // namespace diskengine::fabric::tcp
