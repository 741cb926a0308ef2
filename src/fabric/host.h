// The seam between the NVMe host (src/nvme/) and what carries its queues: TCP, RDMA, PCIe and a simulated network
// behind the same three interfaces. Nothing above this header knows which one it is: the commands of fabrics that
// connect a queue and reach properties are carried out by the transport where the controller has registers instead.
//
// An error Errc::not_found, from connect() or as the reason of a lost queue, says that there is no such controller any
// more, so that it is of no use to try again.
//
//   Input object: HostCommand, by HostQueue::submit. Output object: the transport's own messages. Completion:
//   HostCommand::done, exactly once, never inside submit.
//
// Threads: a transport may be used from any reactor. A queue and all its calls and callbacks belong to the reactor it
// was connected on.
#pragma once

#include <sys/uio.h>

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "base/list.h"
#include "base/result.h"
#include "format/nvme.h"
#include "runtime/reactor.h"

namespace diskengine::fabric {

// Where a subsystem is reached, in the words of the transport type ("TCP", "RDMA", "PCIe").
struct HostAddress {
  std::string transport = "TCP";
  std::string address;       // numeric IP address, or PCI address
  std::string service;       // port
  std::string host_address;  // the local address to connect from; empty: the kernel's choice
  std::string host_service;
};

struct HostQueueOptions {
  const char* name = "nvme_host";  // a literal for thread_get_pollers
  uint16_t queue_id = 0;           // 0: the admin queue
  uint32_t depth = 128;            // commands in flight, at most kQueueDepthMax
  // Most data that may travel in a command's capsule. Learned from Identify for I/O queues.
  uint32_t capsule_data_bytes = 8192;
  uint32_t transfer_bytes_max = 1024 * 1024;  // most data of one command
  bool header_digest = false;
  bool data_digest = false;
  // Of I/O queues over PCIe, from Identify: what the controller says of SGLs, and whether it takes shadow doorbells.
  uint32_t sgls = 0;
  bool shadow_doorbells = false;
};

inline constexpr uint32_t kQueueDepthMax = 1024;
inline constexpr size_t kCommandPiecesMax = 1024;  // of HostCommand::iov

enum class HostOutcome : uint8_t {
  answered,  // `cqe` is what the controller said
  lost,      // the queue is gone and with it the command; whether it took effect is not known
};

// One NVMe command. Owned by its submitter until `done` runs. The memory behind `iov` stays put until then.
struct HostCommand : ListHook {
  using Completion = void (*)(HostCommand&) noexcept;

  // Set by the submitter. The transport fills in the command id, the flags and the data pointer.
  spec::Sqe sqe;
  spec::DataDirection direction = spec::DataDirection::none;
  uint32_t data_bytes = 0;     // 0 exactly when the direction is none
  size_t iov_offset = 0;       // where in `iov` the data starts
  std::span<const iovec> iov;  // has at least iov_offset + data_bytes bytes
  Completion done = nullptr;
  void* owner = nullptr;  // for `done`

  // Set by completion.
  spec::Cqe cqe;
  HostOutcome outcome = HostOutcome::answered;

  // Makes it a new command without data.
  void reset(uint8_t opcode) noexcept {
    sqe = {};
    sqe.opcode = opcode;
    direction = spec::DataDirection::none;
    data_bytes = 0;
    iov_offset = 0;
    iov = {};
  }
};

struct HostQueueStats {
  uint64_t polls = 0;
  uint64_t idle_polls = 0;
  uint64_t socket_completions = 0;  // batches received
  uint64_t nvme_completions = 0;    // commands answered
  uint64_t queued_requests = 0;     // commands that waited for output room
  uint64_t submitted_requests = 0;
  uint64_t system_calls = 0;     // PCIe: doorbells written
  uint64_t direct_requests = 0;  // RDMA, PCIe: the controller reached their data where it is
};

// Told what becomes of a queue, on its reactor. The queue must not be destroyed inside these calls.
class HostQueueEvents {
 public:
  // Commands may be submitted.
  virtual void on_connected() noexcept = 0;
  // The queue never came up, or it is lost, or disconnect() was called: every command was completed as lost before.
  // Last call.
  virtual void on_disconnected(const Error& reason) noexcept = 0;

 protected:
  ~HostQueueEvents() = default;
};

class HostQueue {
 public:
  // On its reactor, outside of its own callbacks, with no command outstanding.
  virtual ~HostQueue() = default;

  // At most HostQueueOptions::depth commands at once. After on_connected() and before on_disconnected().
  virtual void submit(HostCommand& command) noexcept = 0;
  virtual uint32_t outstanding() const noexcept = 0;
  // Closes the connection now: nothing more is sent or received for any command. They complete as lost and
  // on_disconnected follows, later and not inside this call. Idempotent.
  virtual void disconnect() noexcept = 0;
  virtual HostQueueStats stats() const noexcept = 0;
};

class HostTransport {
 public:
  virtual ~HostTransport() = default;

  // Begins to connect, on the calling thread's reactor; `events` outlives the queue and is told how it went. Errors are
  // those that can be seen at once: a bad address, no descriptors left.
  virtual Result<std::unique_ptr<HostQueue>> connect(Reactor& reactor, const HostAddress& address,
                                                     const HostQueueOptions& options, HostQueueEvents& events) = 0;
  // Where controllers are known to be, for a transport that can tell.
  virtual std::vector<std::string> addresses() const { return {}; }
};

}  // namespace diskengine::fabric
