// RDMA without a device, for tests: connections, queue pairs, memory keys and completions in one process, at once and
// in order, with faults on request. Both ends of a connection use SimVerbs over the same SimFabric.
//
// It is strict where a device is: memory must be registered and lie within its region, a SEND needs a receive (and
// waits for one, as with RNR retries without end), a completion queue must not overflow, and what is posted to a queue
// pair in the error state is flushed.
//
// Threads: one, but for memory, protection domains and their end, which any thread may ask for. Owned by the test;
// outlives what uses it.
#pragma once

#include <sys/eventfd.h>
#include <unistd.h>

#include <atomic>
#include <cstring>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <set>
#include <vector>

#include "base/assert.h"
#include "fabric/rdma/verbs.h"
#include "runtime/alloc_count.h"

namespace diskengine::fabric::rdma {

struct SimEvent : rdma_cm_event {
  std::vector<uint8_t> bytes;
};

struct SimEventChannel : rdma_event_channel {
  std::deque<std::unique_ptr<SimEvent>> events;
};

struct SimCompChannel : ibv_comp_channel {};

struct SimCq : ibv_cq {
  std::deque<ibv_wc> entries;
  size_t most = 0;
  bool armed = false;
};

// A copy of a receive work request.
struct SimReceive {
  uint64_t wr_id;
  std::vector<ibv_sge> pieces;
};

struct SimSrq : ibv_srq {
  std::deque<SimReceive> receives;
  size_t most = 0;
};

struct SimQp : ibv_qp {
  SimQp* peer = nullptr;
  bool failed = false;
  std::deque<SimReceive> receives;
  // SENDs of the peer that found no receive.
  struct Waiting {
    std::vector<uint8_t> bytes;
    ibv_wc sent;
    bool signaled;
    bool invalidate;
    uint32_t key;
  };
  std::deque<Waiting> waiting;
  size_t sends_most = 0;
};

struct SimId : rdma_cm_id {
  SimId* peer = nullptr;
  bool listening = false;
  bool established = false;
};

// What two ends share: the network between them, and the faults.
struct SimFabric {
  std::map<uint16_t, SimId*> listeners;  // by port
  std::map<uint32_t, std::pair<uint8_t*, size_t>> keys;
  std::map<uint32_t, int> access;  // of keys
  std::set<uint32_t> invalidated;
  mutable std::mutex keys_mutex;  // keys, access
  std::atomic<uint32_t> next_number{100};
  std::atomic<int> handles{0};  // made and not given back
  ibv_device device{};
  ibv_context context{};
  ibv_device_attr attributes{};

  // Faults.
  bool address_unknown = false;
  bool route_unknown = false;
  std::atomic<int> register_error{0};  // of the next registration
  int create_qp_error = 0;             // of the next queue pair
  int post_send_error = 0;             // of the next post
  size_t post_send_good = 0;           // ... after so many work requests of it
  bool answers = true;                 // false: the device is dead
  // Called for each work request as it is carried out; another status than success fails it.
  std::function<ibv_wc_status(const ibv_send_wr&)> judge;
  // Called when a completion queue is armed.
  std::function<void(ibv_cq*)> on_arm;
  // Called for each completion; false: it is lost.
  std::function<bool(const ibv_wc&)> deliver;

  SimFabric() {
    std::strcpy(device.name, "sim0");
    context.device = &device;
    attributes.max_qp_wr = 8192;
    attributes.max_sge = 30;
    attributes.max_srq = 16;
    attributes.max_srq_wr = 8192;
    attributes.max_srq_sge = 4;
    attributes.max_cqe = 65536;
    attributes.max_qp_rd_atom = 16;
    attributes.max_qp_init_rd_atom = 16;
    attributes.device_cap_flags = IBV_DEVICE_MEM_MGT_EXTENSIONS;
  }
  ~SimFabric() { DE_ASSERT(handles == 0); }
};

class SimVerbs final : public Verbs {
 public:
  explicit SimVerbs(SimFabric& fabric) : fabric_(fabric) {}
  // Tells an identifier something, as the connection manager would.
  static void tell(rdma_cm_id* id, rdma_cm_event_type type, int status = 0, std::span<const uint8_t> data = {}) {
    auto event = std::make_unique<SimEvent>();
    static_cast<rdma_cm_event&>(*event) = {};
    event->id = id;
    event->event = type;
    event->status = status;
    event->bytes.assign(data.begin(), data.end());
    // As the connection manager pads it.
    if (!data.empty()) event->bytes.resize(std::max<size_t>(data.size(), 56));
    event->param.conn.private_data = event->bytes.data();
    event->param.conn.private_data_len = static_cast<uint8_t>(event->bytes.size());
    event->param.conn.initiator_depth = 16;
    event->param.conn.responder_resources = 16;
    auto* channel = static_cast<SimEventChannel*>(id->channel);
    channel->events.push_back(std::move(event));
    eventfd_write(channel->fd, 1);
  }

