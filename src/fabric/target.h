// The target's side of a fabric: what a transport (TCP; RDMA and a simulated one behind the same seam) gives to the
// NVMe logic in nvmf/, and what it expects of it.
//
//   Input object: TargetCommand, by TargetQueueHandler::on_command; data of a write is in its buffers then.
//   Output object: the same command with its completion and the data of a read. Completion: TargetQueue::complete().
//
// Threads: transports and listeners belong to the main reactor. A queue belongs to the reactor it was placed on; all of
// its calls and its handler's calls happen there.
#pragma once

#include <sys/uio.h>

#include <array>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <new>
#include <span>
#include <string>
#include <type_traits>
#include <vector>

#include "base/list.h"
#include "base/result.h"
#include "block/request.h"
#include "format/nvme.h"
#include "runtime/reactor.h"

namespace diskengine::fabric {

// Where a listener listens or a peer is, in the words of the NVMe discovery log and of the RPC.
struct Address {
  std::string type = "TCP";
  std::string family = "IPv4";
  std::string address;
  std::string service;

  bool operator==(const Address&) const = default;
  std::string to_string() const { return type + " " + address + ":" + service; }
};

struct TargetOptions {
  uint32_t max_queue_depth = 1024;  // entries of a submission queue
  uint32_t max_admin_depth = 128;
  uint32_t max_io_queues = 127;         // of one controller
  uint32_t in_capsule_bytes = 8192;     // data that may come with a command
  uint32_t max_io_bytes = 1024 * 1024;  // longest transfer (MDTS): a power of two times 4096
  uint32_t buffer_bytes = 64 * 1024;    // unit of the buffers for transfers that do not fit into a command's own
  uint32_t buffers = 1024;              // of them for each reactor
  // RDMA only.
  uint32_t srq_entries = 4096;  // commands that a reactor takes at once on one device, of all its connections
  uint32_t backlog = 100;       // connection requests that wait to be taken
};

// Errc::invalid_argument, naming the option and its range.
Result<void> check_target_options(const TargetOptions& options);

class TargetQueue;

// One NVMe command at the target. Owned by its queue, preallocated; lent to the handler from on_command() until
// complete().
struct TargetCommand : ListHook {
  static constexpr size_t kPiecesMax = 17;
  static constexpr size_t kContextBytes = 64;

  TargetQueue* queue = nullptr;
  spec::Sqe sqe;
  // What the transport found wrong with the command's data pointer or data; the handler answers with it.
  spec::Status transport_status = spec::Status::success;
  // To the controller: the data received. From the controller: room for it; sent if the command succeeds. `data_bytes`
  // is what the command's data pointer says, and what the pieces add up to. Aligned to 4096 unless in-capsule data was
  // offset.
  std::span<const iovec> data;
  uint32_t data_bytes = 0;
  // From the controller: whether the handler may point `data` to other memory than the room given, which `loan` keeps
  // until it was sent.
  bool may_lend = false;
  std::shared_ptr<const uint8_t> loan;
  uint64_t received_ticks = 0;

  spec::Cqe cqe;                                 // the answer; the handler fills in everything
  Request request;                               // for the handler's block I/O
  std::array<iovec, kPiecesMax> request_pieces;  // for a request that covers only a part of the data

  // For the handler, while it has the command.
  template <typename T>
  T& make_context() noexcept {
    static_assert(sizeof(T) <= kContextBytes && alignof(T) <= 8 && std::is_trivially_destructible_v<T>);
    return *new (context_) T();
  }
  template <typename T>
  T& context() noexcept {
    return *std::launder(reinterpret_cast<T*>(context_));
  }

 private:
  alignas(8) std::byte context_[kContextBytes];
};

class TargetQueueHandler {
 public:
  virtual void on_command(TargetCommand& command) noexcept = 0;
  // The connection is over; no more commands come. Every command still lent is to be completed (nothing is sent), then
  // TargetQueue::release() called.
  virtual void on_disconnected() noexcept = 0;

 protected:
  ~TargetQueueHandler() = default;
};

class TargetQueue {
 public:
  virtual ~TargetQueue() = default;

  virtual Reactor& reactor() const noexcept = 0;
  virtual const Address& listen_address() const noexcept = 0;  // as it was given to listen()
  virtual const Address& local_address() const noexcept = 0;   // of this connection
  virtual const Address& peer_address() const noexcept = 0;
  virtual const TargetOptions& options() const noexcept = 0;

  // Before the answer to Connect: the queue holds so many commands from now on. `flow_control` false: the host does not
  // look at the submission queue's head. Allocates all that the queue will need.
  virtual void set_depth(uint32_t entries, bool flow_control) = 0;
  // Sends the answer. The command is the transport's again.
  virtual void complete(TargetCommand& command) noexcept = 0;
  // Ends the connection; on_disconnected() follows, not within this call. Idempotent.
  virtual void disconnect(const char* why) noexcept = 0;
  // After on_disconnected() with no command lent: destroys the queue, not within this call.
  virtual void release() noexcept = 0;
};

// Told of new connections, on the reactor each was placed on.
class TargetAcceptor {
 public:
  // Returns the queue's handler, or nullptr to refuse it.
  virtual TargetQueueHandler* on_connected(TargetQueue& queue) = 0;

 protected:
  ~TargetAcceptor() = default;
};

// Destroying it stops accepting; established connections go on.
class TargetListener {
 public:
  virtual ~TargetListener() = default;
  const Address& address() const noexcept { return address_; }

 protected:
  explicit TargetListener(Address address) : address_(std::move(address)) {}

 private:
  Address address_;
};

// What an RDMA device counted for one reactor.
struct TargetDeviceStats {
  std::string name;
  uint64_t polls = 0;
  uint64_t idle_polls = 0;
  uint64_t completions = 0;
  uint64_t requests = 0;
  uint64_t pending_data_buffer = 0;  // commands that waited for buffers
  uint64_t pending_rdma_read = 0;    // ... for room in the send queue, to READ
  uint64_t pending_rdma_send = 0;    // ... and to answer
  uint64_t total_send_wrs = 0;
  uint64_t send_doorbell_updates = 0;
  uint64_t total_recv_wrs = 0;
  uint64_t recv_doorbell_updates = 0;
};

// What a transport counted on one reactor, for nvmf_get_stats.
struct TargetTransportStats {
  uint64_t connections = 0;
  uint64_t protocol_errors = 0;     // connections ended because the peer broke the protocol
  uint64_t digest_errors = 0;       // commands failed for a wrong data digest
  uint64_t waited_for_buffers = 0;  // commands
  uint64_t receive_calls = 0;       // of connections that ended
  uint64_t send_calls = 0;
  std::vector<TargetDeviceStats> devices;  // of RDMA
};

class TargetTransport {
 public:
  virtual ~TargetTransport() = default;

  const TargetOptions& options() const noexcept { return options_; }
  const std::string& type() const noexcept { return type_; }
  // Main reactor. Errors name the address: in use, not there, not of this transport.
  virtual Result<std::unique_ptr<TargetListener>> listen(const Address& address) = 0;
  // Any thread, of the reactor with this index; roughly current.
  virtual TargetTransportStats stats(size_t reactor_index) const = 0;
  // Main reactor, with no listener left: ends all connections; `done` runs on the main reactor once none is left.
  virtual void stop(std::function<void()> done) = 0;

 protected:
  TargetTransport(std::string type, TargetOptions options) : type_(std::move(type)), options_(options) {}

 private:
  std::string type_;
  TargetOptions options_;
};

}  // namespace diskengine::fabric
