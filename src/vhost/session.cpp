#include "vhost/session.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

#include "base/log.h"

namespace diskengine::vhost {
namespace {

using spec::VhostUserRequest;

constexpr uint64_t bit(unsigned number) noexcept { return uint64_t{1} << number; }

constexpr uint64_t kProtocolFeatures = bit(spec::kVhostUserPMq) | bit(spec::kVhostUserPReplyAck) |
                                       bit(spec::kVhostUserPBackendReq) | bit(spec::kVhostUserPConfig) |
                                       bit(spec::kVhostUserPInflightShmfd) | bit(spec::kVhostUserPConfigureMemSlots);

Error refused(std::string what) { return Error(Errc::invalid_argument, std::move(what)); }

// Events are read and written from reactors, which a pipe, a terminal or a file on a slow file system could block.
Result<void> check_event(const UniqueFd& fd) {
  char target[64] = {};
  const std::string link = fmt::format("/proc/self/fd/{}", fd.get());
  if (readlink(link.c_str(), target, sizeof target - 1) < 0)
    return Error::from_errno(errno, "look at an event descriptor in /proc");
  if (std::strcmp(target, "anon_inode:[eventfd]") != 0)
    return refused(fmt::format("an event descriptor is not an eventfd but {}", target));
  const int flags = fcntl(fd.get(), F_GETFL);
  if (flags < 0 || fcntl(fd.get(), F_SETFL, flags | O_NONBLOCK) < 0)
    return Error::from_errno(errno, "make an event descriptor nonblocking");
  return {};
}

Result<UniqueFd> duplicate(const UniqueFd& fd) {
  if (!fd) return UniqueFd();
  UniqueFd copy(fcntl(fd.get(), F_DUPFD_CLOEXEC, 0));
  if (!copy) return Error::from_errno(errno, "duplicate an event descriptor");
  return copy;
}

}  // namespace

void Session::Answer::set_u64(uint64_t value) noexcept {
  present = true;
  payload.u64 = value;
  bytes = sizeof value;
}

Session::Session(SessionHost& host, Reactor& main, UniqueFd socket, unsigned id)
    : host_(host), main_(main), socket_(main, std::move(socket)), id_(id) {}

Session::~Session() {
  for (const Ring& ring : rings_) DE_ASSERT(ring.queue == nullptr);
}

Task<void> Session::serve() {
  for (;;) {
    Result<Message> message = co_await socket_.receive();
    if (!message) {
      if (message.error().code() == Errc::unreachable) {
        LOG_INFO("vhost", "{}: front end {} disconnected", host_.name(), id_);
      } else {
        LOG_WARN("vhost", "{}: front end {}: connection closed: {}", host_.name(), id_, message.error().message());
      }
      break;
    }
    Result<void> handled = co_await handle(*message);
    if (!handled) {
      LOG_WARN("vhost", "{}: front end {}: connection closed: {}: {}", host_.name(), id_,
               spec::name_of(message->request()), handled.error().message());
      break;
    }
  }
  socket_.shut_down();
  co_await stop_all_rings();
  memory_.reset();
  inflight_.reset();
}

// An error means that the connection is of no more use: the front end asked for something that we cannot do, and did
// not ask to be told.
Task<Result<void>> Session::handle(Message& message) {
  Answer answer;
  Result<void> done = co_await dispatch(message, answer);
  if (answer.present) {
    CO_TRY(done);
    co_return socket_.reply(message, &answer.payload, answer.bytes, answer.fd.get());
  }
  if (!message.needs_reply() || (protocol_features_ & bit(spec::kVhostUserPReplyAck)) == 0) co_return done;
  if (!done)
    LOG_WARN("vhost", "{}: front end {}: {} refused: {}", host_.name(), id_, spec::name_of(message.request()),
             done.error().message());
  const uint64_t failed = done ? 0 : 1;
  co_return socket_.reply(message, &failed, sizeof failed);
}

Task<Result<void>> Session::dispatch(Message& message, Answer& answer) {
  const spec::VhostUserPayload& payload = message.payload;
  switch (message.request()) {
    case VhostUserRequest::get_features:
      answer.set_u64(host_.features());
      co_return Result<void>();
    case VhostUserRequest::set_features:
      co_return set_features(payload.u64);
    case VhostUserRequest::get_protocol_features:
      answer.set_u64(kProtocolFeatures);
      co_return Result<void>();
    case VhostUserRequest::set_protocol_features:
      co_return set_protocol_features(payload.u64);
    case VhostUserRequest::set_owner:
      co_return Result<void>();
    case VhostUserRequest::reset_owner:
      co_await stop_all_rings();
      co_return Result<void>();
    case VhostUserRequest::get_queue_num:
      answer.set_u64(spec::kVhostUserQueuesMax);
      co_return Result<void>();
    case VhostUserRequest::get_max_mem_slots:
      answer.set_u64(GuestMemory::kRegionsMax);
      co_return Result<void>();
    case VhostUserRequest::get_config:
      get_config(message, answer);
      co_return Result<void>();
    case VhostUserRequest::set_config:
      co_return refused("nothing in the configuration space can be written");
    case VhostUserRequest::set_mem_table:
      co_return co_await set_mem_table(message);
    case VhostUserRequest::add_mem_reg:
      co_return co_await change_region(message, true);
    case VhostUserRequest::rem_mem_reg:
      co_return co_await change_region(message, false);
    case VhostUserRequest::set_vring_num:
      co_return set_vring_size(payload.state);
    case VhostUserRequest::set_vring_base:
      co_return set_vring_base(payload.state);
    case VhostUserRequest::set_vring_addr:
      co_return set_vring_address(payload.addr);
    case VhostUserRequest::get_vring_base:
      co_return co_await get_vring_base(payload.state.index, answer);
    case VhostUserRequest::set_vring_kick:
      co_return co_await set_vring_kick(message);
    case VhostUserRequest::set_vring_call:
      co_return set_vring_event(message, &Ring::call, &BlkQueue::set_call);
    case VhostUserRequest::set_vring_err:
      co_return set_vring_event(message, &Ring::err, &BlkQueue::set_err);
    case VhostUserRequest::set_vring_enable:
      co_return co_await set_vring_enable(payload.state);
    case VhostUserRequest::get_inflight_fd:
      co_return get_inflight(payload.inflight, answer);
    case VhostUserRequest::set_inflight_fd:
      co_return set_inflight(payload.inflight, message.fds[0].get());
    case VhostUserRequest::set_backend_req_fd:
      backend_channel_ = std::make_unique<MessageSocket>(main_, std::move(message.fds[0]));
      co_return Result<void>();
    // Offered with live migration only, which is not there yet.
    case VhostUserRequest::set_log_base:
    case VhostUserRequest::set_log_fd:
      co_return refused("logging of dirty pages was not offered");
  }
  co_return refused(fmt::format("message type {} is unknown", message.header.request));
}

Result<void> Session::set_features(uint64_t features) {
  // Front ends pass on bits of the guest that are between the two of them.
  features_ = features & host_.features();
  return {};
}

Result<void> Session::set_protocol_features(uint64_t features) {
  if ((features & ~kProtocolFeatures) != 0)
    return refused(fmt::format("protocol features {:#x} were not offered", features & ~kProtocolFeatures));
  protocol_features_ = features;
  return {};
}

void Session::get_config(const Message& message, Answer& answer) {
  const spec::VhostUserConfig& wish = message.payload.config;
  uint8_t space[spec::kVhostUserConfigBytesMax] = {};
  const spec::VirtioBlkConfig config = host_.config();
  std::memcpy(space, &config, sizeof config);
  answer.present = true;
  answer.payload.config = wish;
  std::memcpy(answer.payload.config.bytes, space + wish.offset, wish.size);
  answer.bytes = message.header.size;
}

void Session::config_changed() {
  if (backend_channel_ == nullptr) return;
  if (Result<void> told = backend_channel_->notify(spec::kVhostUserBackendConfigChange); !told)
    LOG_WARN("vhost", "{}: front end {} was not told of a new configuration: {}", host_.name(), id_,
             told.error().message());
}

Task<Result<void>> Session::set_mem_table(Message& message) {
  const spec::VhostUserMemory& table = message.payload.memory;
  if (table.regions == 0) co_return refused("a memory table without regions");
  std::vector<GuestMemory::Region> regions;
  for (uint32_t i = 0; i < table.regions; ++i) {
    Result<GuestMemory::Region> region = GuestMemory::map(table.region[i], message.fds[i].get(), host_.unmapper());
    CO_TRY(region);
    regions.push_back(std::move(*region));
  }
  Result<std::shared_ptr<const GuestMemory>> memory = GuestMemory::make(std::move(regions));
  CO_TRY(memory);
  co_return co_await use_memory(std::move(*memory));
}

Task<Result<void>> Session::change_region(Message& message, bool add) {
  const spec::VhostUserRegion& region = message.payload.single_region.region;
  const std::shared_ptr<const GuestMemory> now = memory_ != nullptr ? memory_ : std::make_shared<const GuestMemory>();
  if (!add) {
    Result<std::shared_ptr<const GuestMemory>> less = now->without(region);
    CO_TRY(less);
    co_return co_await use_memory(std::move(*less));
  }
  Result<GuestMemory::Region> mapped = GuestMemory::map(region, message.fds[0].get(), host_.unmapper());
  CO_TRY(mapped);
  Result<std::shared_ptr<const GuestMemory>> more = now->with(std::move(*mapped));
  CO_TRY(more);
  co_return co_await use_memory(std::move(*more));
}

// Running queues change over between two requests; those under way keep the old table until they are done.
Task<Result<void>> Session::use_memory(std::shared_ptr<const GuestMemory> memory) {
  memory_ = std::move(memory);
  Result<void> all;
  for (Ring& ring : rings_) {
    if (ring.queue == nullptr) continue;
    std::function<Result<void>()> change = [queue = ring.queue.get(), table = memory_] {
      return queue->set_memory(table);
    };
    auto changing = call_on<Result<void>>(ring.queue->home(), std::move(change));
    Result<void> changed = co_await changing;
    if (!changed) all = changed;
  }
  co_return all;
}

Result<Session::Ring*> Session::ring_at(uint64_t index) {
  if (index >= rings_.size()) return refused(fmt::format("queue {}, of {} at most", index, rings_.size()));
  return &rings_[index];
}

// Without protocol features there is no message to enable a ring, and it is from the start.
bool Session::enabled(const Ring& ring) const noexcept {
  return ring.enabled || (features_ & bit(spec::kVhostUserFProtocolFeatures)) == 0;
}

Result<void> Session::set_vring_size(const spec::VhostUserVringState& state) {
  TRY_ASSIGN(Ring * ring, ring_at(state.index));
  if (ring->queue != nullptr) return refused("the size of a running queue");
  if (!spec::valid_virtqueue_size(state.num))
    return refused(fmt::format("queue size {} is not a power of two up to {}", state.num, spec::kVirtqueueSizeMax));
  ring->size = static_cast<uint16_t>(state.num);
  return {};
}

Result<void> Session::set_vring_base(const spec::VhostUserVringState& state) {
  TRY_ASSIGN(Ring * ring, ring_at(state.index));
  if (ring->queue != nullptr) return refused("the position of a running queue");
  if (state.num > UINT16_MAX) return refused(fmt::format("position {} of a queue", state.num));
  ring->base = static_cast<uint16_t>(state.num);
  return {};
}

Result<void> Session::set_vring_address(const spec::VhostUserVringAddr& address) {
  TRY_ASSIGN(Ring * ring, ring_at(address.index));
  if ((address.flags & spec::kVhostVringFLog) != 0) return refused("logging of dirty pages was not offered");
  const bool same =
      ring->address.desc == address.desc && ring->address.avail == address.avail && ring->address.used == address.used;
  if (ring->queue != nullptr && !same) return refused("the address of a running queue");
  ring->address = address;
  ring->has_address = true;
  return {};
}

Task<Result<void>> Session::get_vring_base(uint32_t index, Answer& answer) {
  Result<Ring*> ring = ring_at(index);
  CO_TRY(ring);
  co_await stop_ring(index);
  (*ring)->started = false;
  (*ring)->kick.reset();
  answer.present = true;
  answer.payload.state = {index, (*ring)->base};
  answer.bytes = sizeof answer.payload.state;
  co_return Result<void>();
}

Task<Result<void>> Session::set_vring_kick(Message& message) {
  const auto index = static_cast<unsigned>(message.payload.u64 & spec::kVhostUserVringIndexMask);
  Result<Ring*> ring = ring_at(index);
  CO_TRY(ring);
  UniqueFd kick;
  if (!message.fds.empty()) {
    CO_TRY(check_event(message.fds[0]));
    kick = std::move(message.fds[0]);
  }
  co_await stop_ring(index);
  (*ring)->kick = std::move(kick);
  (*ring)->started = true;
  co_return co_await start_ring(index);
}

Result<void> Session::set_vring_event(Message& message, UniqueFd Ring::*event, void (BlkQueue::*forward)(UniqueFd)) {
  TRY_ASSIGN(Ring * ring, ring_at(message.payload.u64 & spec::kVhostUserVringIndexMask));
  UniqueFd fd;
  if (!message.fds.empty()) {
    TRY(check_event(message.fds[0]));
    fd = std::move(message.fds[0]);
  }
  ring->*event = std::move(fd);
  if (ring->queue == nullptr) return {};
  TRY_ASSIGN(UniqueFd copy, duplicate(ring->*event));
  BlkQueue* queue = ring->queue.get();
  auto shared = std::make_shared<UniqueFd>(std::move(copy));
  queue->home().post([queue, forward, shared] { (queue->*forward)(std::move(*shared)); });
  return {};
}

Task<Result<void>> Session::set_vring_enable(const spec::VhostUserVringState& state) {
  Result<Ring*> ring = ring_at(state.index);
  CO_TRY(ring);
  if (state.num > 1) co_return refused(fmt::format("a queue cannot be enabled {}", state.num));
  (*ring)->enabled = state.num == 1;
  if ((*ring)->enabled) co_return co_await start_ring(state.index);
  co_await stop_ring(state.index);
  co_return Result<void>();
}

Task<Result<void>> Session::start_ring(unsigned index) {
  Ring& ring = rings_[index];
  if (ring.queue != nullptr || !ring.started || !enabled(ring)) co_return Result<void>();
  if (ring.size == 0 || !ring.has_address || memory_ == nullptr)
    co_return refused(fmt::format("queue {} is started without size, address or memory", index));
  BlkQueue::Options options;
  options.name = fmt::format("{} queue {}", host_.name(), index);
  options.ring.size = ring.size;
  options.ring.desc = ring.address.desc;
  options.ring.avail = ring.address.avail;
  options.ring.used = ring.address.used;
  options.ring.event_idx = (features_ & bit(spec::kVirtioRingFEventIdx)) != 0;
  options.ring.indirect = (features_ & bit(spec::kVirtioRingFIndirectDesc)) != 0;
  options.base = ring.base;
  options.memory = memory_;
  if (inflight_ != nullptr) {
    if (index >= inflight_shape_.num_queues || ring.size != inflight_shape_.queue_size)
      co_return refused(fmt::format("queue {} of {} descriptors does not fit the in-flight buffer of {} queues of {}",
                                    index, ring.size, inflight_shape_.num_queues, inflight_shape_.queue_size));
    options.inflight = inflight_;
    options.inflight_part = inflight_->data() + index * spec::inflight_queue_bytes(ring.size);
  }
  for (auto [from, to] : {std::pair(&ring.kick, &options.kick), std::pair(&ring.call, &options.call),
                          std::pair(&ring.err, &options.err)}) {
    Result<UniqueFd> copy = duplicate(*from);
    CO_TRY(copy);
    *to = std::move(*copy);
  }
  // The message outruns the end of the queue's stop(), and the session waits for that.
  options.on_memory_fault = [this] { main_.post([this] { memory_faulted(); }); };
  host_.describe_device(index, features_, options);
  ring.queue = std::make_unique<BlkQueue>(std::move(options));
  std::function<Result<void>()> start = [queue = ring.queue.get()] { return queue->start(); };
  auto starting = call_on<Result<void>>(ring.queue->home(), std::move(start));
  Result<void> started = co_await starting;
  if (!started) ring.queue.reset();
  ring.running = started.has_value();
  co_return started;
}

Task<void> Session::stop_ring(unsigned index) {
  Ring& ring = rings_[index];
  if (ring.queue == nullptr) co_return;
  ring.stopping = true;
  ring.running = false;
  BlkQueue* queue = ring.queue.get();
  OneShot<uint16_t> drained(main_);
  queue->home().post([this, queue, &drained] {
    queue->stop([this, &drained](uint16_t position) { main_.post([&drained, position] { drained.set(position); }); });
  });
  ring.base = co_await drained;
  ring.queue.reset();
  ring.stopping = false;
}

Task<void> Session::stop_all_rings() {
  for (unsigned index = 0; index < rings_.size(); ++index) {
    co_await stop_ring(index);
    rings_[index].started = rings_[index].enabled = false;
  }
}

Result<void> Session::get_inflight(const spec::VhostUserInflight& wish, Answer& answer) {
  if (wish.num_queues == 0 || wish.num_queues > rings_.size() || !spec::valid_virtqueue_size(wish.queue_size))
    return refused(fmt::format("an in-flight buffer for {} queues of {}", wish.num_queues, wish.queue_size));
  const size_t bytes = wish.num_queues * spec::inflight_queue_bytes(wish.queue_size);
  UniqueFd fd(memfd_create("vhost-inflight", MFD_CLOEXEC | MFD_ALLOW_SEALING));
  if (!fd) return Error::from_errno(errno, "create an in-flight buffer");
  if (ftruncate(fd.get(), static_cast<off_t>(bytes)) != 0 ||
      fcntl(fd.get(), F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL) != 0)
    return Error::from_errno(errno, fmt::format("create an in-flight buffer of {} bytes", bytes));
  answer.present = true;
  answer.payload.inflight = wish;
  answer.payload.inflight.mmap_size = bytes;
  answer.payload.inflight.mmap_offset = 0;
  answer.bytes = sizeof answer.payload.inflight;
  answer.fd = std::move(fd);
  return {};
}

Result<void> Session::set_inflight(const spec::VhostUserInflight& buffer, int fd) {
  for (const Ring& ring : rings_)
    if (ring.queue != nullptr) return refused("a new in-flight buffer while queues run");
  if (buffer.num_queues == 0 || buffer.num_queues > rings_.size() || !spec::valid_virtqueue_size(buffer.queue_size))
    return refused(fmt::format("an in-flight buffer for {} queues of {}", buffer.num_queues, buffer.queue_size));
  const size_t needed = buffer.num_queues * spec::inflight_queue_bytes(buffer.queue_size);
  if (buffer.mmap_size < needed || buffer.mmap_offset % spec::kInflightAlign != 0)
    return refused(fmt::format("an in-flight buffer of {} bytes at {}; {} are needed", buffer.mmap_size,
                               buffer.mmap_offset, needed));
  TRY_ASSIGN(inflight_, Mapping::map(fd, buffer.mmap_offset, needed, host_.unmapper()));
  inflight_shape_ = buffer;
  return {};
}

void Session::memory_faulted() {
  LOG_ERROR("vhost", "{}: front end {} shrank the file behind its guest memory: its connection ends", host_.name(),
            id_);
  socket_.shut_down();
}

void Session::set_coalescing(const Coalescing& coalescing) {
  for (Ring& ring : rings_) {
    if (ring.queue == nullptr || ring.stopping) continue;
    ring.queue->home().post([queue = ring.queue.get(), coalescing] { queue->set_coalescing(coalescing); });
  }
}

void Session::leave_failures() noexcept {
  for (Ring& ring : rings_)
    if (ring.queue != nullptr) ring.queue->leave_failures();
}

void Session::refresh_progress() {
  for (Ring& ring : rings_)
    if (ring.running) ring.queue->refresh_progress();
}

std::vector<Session::QueueState> Session::queues() const {
  std::vector<QueueState> all;
  for (unsigned index = 0; index < rings_.size(); ++index) {
    const BlkQueue* queue = rings_[index].queue.get();
    if (queue == nullptr) continue;
    all.push_back({index, rings_[index].size, queue->home().name(), queue->outstanding(), queue->bad_requests(),
                   queue->broken(), queue->progress()});
  }
  return all;
}

}  // namespace diskengine::vhost