  Result<rdma_event_channel*> create_event_channel() override {
    auto* channel = new SimEventChannel{};
    channel->fd = eventfd(0, EFD_NONBLOCK);
    ++fabric_.handles;
    return channel;
  }
  void destroy_event_channel(rdma_event_channel* channel) noexcept override {
    close(channel->fd);
    delete static_cast<SimEventChannel*>(channel);
    --fabric_.handles;
  }
  Result<rdma_cm_id*> create_id(rdma_event_channel* channel, void* context) override {
    return make_id(channel, context);
  }
  void destroy_id(rdma_cm_id* id) noexcept override {
    auto* sim = static_cast<SimId*>(id);
    DE_ASSERT(id->qp == nullptr);
    std::erase_if(fabric_.listeners, [sim](const auto& entry) { return entry.second == sim; });
    auto& events = static_cast<SimEventChannel*>(id->channel)->events;
    std::erase_if(events, [id](const auto& event) { return event->id == id; });
    if (sim->peer != nullptr) {
      sim->peer->peer = nullptr;
      if (!sim->established) tell(sim->peer, RDMA_CM_EVENT_REJECTED, 28);
    }
    delete sim;
    --fabric_.handles;
  }
  rdma_cm_event* next_event(rdma_event_channel* channel) noexcept override {
    auto& events = static_cast<SimEventChannel*>(channel)->events;
    if (events.empty()) {
      eventfd_t value = 0;
      eventfd_read(channel->fd, &value);
      return nullptr;
    }
    SimEvent* event = events.front().release();
    events.pop_front();
    return event;
  }
  void ack_event(rdma_cm_event* event) noexcept override { delete static_cast<SimEvent*>(event); }
  Result<void> migrate_id(rdma_cm_id* id, rdma_event_channel* channel) override {
    auto& from = static_cast<SimEventChannel*>(id->channel)->events;
    auto& to = static_cast<SimEventChannel*>(channel)->events;
    for (auto& event : from)
      if (event->id == id) to.push_back(std::move(event));
    std::erase(from, nullptr);
    id->channel = channel;
    eventfd_write(channel->fd, 1);
    return {};
  }
  Result<void> bind_addr(rdma_cm_id* id, const sockaddr* address) override {
    if (fabric_.address_unknown) return Error(Errc::no_device, "no RDMA device has this address");
    std::memcpy(&id->route.addr.src_addr, address, sizeof(sockaddr_in));
    id->verbs = &fabric_.context;
    return {};
  }
  Result<void> listen(rdma_cm_id* id, int) override {
    if (!fabric_.listeners.emplace(port_of(&id->route.addr.src_addr), static_cast<SimId*>(id)).second)
      return Error(Errc::busy, "cannot listen: Address already in use");
    static_cast<SimId*>(id)->listening = true;
    return {};
  }
  Result<void> resolve_addr(rdma_cm_id* id, const sockaddr*, const sockaddr* to, int) override {
    std::memcpy(&id->route.addr.dst_addr, to, sizeof(sockaddr_in));
    id->route.addr.src_addr = *to;
    if (!fabric_.address_unknown) id->verbs = &fabric_.context;
    tell(id, fabric_.address_unknown ? RDMA_CM_EVENT_ADDR_ERROR : RDMA_CM_EVENT_ADDR_RESOLVED,
         fabric_.address_unknown ? -ENODEV : 0);
    return {};
  }
  Result<void> resolve_route(rdma_cm_id* id, int) override {
    tell(id, fabric_.route_unknown ? RDMA_CM_EVENT_ROUTE_ERROR : RDMA_CM_EVENT_ROUTE_RESOLVED,
         fabric_.route_unknown ? -ETIMEDOUT : 0);
    return {};
  }
  Result<void> connect(rdma_cm_id* id, rdma_conn_param* parameters) override {
    const auto at = fabric_.listeners.find(port_of(&id->route.addr.dst_addr));
    if (at == fabric_.listeners.end()) {
      tell(id, RDMA_CM_EVENT_REJECTED, 8);
      return {};
    }
    SimId* listener = at->second;
    SimId* request = make_id(listener->channel, listener->context);
    request->verbs = &fabric_.context;
    request->route.addr.src_addr = listener->route.addr.src_addr;
    request->route.addr.dst_addr = id->route.addr.src_addr;
    request->peer = static_cast<SimId*>(id);
    static_cast<SimId*>(id)->peer = request;
    tell(request, RDMA_CM_EVENT_CONNECT_REQUEST, 0,
         {static_cast<const uint8_t*>(parameters->private_data), parameters->private_data_len});
    return {};
  }
  Result<void> accept(rdma_cm_id* id, rdma_conn_param* parameters) override {
    auto* sim = static_cast<SimId*>(id);
    if (sim->peer == nullptr) return Error(Errc::unreachable, "the peer is gone");
    auto* mine = static_cast<SimQp*>(id->qp);
    auto* theirs = static_cast<SimQp*>(sim->peer->qp);
    mine->peer = theirs;
    theirs->peer = mine;
    sim->established = sim->peer->established = true;
    tell(sim->peer, RDMA_CM_EVENT_ESTABLISHED, 0,
         {static_cast<const uint8_t*>(parameters->private_data), parameters->private_data_len});
    tell(id, RDMA_CM_EVENT_ESTABLISHED);
    return {};
  }
  void reject(rdma_cm_id* id, std::span<const uint8_t> private_data) noexcept override {
    auto* sim = static_cast<SimId*>(id);
    if (sim->peer == nullptr) return;
    tell(sim->peer, RDMA_CM_EVENT_REJECTED, 28, private_data);
    sim->peer->peer = nullptr;
    sim->peer = nullptr;
  }
  void disconnect(rdma_cm_id* id) noexcept override {
    auto* sim = static_cast<SimId*>(id);
    if (id->qp != nullptr) fail(*static_cast<SimQp*>(id->qp));
    if (sim->peer == nullptr || !sim->established) return;
    if (sim->peer->qp != nullptr) fail(*static_cast<SimQp*>(sim->peer->qp));
    tell(sim->peer, RDMA_CM_EVENT_DISCONNECTED);
    tell(id, RDMA_CM_EVENT_DISCONNECTED);
    sim->peer->peer = nullptr;
    sim->peer = nullptr;
  }
  Result<void> create_qp(rdma_cm_id* id, ibv_pd* pd, ibv_qp_init_attr* attributes) override {
    if (fabric_.create_qp_error != 0)
      return Error::from_errno(std::exchange(fabric_.create_qp_error, 0), "cannot make an RDMA queue pair");
    auto* qp = new SimQp{};
    static_cast<ibv_qp&>(*qp) = {};
    qp->pd = pd;
    qp->send_cq = attributes->send_cq;
    qp->recv_cq = attributes->recv_cq;
    qp->srq = attributes->srq;
    qp->qp_num = fabric_.next_number++;
    qp->sends_most = attributes->cap.max_send_wr;
    id->qp = qp;
    ++fabric_.handles;
    return {};
  }
  void destroy_qp(rdma_cm_id* id) noexcept override {
    auto* qp = static_cast<SimQp*>(std::exchange(id->qp, nullptr));
    if (qp->peer != nullptr) qp->peer->peer = nullptr;
    delete qp;
    --fabric_.handles;
  }

