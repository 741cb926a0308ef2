// One queue of a host at the target: takes commands from the transport, does I/O commands itself on its reactor, and
// hands everything else (Connect, admin commands) to the Target on the main reactor.
//
//   Input object: fabric::TargetCommand. Output object: Request to the namespace's Channel. Completion: on_io_done,
//   then fabric::TargetQueue::complete().
//
// Threads: the reactor the transport placed the connection on. The main reactor knows a queue by its address and posts
// to it; a queue goes away only after the main reactor has let go of it and no command is left.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "fabric/target.h"
#include "nvmf/namespace_port.h"

namespace diskengine::nvmf {

class Target;
class Queue;

// The queues of one reactor and what they counted. Belongs to that reactor.
struct PollGroup {
  PollGroup(Target& t, Reactor& r) : target(t), reactor(r) {}

  Target& target;
  Reactor& reactor;
  List<Queue> queues;
  uint32_t admin_queues = 0;  // ever
  uint32_t io_queues = 0;
  uint32_t current_admin_queues = 0;
  uint32_t current_io_queues = 0;
  uint64_t pending_io = 0;    // commands at block devices
  uint64_t completed_io = 0;  // I/O commands answered
  uint64_t failed_io = 0;     // of them, with an error
};

class Queue final : public fabric::TargetQueueHandler, public ListHook {
 public:
  Queue(PollGroup& group, fabric::TargetQueue& transport);

  void on_command(fabric::TargetCommand& command) noexcept override;
  void on_disconnected() noexcept override;

  fabric::TargetQueue& transport() const noexcept { return transport_; }
  Reactor& reactor() const noexcept { return group_.reactor; }

  // What the main reactor posts.

  // Connect was granted: the queue works from now on. `ports` is null for an admin queue.
  void connected(uint16_t qid, uint32_t depth, bool flow_control, std::string host_nqn,
                 std::shared_ptr<NamespacePorts> ports);
  // Sends the answer in `command`, whose status and result are filled in.
  void finish(fabric::TargetCommand& command) noexcept;
  void disconnect(const char* why) noexcept { transport_.disconnect(why); }
  // The main reactor has forgotten the queue.
  void let_go() noexcept;

 private:
  enum class Kind : uint8_t { unconnected, admin, io };
  struct Io;
  struct Step;

  ~Queue() = default;
  void pass_on(fabric::TargetCommand& command) noexcept;
  void fail(fabric::TargetCommand& command, spec::Status status, bool do_not_retry = true) noexcept;
  bool mark_cid(uint16_t cid) noexcept;
  void send(fabric::TargetCommand& command) noexcept;
  void end_if_empty() noexcept;

  // queue_io.cpp
  void start_io(fabric::TargetCommand& command) noexcept;
  void start_transfer(fabric::TargetCommand& command, NamespacePort& port, Op op) noexcept;
  void start_write_zeroes(fabric::TargetCommand& command, NamespacePort& port) noexcept;
  void start_deallocate(fabric::TargetCommand& command, NamespacePort& port) noexcept;
  void begin(fabric::TargetCommand& command, NamespacePort& port, Op op) noexcept;
  void next_step(fabric::TargetCommand& command) noexcept;
  bool next_range(fabric::TargetCommand& command) noexcept;
  void io_done(fabric::TargetCommand& command) noexcept;
  void end_io(fabric::TargetCommand& command, spec::Status status, bool do_not_retry) noexcept;
  void describe(const fabric::TargetCommand& command, trace::Visit& visit) const noexcept;
  static void on_io_done(Request& request) noexcept;

  PollGroup& group_;
  fabric::TargetQueue& transport_;
  Kind kind_ = Kind::unconnected;
  uint16_t qid_ = 0;
  bool flow_control_ = true;
  bool disconnected_ = false;
  bool let_go_ = false;
  uint32_t depth_ = 2;
  uint32_t sq_head_ = 0;
  uint32_t lent_ = 0;  // commands we have
  std::string host_nqn_;
  std::shared_ptr<NamespacePorts> ports_;
  std::vector<uint64_t> cids_;  // bit per command identifier in use
};

// Fills in the status of an answer, with no result.
inline void set_status(fabric::TargetCommand& command, spec::Status status, bool do_not_retry = true) noexcept {
  command.cqe = {};
  command.cqe.status = spec::status_field(status, status != spec::Status::success && do_not_retry);
}

}  // namespace diskengine::nvmf
