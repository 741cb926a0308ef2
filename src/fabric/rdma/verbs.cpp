#include "fabric/rdma/verbs.h"

#include <dlfcn.h>
#include <fcntl.h>
#include <fmt/format.h>

#include <cerrno>
#include <cstring>

// A macro of the header that chooses between two functions by the access flags; only the plain one is needed here.
#undef ibv_reg_mr

namespace diskengine::fabric::rdma {
namespace {

constexpr char kVerbsLibrary[] = "libibverbs.so.1";
constexpr char kCmLibrary[] = "librdmacm.so.1";

// The functions of the two libraries that are not inline in their headers, found by name.
struct Functions {
  decltype(&::rdma_create_event_channel) create_event_channel;
  decltype(&::rdma_destroy_event_channel) destroy_event_channel;
  decltype(&::rdma_create_id) create_id;
  decltype(&::rdma_destroy_id) destroy_id;
  decltype(&::rdma_get_cm_event) get_cm_event;
  decltype(&::rdma_ack_cm_event) ack_cm_event;
  decltype(&::rdma_migrate_id) migrate_id;
  decltype(&::rdma_bind_addr) bind_addr;
  decltype(&::rdma_listen) listen;
  decltype(&::rdma_resolve_addr) resolve_addr;
  decltype(&::rdma_resolve_route) resolve_route;
  decltype(&::rdma_connect) connect;
  decltype(&::rdma_accept) accept;
  decltype(&::rdma_reject) reject;
  decltype(&::rdma_disconnect) disconnect;
  decltype(&::rdma_create_qp) create_qp;
  decltype(&::rdma_destroy_qp) destroy_qp;
  decltype(&::rdma_event_str) event_str;
  decltype(&::ibv_get_device_name) get_device_name;
  decltype(&::ibv_query_device) query_device;
  decltype(&::ibv_alloc_pd) alloc_pd;
  decltype(&::ibv_dealloc_pd) dealloc_pd;
  decltype(&::ibv_reg_mr) reg_mr;
  decltype(&::ibv_dereg_mr) dereg_mr;
  decltype(&::ibv_create_comp_channel) create_comp_channel;
  decltype(&::ibv_destroy_comp_channel) destroy_comp_channel;
  decltype(&::ibv_create_cq) create_cq;
  decltype(&::ibv_destroy_cq) destroy_cq;
  decltype(&::ibv_create_srq) create_srq;
  decltype(&::ibv_destroy_srq) destroy_srq;
  decltype(&::ibv_get_cq_event) get_cq_event;
  decltype(&::ibv_ack_cq_events) ack_cq_events;
  decltype(&::ibv_wc_status_str) wc_status_str;
};

Result<void*> open_library(const char* name, const char* package) {
  void* library = dlopen(name, RTLD_NOW | RTLD_GLOBAL);
  if (library != nullptr) return library;
  return Error(Errc::not_supported,
               fmt::format("RDMA needs {} (Debian package {}), which cannot be loaded: {}", name, package, dlerror()));
}

Result<Functions> find_functions() {
  TRY_ASSIGN(void* const verbs, open_library(kVerbsLibrary, "libibverbs1"));
  TRY_ASSIGN(void* const cm, open_library(kCmLibrary, "librdmacm1"));
  Functions f{};
  std::string missing;
  const auto find = [&missing](void* library, const char* name, auto& function) {
    void* const found = dlsym(library, name);
    if (found == nullptr) missing += std::string(missing.empty() ? "" : ", ") + name;
    std::memcpy(&function, &found, sizeof function);
  };
  find(cm, "rdma_create_event_channel", f.create_event_channel);
  find(cm, "rdma_destroy_event_channel", f.destroy_event_channel);
  find(cm, "rdma_create_id", f.create_id);
  find(cm, "rdma_destroy_id", f.destroy_id);
  find(cm, "rdma_get_cm_event", f.get_cm_event);
  find(cm, "rdma_ack_cm_event", f.ack_cm_event);
  find(cm, "rdma_migrate_id", f.migrate_id);
  find(cm, "rdma_bind_addr", f.bind_addr);
  find(cm, "rdma_listen", f.listen);
  find(cm, "rdma_resolve_addr", f.resolve_addr);
  find(cm, "rdma_resolve_route", f.resolve_route);
  find(cm, "rdma_connect", f.connect);
  find(cm, "rdma_accept", f.accept);
  find(cm, "rdma_reject", f.reject);
  find(cm, "rdma_disconnect", f.disconnect);
  find(cm, "rdma_create_qp", f.create_qp);
  find(cm, "rdma_destroy_qp", f.destroy_qp);
  find(cm, "rdma_event_str", f.event_str);
  find(verbs, "ibv_get_device_name", f.get_device_name);
  find(verbs, "ibv_query_device", f.query_device);
  find(verbs, "ibv_alloc_pd", f.alloc_pd);
  find(verbs, "ibv_dealloc_pd", f.dealloc_pd);
  find(verbs, "ibv_reg_mr", f.reg_mr);
  find(verbs, "ibv_dereg_mr", f.dereg_mr);
  find(verbs, "ibv_create_comp_channel", f.create_comp_channel);
  find(verbs, "ibv_destroy_comp_channel", f.destroy_comp_channel);
  find(verbs, "ibv_create_cq", f.create_cq);
  find(verbs, "ibv_destroy_cq", f.destroy_cq);
  find(verbs, "ibv_create_srq", f.create_srq);
  find(verbs, "ibv_destroy_srq", f.destroy_srq);
  find(verbs, "ibv_get_cq_event", f.get_cq_event);
  find(verbs, "ibv_ack_cq_events", f.ack_cq_events);
  find(verbs, "ibv_wc_status_str", f.wc_status_str);
  if (!missing.empty())
    return Error(Errc::not_supported,
                 fmt::format("{} or {} is too old: it lacks {}", kVerbsLibrary, kCmLibrary, missing));
  return f;
}

Result<void> make_nonblocking(int fd, const char* what) {
  const int flags = fcntl(fd, F_GETFL);
  if (flags < 0 || fcntl(fd, F_SETFL, flags | O_NONBLOCK) < 0) return Error::from_errno(errno, what);
  return {};
}

// The sockaddr arguments of librdmacm are not const, and not written to.
sockaddr* mutable_address(const sockaddr* address) noexcept { return const_cast<sockaddr*>(address); }

class LoadedVerbs final : public Verbs {
 public:
  explicit LoadedVerbs(const Functions& functions) : f_(functions) {}