  std::string device_name(ibv_context*) const override { return fabric_.device.name; }
  Result<ibv_device_attr> query_device(ibv_context*) override { return fabric_.attributes; }
  Result<ibv_pd*> alloc_pd(ibv_context*) override { return made(new ibv_pd{}); }
  void dealloc_pd(ibv_pd* pd) noexcept override { gone(pd); }
  Result<ibv_mr*> reg_mr(ibv_pd* pd, void* address, size_t bytes, int access) override {
    if (const int error = fabric_.register_error.exchange(0); error != 0)
      return Error::from_errno(error, "cannot register memory");
    const std::lock_guard lock(fabric_.keys_mutex);
    auto* mr = new ibv_mr{};
    mr->pd = pd;
    mr->addr = address;
    mr->length = bytes;
    mr->lkey = mr->rkey = fabric_.next_number++;
    fabric_.keys[mr->lkey] = {static_cast<uint8_t*>(address), bytes};
    fabric_.access[mr->lkey] = access;
    return made(mr);
  }
  void dereg_mr(ibv_mr* mr) noexcept override {
    {
      const std::lock_guard lock(fabric_.keys_mutex);
      fabric_.keys.erase(mr->lkey);
    }
    gone(mr);
  }
  Result<ibv_comp_channel*> create_comp_channel(ibv_context*) override {
    auto* channel = new SimCompChannel{};
    channel->fd = eventfd(0, EFD_NONBLOCK);
    ++fabric_.handles;
    return channel;
  }
  void destroy_comp_channel(ibv_comp_channel* channel) noexcept override {
    close(channel->fd);
    delete static_cast<SimCompChannel*>(channel);
    --fabric_.handles;
  }
  Result<ibv_cq*> create_cq(ibv_context*, int entries, ibv_comp_channel* channel) override {
    auto* cq = new SimCq{};
    cq->channel = channel;
    cq->most = static_cast<size_t>(entries);
    ++fabric_.handles;
    return cq;
  }
  void destroy_cq(ibv_cq* cq) noexcept override {
    delete static_cast<SimCq*>(cq);
    --fabric_.handles;
  }
  Result<ibv_srq*> create_srq(ibv_pd*, ibv_srq_init_attr* attributes) override {
    auto* srq = new SimSrq{};
    srq->most = attributes->attr.max_wr;
    ++fabric_.handles;
    return srq;
  }
  void destroy_srq(ibv_srq* srq) noexcept override {
    delete static_cast<SimSrq*>(srq);
    --fabric_.handles;
  }

