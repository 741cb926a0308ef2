#include "client/vhost_frontend.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

namespace diskengine::client {
namespace {

using spec::VhostUserRequest;

constexpr uint64_t bit(unsigned number) noexcept { return uint64_t{1} << number; }
constexpr size_t kPage = 4096;

}  // namespace

Result<std::unique_ptr<VhostFrontend>> VhostFrontend::connect(Options options) {
  if (options.queues == 0 || options.queues > spec::kVhostUserQueuesMax ||
      !spec::valid_virtqueue_size(options.queue_size) || options.queue_size < 4)
    return Error(Errc::invalid_argument,
                 fmt::format("{} queues of {} descriptors", options.queues, options.queue_size));
  TRY_ASSIGN(VhostSocket socket, VhostSocket::connect(options.socket_path, options.timeout_ms));
  std::unique_ptr<VhostFrontend> disk(new VhostFrontend(std::move(options), std::move(socket)));
  TRY(disk->negotiate());
  TRY(disk->make_memory());
  TRY(disk->share_memory());
  TRY(disk->share_inflight());
  for (unsigned index = 0; index < disk->options_.queues; ++index) TRY(disk->start_queue(index));
  return disk;
}

VhostFrontend::~VhostFrontend() {
  if (memory_ != nullptr) munmap(memory_, memory_bytes_);
}

Result<void> VhostFrontend::reconnect() {
  socket_.close();
  TRY_ASSIGN(socket_, VhostSocket::connect(options_.socket_path, options_.timeout_ms));
  TRY(negotiate());
  TRY(share_memory());
  TRY(share_inflight());
  for (unsigned index = 0; index < options_.queues; ++index) TRY(start_queue(index));
  return {};
}

Result<void> VhostFrontend::stop() {
  for (unsigned index = 0; index < options_.queues; ++index) {
    const spec::VhostUserVringState state{index, 0};
    TRY_ASSIGN(const VhostSocket::Reply reply, socket_.ask(VhostUserRequest::get_vring_base, &state, sizeof state));
    if (reply.payload.state.index != index)
      return Error(Errc::protocol, fmt::format("the position of queue {}, not {}", reply.payload.state.index, index));
  }
  return {};
}

Result<void> VhostFrontend::negotiate() {
  TRY_ASSIGN(const uint64_t offered, socket_.ask_u64(VhostUserRequest::get_features));
  if ((offered & bit(spec::kVhostUserFProtocolFeatures)) == 0)
    return Error(Errc::not_supported, "the vhost back end knows no protocol features");
  TRY_ASSIGN(const uint64_t protocol, socket_.ask_u64(VhostUserRequest::get_protocol_features));
  uint64_t wanted = bit(spec::kVhostUserPMq) | bit(spec::kVhostUserPConfig) | bit(spec::kVhostUserPReplyAck);
  if (options_.inflight) wanted |= bit(spec::kVhostUserPInflightShmfd);
  protocol_features_ = protocol & wanted;
  TRY(socket_.send_u64(VhostUserRequest::set_protocol_features, protocol_features_));
  TRY(socket_.send(VhostUserRequest::set_owner));
  uint64_t unwanted = 0;
  if (!options_.event_idx) unwanted |= bit(spec::kVirtioRingFEventIdx);
  if (!options_.indirect) unwanted |= bit(spec::kVirtioRingFIndirectDesc);
  features_ = offered & ~unwanted;
  TRY(socket_.send_u64(VhostUserRequest::set_features, features_));
  return read_config();
}

Result<void> VhostFrontend::read_config() {
  spec::VhostUserConfig wish{};
  wish.size = sizeof config_;
  TRY_ASSIGN(const VhostSocket::Reply reply,
             socket_.ask(VhostUserRequest::get_config, &wish, spec::kVhostUserConfigHeaderBytes + sizeof config_));
  if (reply.header.size != spec::kVhostUserConfigHeaderBytes + sizeof config_)
    return Error(Errc::protocol, fmt::format("a configuration of {} bytes", reply.header.size));
  std::memcpy(&config_, reply.payload.config.bytes, sizeof config_);
  return {};
}

Result<void> VhostFrontend::make_memory() {
  const size_t ring_bytes = round_up(VhostDriverQueue::memory_bytes(options_.queue_size), kPage);
  data_offset_ = ring_bytes * options_.queues;
  memory_bytes_ = data_offset_ + round_up(options_.data_bytes, kPage);
  memory_fd_ = UniqueFd(memfd_create("vhost-frontend", MFD_CLOEXEC));
  if (!memory_fd_ || ftruncate(memory_fd_.get(), static_cast<off_t>(memory_bytes_)) != 0)
    return Error::from_errno(errno, fmt::format("create {} bytes of guest memory", memory_bytes_));
  void* base = mmap(nullptr, memory_bytes_, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE, memory_fd_.get(), 0);
  if (base == MAP_FAILED) return Error::from_errno(errno, "map guest memory");
  memory_ = static_cast<uint8_t*>(base);
  for (unsigned index = 0; index < options_.queues; ++index) {
    UniqueFd kick(eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
    UniqueFd call(eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
    if (!kick || !call) return Error::from_errno(errno, "create an eventfd");
    queues_.push_back(std::make_unique<VhostDriverQueue>(
        options_.queue_size, (features_ & bit(spec::kVirtioRingFEventIdx)) != 0,
        (features_ & bit(spec::kVirtioRingFIndirectDesc)) != 0,
        VhostDriverQueue::Memory{memory_, kGuestAddress, memory_ + index * ring_bytes}, std::move(kick),
        std::move(call)));
  }
  return {};
}

Result<void> VhostFrontend::share_memory() {
  spec::VhostUserMemory table{};
  table.regions = 1;
  table.region[0] = {kGuestAddress, memory_bytes_, reinterpret_cast<uint64_t>(memory_), 0};
  return socket_.send_acknowledged(VhostUserRequest::set_mem_table, &table,
                                   offsetof(spec::VhostUserMemory, region) + sizeof table.region[0],
                                   {memory_fd_.get()});
}

Result<void> VhostFrontend::share_inflight() {
  if ((protocol_features_ & bit(spec::kVhostUserPInflightShmfd)) == 0) return {};
  if (!inflight_fd_) {
    inflight_.num_queues = static_cast<uint16_t>(options_.queues);
    inflight_.queue_size = options_.queue_size;
    TRY_ASSIGN(VhostSocket::Reply reply, socket_.ask(VhostUserRequest::get_inflight_fd, &inflight_, sizeof inflight_));
    if (!reply.fd || reply.payload.inflight.mmap_size == 0)
      return Error(Errc::protocol, "the vhost back end gave no in-flight buffer");
    inflight_ = reply.payload.inflight;
    inflight_fd_ = std::move(reply.fd);
  }
  return socket_.send_acknowledged(VhostUserRequest::set_inflight_fd, &inflight_, sizeof inflight_,
                                   {inflight_fd_.get()});
}

Result<void> VhostFrontend::start_queue(unsigned index) {
  const VhostDriverQueue& queue = *queues_[index];
  const auto user = [](const void* at) { return reinterpret_cast<uint64_t>(at); };
  const spec::VhostUserVringState size{index, queue.size()};
  const spec::VhostUserVringState base{index, queue.used_index()};
  const spec::VhostUserVringAddr address{index, 0, user(queue.desc()), user(queue.used()), user(queue.avail()), 0};
  const spec::VhostUserVringState enable{index, 1};
  const uint64_t number = index;
  TRY(socket_.send_acknowledged(VhostUserRequest::set_vring_num, &size, sizeof size));
  TRY(socket_.send_acknowledged(VhostUserRequest::set_vring_base, &base, sizeof base));
  TRY(socket_.send_acknowledged(VhostUserRequest::set_vring_addr, &address, sizeof address));
  TRY(socket_.send_acknowledged(VhostUserRequest::set_vring_call, &number, sizeof number, {queue.call_fd()}));
  TRY(socket_.send_acknowledged(VhostUserRequest::set_vring_kick, &number, sizeof number, {queue.kick_fd()}));
  return socket_.send_acknowledged(VhostUserRequest::set_vring_enable, &enable, sizeof enable);
}

Result<uint8_t> VhostFrontend::run(unsigned index, const VhostIo& io) {
  VhostDriverQueue& driver = queue(index);
  if (!driver.submit(io)) return Error(Errc::no_space, "the ring is full");
  driver.kick();
  VhostCompletion done[1];
  while (driver.reap(done) == 0) {
    if (!driver.wait(options_.timeout_ms))
      return Error(Errc::timed_out, fmt::format("no completion on queue {} within {} ms", index, options_.timeout_ms));
  }
  return done[0].status;
}

}  // namespace diskengine::client
