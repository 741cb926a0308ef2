#include "block/decorators/crash.h"

#include <fmt/format.h>

#include <cerrno>
#include <cstring>

#include "base/json_text.h"

namespace diskengine {
namespace {

bool changes_the_disk(Op op) noexcept { return op != Op::read && op != Op::compare; }

}  // namespace

class CrashDisk::CrashChannel final : public LayeredChannel {
 public:
  CrashChannel(std::shared_ptr<CrashDisk> disk, Reactor& reactor, std::unique_ptr<Channel> base)
      : LayeredChannel(disk, reactor, std::move(base)), disk_(*disk) {}

 private:
  void start(Request& request) noexcept override {
    Passed& passed = take(request);
    if (changes_the_disk(request.op)) {
      Ticket ticket;
      if (!disk_.record_submit(request, ticket)) {
        finish(request, IoStatus::error(IoCode::io_error, ENOMEM));
        return;
      }
      passed.token = uint64_t{ticket.recording} << 32 | ticket.operation;
    }
    pass_on(request);
  }

  void base_done(Request& request, IoStatus status) noexcept override {
    if (changes_the_disk(request.op)) {
      const uint64_t token = request.context<Passed>().token;
      disk_.record_complete(
          {.recording = static_cast<uint32_t>(token >> 32), .operation = static_cast<uint32_t>(token)}, status);
    }
    finish(request, status);
  }

  CrashDisk& disk_;
};

CrashDisk::CrashDisk(DeviceInfo info, std::shared_ptr<Device> base, DeviceRegistry& registry, const Options& options)
    : LayeredDevice(std::move(info), std::move(base), registry), options_(options) {}

CrashDisk::~CrashDisk() = default;

Result<std::shared_ptr<CrashDisk>> CrashDisk::create(DeviceRegistry& registry, const Options& options) {
  if (options.payload_bytes == 0 || options.payload_bytes > kPayloadBytesMax || options.operations == 0 ||
      options.operations > kOperationsMax)
    return Error(
        Errc::invalid_argument,
        fmt::format("crash '{}': a recording holds 1 to {} bytes and 1 to {} operations, not {} and {}", options.name,
                    kPayloadBytesMax, kOperationsMax, options.payload_bytes, options.operations));
  TRY_ASSIGN(std::shared_ptr<Device> base, registry.find(options.base_name));
  TRY(base->claim(options.name));
  DeviceInfo info = info_over(*base, options.name, "Crash Recording Disk", options.uuid);
  return std::shared_ptr<CrashDisk>(new CrashDisk(std::move(info), std::move(base), registry, options));
}

Result<std::unique_ptr<Channel>> CrashDisk::open_channel(Reactor& reactor) {
  TRY_ASSIGN(std::unique_ptr<Channel> below, base().open_channel(reactor));
  return std::unique_ptr<Channel>(std::make_unique<CrashChannel>(
      std::static_pointer_cast<CrashDisk>(shared_from_this()), reactor, std::move(below)));
}

std::string CrashDisk::driver_specific_json() const {
  return fmt::format(R"({{"crash":{{"base_bdev_name":{},"recording":{}}}}})", json_quote(base().name()), recording());
}

Result<void> CrashDisk::start() {
  std::lock_guard lock(mutex_);
  if (recording_ != nullptr) return Error(Errc::busy, fmt::format("crash '{}': it is recording already", name()));
  if (in_flight_ != 0)
    return Error(Errc::busy, fmt::format("crash '{}': {} writes are in flight, which the recording would miss", name(),
                                         in_flight_));
  auto recording = std::make_unique<CrashRecording>();
  TRY_ASSIGN(recording->payloads, DmaBuffer::allocate(options_.payload_bytes));
  recording->operations.reserve(options_.operations);
  recording->events.reserve(options_.operations * kEventsPerOperation);
  recording_ = std::move(recording);
  payload_used_ = 0;
  ++recordings_;
  return {};
}

Result<CrashRecording> CrashDisk::stop() {
  std::lock_guard lock(mutex_);
  if (recording_ == nullptr) return Error(Errc::not_found, fmt::format("crash '{}': it is not recording", name()));
  CrashRecording ended = std::move(*recording_);
  recording_.reset();
  return ended;
}

bool CrashDisk::recording() const {
  std::lock_guard lock(mutex_);
  return recording_ != nullptr;
}

Result<size_t> CrashDisk::mark(uint64_t value) {
  std::lock_guard lock(mutex_);
  if (recording_ == nullptr) return Error(Errc::not_found, fmt::format("crash '{}': it is not recording", name()));
  // The completions of what is in flight must still fit.
  if (recording_->events.size() + in_flight_ >= recording_->events.capacity())
    return Error(Errc::out_of_range, fmt::format("crash '{}': the recording is full", name()));
  recording_->events.push_back({.what = CrashRecording::What::mark, .value = value});
  return recording_->events.size() - 1;
}

size_t CrashDisk::events() const {
  std::lock_guard lock(mutex_);
  return recording_ == nullptr ? 0 : recording_->events.size();
}

bool CrashDisk::record_submit(const Request& request, Ticket& ticket) noexcept {
  std::lock_guard lock(mutex_);
  if (recording_ == nullptr) {
    ++in_flight_;
    return true;
  }
  CrashRecording& to = *recording_;
  const uint64_t length = request.op == Op::flush ? 0 : request.blocks * info().block_size;
  const uint64_t payload_bytes = request.op == Op::write ? length : 0;
  if (to.operations.size() == to.operations.capacity() || to.events.size() + in_flight_ + 2 > to.events.capacity() ||
      payload_bytes > to.payloads.size() - payload_used_) {
    ++to.refused;
    return false;
  }
  uint8_t* payload = to.payloads.data() + payload_used_;
  if (request.op == Op::write)
    for (const iovec& piece : request.iov) {
      std::memcpy(to.payloads.data() + payload_used_, piece.iov_base, piece.iov_len);
      payload_used_ += piece.iov_len;
    }
  ticket = {.recording = recordings_, .operation = static_cast<uint32_t>(to.operations.size())};
  to.operations.push_back({.op = request.op,
                           .fua = request.fua,
                           .offset = request.op == Op::flush ? 0 : request.lba * info().block_size,
                           .length = length,
                           .payload = request.op == Op::write ? payload : nullptr,
                           .submitted = to.events.size()});
  to.events.push_back({.what = CrashRecording::What::submitted, .value = ticket.operation});
  ++in_flight_;
  return true;
}

void CrashDisk::record_complete(Ticket ticket, IoStatus status) noexcept {
  std::lock_guard lock(mutex_);
  --in_flight_;
  if (recording_ == nullptr || ticket.recording != recordings_) return;
  CrashRecording::Operation& operation = recording_->operations[ticket.operation];
  operation.completed = recording_->events.size();
  operation.ok = status.ok();
  recording_->events.push_back({.what = CrashRecording::What::completed, .value = ticket.operation});
}

}  // namespace diskengine
