#include "block/decorators/error.h"

#include <fmt/format.h>

#include <algorithm>
#include <cerrno>

#include "base/json_text.h"

namespace diskengine {

class ErrorDisk::ErrorChannel final : public LayeredChannel {
 public:
  ErrorChannel(std::shared_ptr<ErrorDisk> disk, Reactor& reactor, std::unique_ptr<Channel> base)
      : LayeredChannel(disk, reactor, std::move(base)), disk_(*disk) {
    std::lock_guard lock(disk_.mutex_);
    disk_.channels_.push_back(this);
  }
  ~ErrorChannel() override {
    std::lock_guard lock(disk_.mutex_);
    std::erase(disk_.channels_, this);
  }

  void settle_pending(bool resume) noexcept {
    List<Request> held;
    held.splice_back(pending_);
    while (!held.empty()) {
      Request& request = held.pop_front();
      if (resume) {
        pass_on(request);
      } else {
        finish(request, IoStatus::error(IoCode::canceled));
      }
    }
  }

 private:
  void start(Request& request) noexcept override {
    Passed& passed = take(request);
    Armed& armed = disk_.armed(request.op);
    if (!hit(armed)) [[likely]] {
      pass_on(request);
      return;
    }
    switch (armed.kind.load(std::memory_order_relaxed)) {
      case Kind::failure:
        finish(request, IoStatus::error(IoCode::io_error));
        break;
      case Kind::no_memory:
        finish(request, IoStatus::error(IoCode::io_error, ENOMEM));
        break;
      case Kind::nvme_failure:
        finish(request, IoStatus::nvme(IoCode::io_error, armed.nvme_sct.load(std::memory_order_relaxed),
                                       armed.nvme_sc.load(std::memory_order_relaxed), false));
        break;
      case Kind::pending:
        // While the device goes away nobody would ever let go of it.
        if (disk_.removed()) {
          finish(request, IoStatus::error(IoCode::canceled));
        } else {
          pending_.push_back(request);
        }
        break;
      case Kind::corrupt_data:
        passed.marked = true;
        if (request.op == Op::write) falsify_write(request, armed);
        pass_on(request);
        break;
    }
  }

  // Takes one of the injected errors if there is one for now.
  bool hit(Armed& armed) noexcept {
    uint32_t left = armed.remaining.load(std::memory_order_acquire);
    if (left == 0 || passed_on() < armed.queue_depth.load(std::memory_order_relaxed)) return false;
    while (left != 0)
      if (armed.remaining.compare_exchange_weak(left, left - 1, std::memory_order_relaxed)) return true;
    return false;
  }

  // The payload belongs to the submitter and may be on its way to another device too, so it stays as it is: a piece of
  // one changed byte is put between its parts.
  void falsify_write(Request& request, const Armed& armed) noexcept {
    Passed& passed = request.context<Passed>();
    uint64_t offset = armed.corrupt_offset.load(std::memory_order_relaxed);
    size_t hit = 0;
    while (hit < request.iov.size() && offset >= request.iov[hit].iov_len) offset -= request.iov[hit++].iov_len;
    if (hit == request.iov.size()) return;
    // Two more pieces, and room for the byte itself behind them.
    passed.own_iov = new iovec[request.iov.size() + 3];
    auto* changed = reinterpret_cast<uint8_t*>(passed.own_iov + request.iov.size() + 2);
    iovec* out = std::copy_n(request.iov.begin(), hit, passed.own_iov);
    auto* at = static_cast<uint8_t*>(request.iov[hit].iov_base);
    *changed = at[offset] ^ armed.corrupt_value.load(std::memory_order_relaxed);
    if (offset > 0) *out++ = {at, offset};
    *out++ = {changed, 1};
    if (offset + 1 < request.iov[hit].iov_len) *out++ = {at + offset + 1, request.iov[hit].iov_len - offset - 1};
    out = std::copy(request.iov.begin() + static_cast<ptrdiff_t>(hit) + 1, request.iov.end(), out);
    passed.iov = {passed.own_iov, out};
  }

