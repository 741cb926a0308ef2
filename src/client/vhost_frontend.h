// A virtio-blk driver in user space that is its own hypervisor: connects to a vhost-user-blk back end, gives it memory
// and rings, and does I/O. For load generation, tests and tools; needs no guest.
//
//   Result<std::unique_ptr<VhostFrontend>> disk = VhostFrontend::connect({.socket_path = path});
//   (*disk)->queue(0).submit({.type = VirtioBlkType::in, .sector = 8, .data = (*disk)->data(), .bytes = 4096, .tag =
//   1});
//   (*disk)->queue(0).kick();
//   while ((*disk)->queue(0).reap(done) == 0) {}
//
// Setting up is blocking, with a time-out. Each queue may have a thread of its own; the rest is for one thread.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "base/result.h"
#include "base/unique_fd.h"
#include "client/vhost_frontend_socket.h"
#include "format/virtio_blk.h"
#include "format/virtio_ring.h"

namespace diskengine::client {

struct VhostIo {
  spec::VirtioBlkType type = spec::VirtioBlkType::in;
  uint64_t sector = 0;
  uint8_t* data = nullptr;  // in VhostFrontend::data(); payload of in, out, get_id, discard, write_zeroes
  uint32_t bytes = 0;
  uint64_t tag = 0;  // comes back with the completion
};

struct VhostCompletion {
  uint64_t tag;
  uint8_t status;  // spec::kVirtioBlk…
  uint32_t used_bytes;
};

// The driver's side of one split ring. Never allocates after it was made.
class VhostDriverQueue {
 public:
  struct Memory {
    uint8_t* base;           // all of it, as we see it
    uint64_t guest_address;  // of base
    uint8_t* ring;           // this queue's part, memory_bytes() long, zeroed, 64-byte aligned
  };
  static size_t memory_bytes(uint16_t size) noexcept;

  VhostDriverQueue(uint16_t size, bool event_idx, bool indirect, Memory memory, UniqueFd kick, UniqueFd call);

  // How many requests can be in the ring at once.
  unsigned capacity() const noexcept { return static_cast<unsigned>(slots_.size()); }
  unsigned outstanding() const noexcept { return capacity() - static_cast<unsigned>(free_.size()); }
  // Puts a request into the ring; false if it is full. The back end sees it at the next kick().
  bool submit(const VhostIo& io) noexcept;
  // Shows the back end what was submitted, and wakes it if it sleeps.
  void kick() noexcept;
  // Takes up to `done.size()` completions; returns how many there were.
  unsigned reap(std::span<VhostCompletion> done) noexcept;
  // Blocks until there is something to reap; false after `timeout_ms`.
  bool wait(int timeout_ms) noexcept;

  uint64_t kicks() const noexcept { return kicks_; }
  int kick_fd() const noexcept { return kick_.get(); }
  int call_fd() const noexcept { return call_.get(); }
  uint16_t size() const noexcept { return size_; }
  uint16_t used_index() const noexcept;
  uint8_t* desc() const noexcept { return desc_; }
  uint8_t* avail() const noexcept { return avail_; }
  uint8_t* used() const noexcept { return used_; }

 private:
  // What a request needs beside its data, in shared memory: 64 bytes, so that the header and the status are in one
  // line.
  struct Frame {
    spec::VirtioBlkHeader header;
    uint8_t status;
    uint8_t unused[47];
  };
  static_assert(sizeof(Frame) == 64);
  uint64_t guest(const void* at) const noexcept {
    return memory_.guest_address + static_cast<uint64_t>(static_cast<const uint8_t*>(at) - memory_.base);
  }

  const uint16_t size_;
  const bool event_idx_;
  const bool indirect_;
  Memory memory_;
  UniqueFd kick_;
  UniqueFd call_;
  uint8_t* desc_;
  uint8_t* avail_;
  uint8_t* used_;
  Frame* frames_;
  spec::VringDesc* tables_;      // with indirect_: three descriptors for each slot
  std::vector<uint64_t> slots_;  // tags; three descriptors each, or one with indirect_
  std::vector<uint16_t> free_;   // slots
  uint16_t next_avail_ = 0;
  uint16_t shown_avail_ = 0;
  uint16_t next_used_ = 0;
  uint64_t kicks_ = 0;
};

class VhostFrontend {
 public:
  static constexpr uint64_t kGuestAddress = 0x40000000;

  struct Options {
    std::string socket_path;
    unsigned queues = 1;
    uint16_t queue_size = 128;
    size_t data_bytes = size_t{16} << 20;
    bool event_idx = true;
    bool indirect = true;
    bool inflight = true;  // let the back end keep its in-flight state with us
    int timeout_ms = 10'000;
  };
  static Result<std::unique_ptr<VhostFrontend>> connect(Options options);
  ~VhostFrontend();

  // As a hypervisor does when the back end was restarted: the same memory and rings, with what is in flight in them.
  Result<void> reconnect();
  // Closes the connection at once, whatever is in flight.
  void disconnect() noexcept { socket_.close(); }
  // As a hypervisor does before it lets the guest go: all queues stop, and what was taken completes first.
  Result<void> stop();

  // The guest memory for payloads.
  uint8_t* data() const noexcept { return memory_ + data_offset_; }
  size_t data_bytes() const noexcept { return options_.data_bytes; }
  VhostDriverQueue& queue(unsigned index) { return *queues_[index]; }
  uint64_t features() const noexcept { return features_; }
  const spec::VirtioBlkConfig& config() const noexcept { return config_; }
  Result<void> read_config();
  VhostSocket& socket() noexcept { return socket_; }
  int memory_fd() const noexcept { return memory_fd_.get(); }
  uint8_t* memory() const noexcept { return memory_; }
  size_t memory_bytes() const noexcept { return memory_bytes_; }

  // One request on a queue with nothing else outstanding; returns its status.
  Result<uint8_t> run(unsigned queue, const VhostIo& io);

 private:
  VhostFrontend(Options options, VhostSocket socket) : options_(std::move(options)), socket_(std::move(socket)) {}
  Result<void> make_memory();
  Result<void> negotiate();
  Result<void> share_memory();
  Result<void> share_inflight();
  Result<void> start_queue(unsigned index);

  Options options_;
  VhostSocket socket_;
  uint64_t features_ = 0;
  uint64_t protocol_features_ = 0;
  spec::VirtioBlkConfig config_{};
  UniqueFd memory_fd_;
  uint8_t* memory_ = nullptr;
  size_t memory_bytes_ = 0;
  size_t data_offset_ = 0;
  UniqueFd inflight_fd_;
  spec::VhostUserInflight inflight_{};
  std::vector<std::unique_ptr<VhostDriverQueue>> queues_;
};

}  // namespace diskengine::client