  int post_send(ibv_qp* qp, ibv_send_wr* chain, ibv_send_wr** bad) noexcept override {
    const AllocPause pause;
    const int error = std::exchange(fabric_.post_send_error, 0);
    size_t good = error == 0 ? SIZE_MAX : fabric_.post_send_good;
    for (ibv_send_wr* wr = chain; wr != nullptr; wr = wr->next) {
      if (good-- == 0) {
        *bad = wr;
        return error;
      }
      carry_out(*static_cast<SimQp*>(qp), *wr);
    }
    return 0;
  }
  int post_recv(ibv_qp* qp, ibv_recv_wr* chain, ibv_recv_wr**) noexcept override {
    const AllocPause pause;
    auto& sim = *static_cast<SimQp*>(qp);
    for (const ibv_recv_wr* wr = chain; wr != nullptr; wr = wr->next) {
      if (sim.failed) {
        complete(qp->recv_cq, make_wc(sim, wr->wr_id, IBV_WC_WR_FLUSH_ERR, IBV_WC_RECV));
        continue;
      }
      sim.receives.push_back({wr->wr_id, {wr->sg_list, wr->sg_list + wr->num_sge}});
      deliver_waiting(sim);
    }
    return 0;
  }
  int post_srq_recv(ibv_srq* srq, ibv_recv_wr* chain, ibv_recv_wr**) noexcept override {
    const AllocPause pause;
    auto& sim = *static_cast<SimSrq*>(srq);
    for (const ibv_recv_wr* wr = chain; wr != nullptr; wr = wr->next) {
      DE_ASSERT(sim.receives.size() < sim.most);
      sim.receives.push_back({wr->wr_id, {wr->sg_list, wr->sg_list + wr->num_sge}});
    }
    return 0;
  }
  int poll_cq(ibv_cq* cq, std::span<ibv_wc> completions) noexcept override {
    const AllocPause pause;
    if (!fabric_.answers) return -1;
    auto& entries = static_cast<SimCq*>(cq)->entries;
    int taken = 0;
    while (!entries.empty() && static_cast<size_t>(taken) < completions.size()) {
      completions[static_cast<size_t>(taken++)] = entries.front();
      entries.pop_front();
    }
    return taken;
  }
  bool req_notify_cq(ibv_cq* cq) noexcept override {
    const AllocPause pause;
    static_cast<SimCq*>(cq)->armed = true;
    if (fabric_.on_arm) fabric_.on_arm(cq);
    return fabric_.answers;
  }
  void drain_cq_events(ibv_comp_channel* channel, ibv_cq*) noexcept override {
    eventfd_t value = 0;
    eventfd_read(channel->fd, &value);
  }
  const char* wc_status_str(ibv_wc_status status) const noexcept override {
    return status == IBV_WC_SUCCESS ? "success" : "simulated fault";
  }
  const char* event_str(rdma_cm_event_type) const noexcept override { return "simulated event"; }