  Result<rdma_event_channel*> create_event_channel() override {
    errno = 0;
    rdma_event_channel* channel = f_.create_event_channel();
    if (channel == nullptr) {
      if (errno == ENODEV || errno == ENOENT)
        return Error(Errc::no_device,
                     "this machine has no RDMA device that can be used: 'rdma link' must show one, and the kernel "
                     "modules ib_uverbs and rdma_ucm must be loaded");
      return Error::from_errno(errno, "cannot open the RDMA connection manager");
    }
    if (Result<void> set = make_nonblocking(channel->fd, "RDMA event channel"); !set) {
      f_.destroy_event_channel(channel);
      return std::move(set).error();
    }
    return channel;
  }
  void destroy_event_channel(rdma_event_channel* channel) noexcept override { f_.destroy_event_channel(channel); }

  Result<rdma_cm_id*> create_id(rdma_event_channel* channel, void* context) override {
    rdma_cm_id* id = nullptr;
    TRY(outcome(f_.create_id(channel, &id, context, RDMA_PS_TCP), "cannot make an RDMA connection identifier"));
    return id;
  }
  void destroy_id(rdma_cm_id* id) noexcept override { f_.destroy_id(id); }
  rdma_cm_event* next_event(rdma_event_channel* channel) noexcept override {
    rdma_cm_event* event = nullptr;
    return f_.get_cm_event(channel, &event) == 0 ? event : nullptr;
  }
  void ack_event(rdma_cm_event* event) noexcept override { f_.ack_cm_event(event); }
  Result<void> migrate_id(rdma_cm_id* id, rdma_event_channel* channel) override {
    return outcome(f_.migrate_id(id, channel), "cannot hand an RDMA connection over");
  }
  Result<void> bind_addr(rdma_cm_id* id, const sockaddr* address) override {
    return outcome(f_.bind_addr(id, mutable_address(address)), "no RDMA device has this address");
  }
  Result<void> listen(rdma_cm_id* id, int backlog) override { return outcome(f_.listen(id, backlog), "cannot listen"); }
  Result<void> resolve_addr(rdma_cm_id* id, const sockaddr* from, const sockaddr* to, int timeout_ms) override {
    return outcome(f_.resolve_addr(id, mutable_address(from), mutable_address(to), timeout_ms),
                   "cannot resolve the address to an RDMA device");
  }
  Result<void> resolve_route(rdma_cm_id* id, int timeout_ms) override {
    return outcome(f_.resolve_route(id, timeout_ms), "cannot resolve the RDMA route");
  }
  Result<void> connect(rdma_cm_id* id, rdma_conn_param* parameters) override {
    return outcome(f_.connect(id, parameters), "cannot connect");
  }
  Result<void> accept(rdma_cm_id* id, rdma_conn_param* parameters) override {
    return outcome(f_.accept(id, parameters), "cannot accept an RDMA connection");
  }
  void reject(rdma_cm_id* id, std::span<const uint8_t> private_data) noexcept override {
    f_.reject(id, private_data.data(), static_cast<uint8_t>(private_data.size()));
  }
  void disconnect(rdma_cm_id* id) noexcept override { f_.disconnect(id); }
  Result<void> create_qp(rdma_cm_id* id, ibv_pd* pd, ibv_qp_init_attr* attributes) override {
    return outcome(f_.create_qp(id, pd, attributes), "cannot make an RDMA queue pair");
  }
  void destroy_qp(rdma_cm_id* id) noexcept override { f_.destroy_qp(id); }

