// The NVMe/TCP transport of the target: listeners on the main reactor, connections spread over all reactors in turn.
// The connection itself is tcp/target_queue.h.
//
//   Input object: a TCP connection. Output object: a TargetQueue on one of the reactors. Completion:
//   TargetAcceptor::on_connected.
//
// Threads: made, asked to listen and stopped on the main reactor; stats() from any thread.
#pragma once

#include <atomic>
#include <memory>
#include <vector>

#include "fabric/buffer_pool.h"
#include "fabric/target.h"
#include "fabric/tcp/stream.h"

namespace diskengine::fabric::tcp {

class TcpTargetQueue;
struct LaneHook : ListHook {};

// What the connections of one reactor share. Belongs to that reactor, but for the counters.
struct TargetLane {
  TargetLane(Reactor& r, const TargetOptions& o, DmaRegions* d)
      : reactor(r), options(o), dma_regions(d), pool(o.buffer_bytes, o.buffers, d) {}

  Reactor& reactor;
  const TargetOptions options;
  DmaRegions* const dma_regions;  // where the buffers are listed, or null
  TargetAcceptor* acceptor = nullptr;
  Staging staging;
  BufferPool pool;
  List<TcpTargetQueue, LaneHook> queues;
  bool stopping = false;
  std::function<void()> on_empty;  // once stopping and no queue is left

  struct Counters {
    std::atomic<uint64_t> connections{0}, protocol_errors{0}, digest_errors{0}, waited_for_buffers{0};
    std::atomic<uint64_t> receive_calls{0}, send_calls{0};
  } counters;
};

class TcpTarget final : public TargetTransport {
 public:
  // Connections on one reactor; more are refused.
  static constexpr size_t kQueuesPerReactorMax = 16384;

  // `reactors` in their order, the main one first. The acceptor outlives the transport, and so do `regions`, where its
  // buffers are listed, so that disks may reach them; null: nowhere.
  static Result<std::unique_ptr<TcpTarget>> create(std::vector<Reactor*> reactors, TargetAcceptor& acceptor,
                                                   TargetOptions options, DmaRegions* regions = nullptr);
  ~TcpTarget() override;

  Result<std::unique_ptr<TargetListener>> listen(const Address& address) override;
  TargetTransportStats stats(size_t reactor_index) const override;
  void stop(std::function<void()> done) override;

 private:
  class Listener;
  TcpTarget(std::vector<Reactor*> reactors, TargetAcceptor& acceptor, TargetOptions options, DmaRegions* regions);
  void place(UniqueFd socket, const Address& listen_address);

  std::vector<std::shared_ptr<TargetLane>> lanes_;
  size_t next_lane_ = 0;
};

}  // namespace diskengine::fabric::tcp