  // Puts a completion into a queue, as a device would.
  void complete(ibv_cq* cq, const ibv_wc& wc) noexcept {
    if (fabric_.deliver && !fabric_.deliver(wc)) return;
    auto& sim = *static_cast<SimCq*>(cq);
    DE_ASSERT(sim.entries.size() < sim.most);
    sim.entries.push_back(wc);
    if (std::exchange(sim.armed, false) && cq->channel != nullptr) eventfd_write(cq->channel->fd, 1);
  }

 private:
  static uint16_t port_of(const sockaddr* address) {
    sockaddr_in in;
    std::memcpy(&in, address, sizeof in);
    return ntohs(in.sin_port);
  }
  SimId* make_id(rdma_event_channel* channel, void* context) {
    auto* id = new SimId{};
    static_cast<rdma_cm_id&>(*id) = {};
    id->channel = channel;
    id->context = context;
    ++fabric_.handles;
    return id;
  }
  template <typename T>
  T* made(T* handle) {
    ++fabric_.handles;
    return handle;
  }
  template <typename T>
  void gone(T* handle) noexcept {
    delete handle;
    --fabric_.handles;
  }

  static ibv_wc make_wc(const SimQp& qp, uint64_t wr_id, ibv_wc_status status, ibv_wc_opcode opcode) noexcept {
    ibv_wc wc{};
    wc.wr_id = wr_id;
    wc.status = status;
    wc.opcode = opcode;
    wc.qp_num = qp.qp_num;
    return wc;
  }
  // The memory behind a key, or nullptr if it is not all registered.
  uint8_t* resolve(uint32_t key, uint64_t address, size_t bytes, bool remote_write, bool remote) const noexcept {
    const std::lock_guard lock(fabric_.keys_mutex);
    const auto at = fabric_.keys.find(key);
    if (at == fabric_.keys.end() || fabric_.invalidated.contains(key)) return nullptr;
    const auto base = reinterpret_cast<uint64_t>(at->second.first);
    if (address < base || bytes > at->second.second || address - base > at->second.second - bytes) return nullptr;
    if (remote && (fabric_.access.at(key) & (remote_write ? IBV_ACCESS_REMOTE_WRITE : IBV_ACCESS_REMOTE_READ)) == 0)
      return nullptr;
    return reinterpret_cast<uint8_t*>(address);
  }

