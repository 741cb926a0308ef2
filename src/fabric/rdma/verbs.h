// The seam to RDMA: what this project uses of libibverbs and librdmacm, under their own names and with their own types.
// The libraries are looked for when a transport is made (load_verbs), so the same binary runs where none is installed;
// sim_verbs.h stands in for them in tests.
//
// Threads: any, as the libraries allow: an object is used by one thread at a time. Every handle is owned by whoever
// made it, and destroyed before the Verbs.
#pragma once

#include <infiniband/verbs.h>
#include <rdma/rdma_cma.h>

#include <memory>
#include <span>
#include <string>
#include <utility>

#include "base/result.h"

namespace diskengine::fabric::rdma {

class Verbs {
 public:
  virtual ~Verbs() = default;

  // The connection manager. Errors name the attempt; addresses are added by the caller.

  // Its descriptor is nonblocking. Errc::no_device where the machine has no RDMA device.
  virtual Result<rdma_event_channel*> create_event_channel() = 0;
  virtual void destroy_event_channel(rdma_event_channel* channel) noexcept = 0;
  virtual Result<rdma_cm_id*> create_id(rdma_event_channel* channel, void* context) = 0;
  // With every event of it acknowledged and its queue pair destroyed.
  virtual void destroy_id(rdma_cm_id* id) noexcept = 0;
  // nullptr: none now. To be given back with ack_event.
  virtual rdma_cm_event* next_event(rdma_event_channel* channel) noexcept = 0;
  virtual void ack_event(rdma_cm_event* event) noexcept = 0;
  // Its events come on another channel from now on.
  virtual Result<void> migrate_id(rdma_cm_id* id, rdma_event_channel* channel) = 0;
  virtual Result<void> bind_addr(rdma_cm_id* id, const sockaddr* address) = 0;
  virtual Result<void> listen(rdma_cm_id* id, int backlog) = 0;
  virtual Result<void> resolve_addr(rdma_cm_id* id, const sockaddr* from, const sockaddr* to, int timeout_ms) = 0;
  virtual Result<void> resolve_route(rdma_cm_id* id, int timeout_ms) = 0;
  virtual Result<void> connect(rdma_cm_id* id, rdma_conn_param* parameters) = 0;
  virtual Result<void> accept(rdma_cm_id* id, rdma_conn_param* parameters) = 0;
  virtual void reject(rdma_cm_id* id, std::span<const uint8_t> private_data) noexcept = 0;
  // Puts the queue pair into the error state, which flushes everything posted, and tells the peer. May be repeated.
  virtual void disconnect(rdma_cm_id* id) noexcept = 0;
  virtual Result<void> create_qp(rdma_cm_id* id, ibv_pd* pd, ibv_qp_init_attr* attributes) = 0;
  virtual void destroy_qp(rdma_cm_id* id) noexcept = 0;

  // Devices, memory, completions.

  virtual std::string device_name(ibv_context* context) const = 0;
  virtual Result<ibv_device_attr> query_device(ibv_context* context) = 0;
  virtual Result<ibv_pd*> alloc_pd(ibv_context* context) = 0;
  virtual void dealloc_pd(ibv_pd* pd) noexcept = 0;
  // Pins the memory: it counts against RLIMIT_MEMLOCK.
  virtual Result<ibv_mr*> reg_mr(ibv_pd* pd, void* address, size_t bytes, int access) = 0;
  virtual void dereg_mr(ibv_mr* mr) noexcept = 0;
  // Its descriptor is nonblocking.
  virtual Result<ibv_comp_channel*> create_comp_channel(ibv_context* context) = 0;
  virtual void destroy_comp_channel(ibv_comp_channel* channel) noexcept = 0;
  virtual Result<ibv_cq*> create_cq(ibv_context* context, int entries, ibv_comp_channel* channel) = 0;
  virtual void destroy_cq(ibv_cq* cq) noexcept = 0;
  virtual Result<ibv_srq*> create_srq(ibv_pd* pd, ibv_srq_init_attr* attributes) = 0;
  virtual void destroy_srq(ibv_srq* srq) noexcept = 0;

  // The data path. Post functions return an errno, and in `*bad` the first that was not posted.

  virtual int post_send(ibv_qp* qp, ibv_send_wr* chain, ibv_send_wr** bad) noexcept = 0;
  virtual int post_recv(ibv_qp* qp, ibv_recv_wr* chain, ibv_recv_wr** bad) noexcept = 0;
  virtual int post_srq_recv(ibv_srq* srq, ibv_recv_wr* chain, ibv_recv_wr** bad) noexcept = 0;
  // How many were taken; negative: the completion queue is broken.
  virtual int poll_cq(ibv_cq* cq, std::span<ibv_wc> completions) noexcept = 0;
  // The next completion makes the channel's descriptor readable; false: the device does not answer.
  virtual bool req_notify_cq(ibv_cq* cq) noexcept = 0;
  // Takes and acknowledges what made the descriptor readable.
  virtual void drain_cq_events(ibv_comp_channel* channel, ibv_cq* cq) noexcept = 0;

  virtual const char* wc_status_str(ibv_wc_status status) const noexcept = 0;
  virtual const char* event_str(rdma_cm_event_type event) const noexcept = 0;
};

// Errc::not_supported, naming the missing library and the package that has it.
Result<std::unique_ptr<Verbs>> load_verbs();

// Owns one handle and gives it back. One thread at a time.
template <typename T, void (Verbs::*kDestroy)(T*) noexcept>
class Owned {
 public:
  Owned() = default;
  Owned(Verbs& verbs, T* handle) noexcept : verbs_(&verbs), handle_(handle) {}
  Owned(Owned&& other) noexcept : verbs_(other.verbs_), handle_(std::exchange(other.handle_, nullptr)) {}
  Owned& operator=(Owned&& other) noexcept {
    std::swap(verbs_, other.verbs_);
    std::swap(handle_, other.handle_);
    return *this;
  }
  ~Owned() { reset(); }
  T* get() const noexcept { return handle_; }
  T* operator->() const noexcept { return handle_; }
  explicit operator bool() const noexcept { return handle_ != nullptr; }
  T* release() noexcept { return std::exchange(handle_, nullptr); }
  void reset() noexcept {
    if (handle_ != nullptr) (verbs_->*kDestroy)(std::exchange(handle_, nullptr));
  }

 private:
  Verbs* verbs_ = nullptr;
  T* handle_ = nullptr;
};

using OwnedChannel = Owned<rdma_event_channel, &Verbs::destroy_event_channel>;
using OwnedId = Owned<rdma_cm_id, &Verbs::destroy_id>;
using OwnedPd = Owned<ibv_pd, &Verbs::dealloc_pd>;
using OwnedMr = Owned<ibv_mr, &Verbs::dereg_mr>;
using OwnedCompChannel = Owned<ibv_comp_channel, &Verbs::destroy_comp_channel>;
using OwnedCq = Owned<ibv_cq, &Verbs::destroy_cq>;
using OwnedSrq = Owned<ibv_srq, &Verbs::destroy_srq>;

}  // namespace diskengine::fabric::rdma
