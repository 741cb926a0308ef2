// Connection manager events on a reactor. An event is copied and acknowledged before its handler hears of it, so a
// handler may destroy its identifier at once.
//
//   Input object: rdma_cm_event. Output object: CmEvent, to the CmHandler in the identifier's context.
//
// Threads: a channel belongs to one reactor from open() to close(); identifiers may be moved to it by another thread.
#pragma once

#include <array>
#include <memory>
#include <span>
#include <string>

#include "fabric/rdma/verbs.h"
#include "runtime/reactor.h"

namespace diskengine::fabric::rdma {

struct CmEvent {
  rdma_cm_event_type type;
  int status;      // negative errno, or for a refusal the connection manager's reason
  rdma_cm_id* id;  // of a connection request: the new one
  // Of a connection request or answer.
  uint8_t responder_resources;
  uint8_t initiator_depth;  // RDMA READs the peer lets us have outstanding
  std::array<uint8_t, 256> private_data;
  uint8_t private_bytes;
  std::span<const uint8_t> data() const noexcept { return {private_data.data(), private_bytes}; }
};

// What an identifier's context points to.
class CmHandler {
 public:
  virtual void on_cm_event(const CmEvent& event) noexcept = 0;

 protected:
  ~CmHandler() = default;
};

class CmChannel final : private Source {
 public:
  // Events taken in one poll.
  static constexpr int kPerPollMax = 64;

  static Result<std::unique_ptr<CmChannel>> make(Verbs& verbs, const char* name);
  ~CmChannel() { close(); }

  rdma_event_channel* get() const noexcept { return channel_.get(); }
  void open(Reactor& reactor) {
    if (this->reactor() == nullptr) reactor.add(*this);
  }
  void close() {
    if (reactor() != nullptr) reactor()->remove(*this);
  }

 private:
  CmChannel(Verbs& verbs, OwnedChannel channel, const char* name)
      : Source(name, channel->fd), verbs_(verbs), channel_(std::move(channel)) {}
  int poll() noexcept override;

  Verbs& verbs_;
  OwnedChannel channel_;
};

// The errno in an event's status, in words.
std::string describe_cm_status(int status);

}  // namespace diskengine::fabric::rdma