  void falsify_read(Request& request) noexcept {
    const Armed& armed = disk_.armed(Op::read);
    uint64_t offset = armed.corrupt_offset.load(std::memory_order_relaxed);
    for (const iovec& piece : request.iov) {
      if (offset < piece.iov_len) {
        static_cast<uint8_t*>(piece.iov_base)[offset] ^= armed.corrupt_value.load(std::memory_order_relaxed);
        return;
      }
      offset -= piece.iov_len;
    }
  }

  void base_done(Request& request, IoStatus status) noexcept override {
    const Passed& passed = request.context<Passed>();
    delete[] passed.own_iov;
    if (passed.marked && status.ok() && request.op == Op::read) falsify_read(request);
    finish(request, status);
  }

  ErrorDisk& disk_;
  List<Request> pending_;
};

Result<std::shared_ptr<ErrorDisk>> ErrorDisk::create(DeviceRegistry& registry, const Options& options) {
  TRY_ASSIGN(std::shared_ptr<Device> base, registry.find(options.base_name));
  const std::string name = "EE_" + base->name();
  TRY(base->claim(name));
  DeviceInfo info = info_over(*base, name, "Error Injection Disk", options.uuid);
  return std::shared_ptr<ErrorDisk>(new ErrorDisk(std::move(info), std::move(base), registry));
}

Result<std::unique_ptr<Channel>> ErrorDisk::open_channel(Reactor& reactor) {
  TRY_ASSIGN(std::unique_ptr<Channel> below, base().open_channel(reactor));
  return std::unique_ptr<Channel>(std::make_unique<ErrorChannel>(
      std::static_pointer_cast<ErrorDisk>(shared_from_this()), reactor, std::move(below)));
}

void ErrorDisk::inject(std::optional<Op> op, const Injection& injection) noexcept {
  for (size_t i = 0; i < kOps; ++i) {
    if (op.has_value() && static_cast<size_t>(*op) != i) continue;
    Armed& armed = armed_[i];
    armed.remaining.store(0, std::memory_order_relaxed);
    armed.kind.store(injection.kind, std::memory_order_relaxed);
    armed.queue_depth.store(injection.queue_depth, std::memory_order_relaxed);
    armed.corrupt_offset.store(injection.corrupt_offset, std::memory_order_relaxed);
    armed.corrupt_value.store(injection.corrupt_value, std::memory_order_relaxed);
    armed.nvme_sct.store(injection.nvme_sct, std::memory_order_relaxed);
    armed.nvme_sc.store(injection.nvme_sc, std::memory_order_relaxed);
    armed.remaining.store(injection.count, std::memory_order_release);
  }
}

void ErrorDisk::clear() noexcept {
  for (Armed& armed : armed_) armed.remaining.store(0, std::memory_order_relaxed);
}

void ErrorDisk::resume_pending() { settle_pending(true); }

void ErrorDisk::on_remove() {
  LayeredDevice::on_remove();
  settle_pending(false);
}

bool ErrorDisk::has(ErrorChannel& channel) {
  std::lock_guard lock(mutex_);
  return std::find(channels_.begin(), channels_.end(), &channel) != channels_.end();
}

void ErrorDisk::settle_pending(bool resume) {
  std::lock_guard lock(mutex_);
  auto self = std::static_pointer_cast<ErrorDisk>(shared_from_this());
  for (ErrorChannel* channel : channels_)
    channel->reactor().post([self, channel, resume] {
      // A channel closes on this reactor, so if it is there it stays for the length of this call.
      if (self->has(*channel)) channel->settle_pending(resume);
    });
}

std::string ErrorDisk::driver_specific_json() const {
  return fmt::format(R"({{"error_disk":{{"base_bdev":{}}}}})", json_quote(base().name()));
}

std::string ErrorDisk::config_json() const {
  return fmt::format(R"({{"method":"bdev_error_create","params":{{"base_name":{},"uuid":"{}"}}}})",
                     json_quote(base().name()), info().uuid.to_string());
}

}  // namespace diskengine