  std::string device_name(ibv_context* context) const override { return f_.get_device_name(context->device); }
  Result<ibv_device_attr> query_device(ibv_context* context) override {
    ibv_device_attr attributes{};
    const int error = f_.query_device(context, &attributes);
    if (error != 0) return Error::from_errno(error, "cannot query RDMA device " + device_name(context));
    return attributes;
  }
  Result<ibv_pd*> alloc_pd(ibv_context* context) override {
    return made(f_.alloc_pd(context), "cannot make an RDMA protection domain");
  }
  void dealloc_pd(ibv_pd* pd) noexcept override { f_.dealloc_pd(pd); }
  Result<ibv_mr*> reg_mr(ibv_pd* pd, void* address, size_t bytes, int access) override {
    ibv_mr* mr = f_.reg_mr(pd, address, bytes, access);
    if (mr == nullptr && errno == ENOMEM)
      return Error(Errc::no_memory,
                   fmt::format("cannot register {} bytes with an RDMA device: they are locked into memory, so the "
                               "limit of locked memory (ulimit -l) must allow it",
                               bytes));
    return made(mr, "cannot register memory with an RDMA device");
  }
  void dereg_mr(ibv_mr* mr) noexcept override { f_.dereg_mr(mr); }
  Result<ibv_comp_channel*> create_comp_channel(ibv_context* context) override {
    TRY_ASSIGN(ibv_comp_channel* const channel,
               made(f_.create_comp_channel(context), "cannot make an RDMA completion channel"));
    if (Result<void> set = make_nonblocking(channel->fd, "RDMA completion channel"); !set) {
      f_.destroy_comp_channel(channel);
      return std::move(set).error();
    }
    return channel;
  }
  void destroy_comp_channel(ibv_comp_channel* channel) noexcept override { f_.destroy_comp_channel(channel); }
  Result<ibv_cq*> create_cq(ibv_context* context, int entries, ibv_comp_channel* channel) override {
    return made(f_.create_cq(context, entries, nullptr, channel, 0),
                fmt::format("cannot make an RDMA completion queue of {} entries", entries));
  }
  void destroy_cq(ibv_cq* cq) noexcept override { f_.destroy_cq(cq); }
  Result<ibv_srq*> create_srq(ibv_pd* pd, ibv_srq_init_attr* attributes) override {
    return made(f_.create_srq(pd, attributes),
                fmt::format("cannot make an RDMA shared receive queue of {} entries", attributes->attr.max_wr));
  }
  void destroy_srq(ibv_srq* srq) noexcept override { f_.destroy_srq(srq); }

  int post_send(ibv_qp* qp, ibv_send_wr* chain, ibv_send_wr** bad) noexcept override {
    return ibv_post_send(qp, chain, bad);
  }
  int post_recv(ibv_qp* qp, ibv_recv_wr* chain, ibv_recv_wr** bad) noexcept override {
    return ibv_post_recv(qp, chain, bad);
  }
  int post_srq_recv(ibv_srq* srq, ibv_recv_wr* chain, ibv_recv_wr** bad) noexcept override {
    return ibv_post_srq_recv(srq, chain, bad);
  }
  int poll_cq(ibv_cq* cq, std::span<ibv_wc> completions) noexcept override {
    return ibv_poll_cq(cq, static_cast<int>(completions.size()), completions.data());
  }
  bool req_notify_cq(ibv_cq* cq) noexcept override { return ibv_req_notify_cq(cq, 0) == 0; }
  void drain_cq_events(ibv_comp_channel* channel, ibv_cq* cq) noexcept override {
    unsigned events = 0;
    ibv_cq* from = nullptr;
    void* context = nullptr;
    while (f_.get_cq_event(channel, &from, &context) == 0) ++events;
    if (events > 0) f_.ack_cq_events(cq, events);
  }

  const char* wc_status_str(ibv_wc_status status) const noexcept override { return f_.wc_status_str(status); }
  const char* event_str(rdma_cm_event_type event) const noexcept override { return f_.event_str(event); }

 private:
  static Result<void> outcome(int result, const char* what) {
    if (result == 0) return {};
    return Error::from_errno(errno, what);
  }
  template <typename T>
  static Result<T*> made(T* handle, std::string_view what) {
    if (handle != nullptr) return handle;
    return Error::from_errno(errno, what);
  }

  const Functions f_;
};

}  // namespace

// The libraries stay loaded: their providers start threads and hold devices that cannot be taken back safely.
Result<std::unique_ptr<Verbs>> load_verbs() {
  TRY_ASSIGN(const Functions functions, find_functions());
  return std::unique_ptr<Verbs>(std::make_unique<LoadedVerbs>(functions));
}

}  // namespace diskengine::fabric::rdma