  void carry_out(SimQp& qp, const ibv_send_wr& wr) noexcept {
    const bool signaled = (wr.send_flags & IBV_SEND_SIGNALED) != 0;
    ibv_wc wc = make_wc(qp, wr.wr_id, IBV_WC_SUCCESS, IBV_WC_SEND);
    if (qp.failed || qp.peer == nullptr) {
      wc.status = IBV_WC_WR_FLUSH_ERR;
      return complete(qp.send_cq, wc);
    }
    if (fabric_.judge) wc.status = fabric_.judge(wr);
    if (wc.status == IBV_WC_SUCCESS && (wr.opcode == IBV_WR_SEND || wr.opcode == IBV_WR_SEND_WITH_INV))
      return send(qp, wr, wc, signaled);
    if (wc.status == IBV_WC_SUCCESS) wc.status = move(wr);
    if (signaled || wc.status != IBV_WC_SUCCESS) complete(qp.send_cq, wc);
    if (wc.status != IBV_WC_SUCCESS) fail(qp);
  }
  // RDMA READ and WRITE.
  ibv_wc_status move(const ibv_send_wr& wr) noexcept {
    const bool write = wr.opcode == IBV_WR_RDMA_WRITE;
    uint64_t remote = wr.wr.rdma.remote_addr;
    for (int i = 0; i < wr.num_sge; ++i) {
      const ibv_sge& sge = wr.sg_list[i];
      uint8_t* here = resolve(sge.lkey, sge.addr, sge.length, false, false);
      uint8_t* there = resolve(wr.wr.rdma.rkey, remote, sge.length, write, true);
      if (here == nullptr) return IBV_WC_LOC_PROT_ERR;
      if (there == nullptr) return IBV_WC_REM_ACCESS_ERR;
      std::memcpy(write ? there : here, write ? here : there, sge.length);
      remote += sge.length;
    }
    return IBV_WC_SUCCESS;
  }
  void send(SimQp& qp, const ibv_send_wr& wr, const ibv_wc& wc, bool signaled) noexcept {
    SimQp::Waiting waiting{
        {}, wc, signaled, wr.opcode == IBV_WR_SEND_WITH_INV, wr.opcode == IBV_WR_SEND ? 0 : wr.invalidate_rkey};
    for (int i = 0; i < wr.num_sge; ++i) {
      const uint8_t* here = resolve(wr.sg_list[i].lkey, wr.sg_list[i].addr, wr.sg_list[i].length, false, false);
      DE_ASSERT(here != nullptr);
      waiting.bytes.insert(waiting.bytes.end(), here, here + wr.sg_list[i].length);
    }
    qp.peer->waiting.push_back(std::move(waiting));
    deliver_waiting(*qp.peer);
  }
  // Puts SENDs into receives as long as there are both.
  void deliver_waiting(SimQp& to) noexcept {
    auto& receives = to.srq != nullptr ? static_cast<SimSrq*>(to.srq)->receives : to.receives;
    while (!to.waiting.empty() && !receives.empty()) {
      SimQp::Waiting sent = std::move(to.waiting.front());
      to.waiting.pop_front();
      const SimReceive receive = std::move(receives.front());
      receives.pop_front();
      ibv_wc wc = make_wc(to, receive.wr_id, IBV_WC_SUCCESS, IBV_WC_RECV);
      wc.byte_len = static_cast<uint32_t>(sent.bytes.size());
      size_t at = 0;
      for (const ibv_sge& sge : receive.pieces) {
        const size_t bytes = std::min<size_t>(sge.length, sent.bytes.size() - at);
        uint8_t* here = resolve(sge.lkey, sge.addr, sge.length, false, false);
        DE_ASSERT(here != nullptr);
        std::memcpy(here, sent.bytes.data() + at, bytes);
        at += bytes;
      }
      if (sent.invalidate) fabric_.invalidated.insert(sent.key);
      SimQp* from = to.peer;
      complete(to.recv_cq, wc);
      if (from != nullptr && sent.signaled) complete(from->send_cq, sent.sent);
    }
  }
  // Into the error state: what is posted is flushed.
  void fail(SimQp& qp) noexcept {
    if (std::exchange(qp.failed, true)) return;
    for (const SimReceive& receive : qp.receives)
      complete(qp.recv_cq, make_wc(qp, receive.wr_id, IBV_WC_WR_FLUSH_ERR, IBV_WC_RECV));
    qp.receives.clear();
    if (qp.peer == nullptr) return;
    for (SimQp::Waiting& waiting : qp.peer->waiting) {
      waiting.sent.status = IBV_WC_WR_FLUSH_ERR;
      complete(qp.send_cq, waiting.sent);
    }
    qp.peer->waiting.clear();
  }

  SimFabric& fabric_;
};

}  // namespace diskengine::fabric::rdma
