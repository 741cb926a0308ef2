#include "fabric/pcie/controller.h"

#include <fmt/format.h>

#include <algorithm>
#include <utility>

#include "base/assert.h"
#include "base/log.h"

namespace diskengine::fabric::pcie {

using spec::Property;
using spec::Register;
using spec::Status;

namespace {

constexpr uint64_t kPollNs = 1'000'000;
constexpr size_t kShadowPage = spec::kDoorbellBufferBytes;

}  // namespace

// --- Registers ------------------------------------------------------------------------------------------------------

PcieController::PcieController(Reactor& reactor, std::string address, std::shared_ptr<RegistrarWork> work)
    : reactor_(reactor), address_(std::move(address)), work_(std::move(work)), queues_(reactor) {}

PcieController::~PcieController() {
  if (shadow_ != nullptr) work_->dispose(std::move(shadow_));
  if (device_ != nullptr) work_->dispose(std::move(device_));
}

Error PcieController::gone_error() const {
  return Error(Errc::not_found, fmt::format("the NVMe controller at {} is gone", address_));
}

uint16_t PcieController::io_queues_max() const noexcept {
  const size_t doorbells = (device_->register_bytes() - Register::doorbells) / (2 * stride());
  const size_t queues = std::min<size_t>(doorbells, device_->vectors());
  return static_cast<uint16_t>(std::min<size_t>(queues - 1, UINT16_MAX - 1));
}

Result<void> PcieController::attach(std::shared_ptr<PciDevice> device) {
  device_ = std::move(device);
  uint32_t low = 0;
  uint32_t high = 0;
  if (!read(Property::cap, &low) || !read(Property::cap + 4, &high)) return gone_error();
  cap_.value = uint64_t{high} << 32 | low;
  const auto refuse = [this](const std::string& why) {
    return Error(Errc::not_supported, fmt::format("the NVMe controller at {} {}", address_, why));
  };
  if (!cap_.nvm_command_set()) return refuse("does not have the NVM command set");
  if (cap_.page_bytes_min() > spec::kPrpPageBytes)
    return refuse(fmt::format("works in pages of {} bytes or more", cap_.page_bytes_min()));
  if (device_->vectors() < 2 || spec::cq_doorbell(1, stride()) + sizeof(uint32_t) > device_->register_bytes())
    return refuse("has no interrupts or no doorbells for an I/O queue");
  return {};
}

bool PcieController::read(uint32_t offset, uint32_t* value) noexcept {
  *value = device_->read32(offset);
  return *value != spec::kRegisterGone;
}

void PcieController::configure(uint32_t value, QueuePair& admin, uint64_t sq_iova, uint64_t cq_iova) noexcept {
  const bool enabled = (device_->read32(Property::cc) & spec::kCcEnable) != 0;
  if ((value & spec::kCcEnable) != 0 && !enabled) {
    admin.restart();
    device_->write32(Register::aqa, spec::make_aqa(admin.entries(), admin.entries()));
    device_->write32(Register::asq, static_cast<uint32_t>(sq_iova));
    device_->write32(Register::asq + 4, static_cast<uint32_t>(sq_iova >> 32));
    device_->write32(Register::acq, static_cast<uint32_t>(cq_iova));
    device_->write32(Register::acq + 4, static_cast<uint32_t>(cq_iova >> 32));
  }
  device_->write32(Property::cc, value);
}

// --- Commands of our own --------------------------------------------------------------------------------------------

// One command that a coroutine waits for; lives in its frame.
struct PcieController::Call {
  Call(PcieController& c, std::string what)
      : controller(c), answered(c.reactor_), limit([this, what = std::move(what)] {
          if (controller.port_ == nullptr) return;
          controller.port_->give_up(
              Error(Errc::timed_out, fmt::format("{}: {} was not done within {} s", controller.address_, what,
                                                 kQueueLimitNs / 1'000'000'000)));
        }) {
    limit.arm(c.reactor_, kQueueLimitNs);
  }
  PcieController& controller;
  HostCommand command;
  OneShot<bool> answered;
  Timer limit;
};

Task<Result<spec::Cqe>> PcieController::admin(std::string what, spec::Sqe sqe) {
  if (port_ == nullptr || !port_->usable())
    co_return Error(Errc::unreachable, fmt::format("the controller at {} is not enabled", address_));
  Call call(*this, what);
  call.command.sqe = sqe;
  call.command.owner = &call;
  call.command.done = [](HostCommand& command) noexcept { static_cast<Call*>(command.owner)->answered.set(true); };
  port_->submit_own(call.command);
  co_await call.answered;
  if (call.command.outcome == HostOutcome::lost)
    co_return Error(Errc::unreachable, fmt::format("{}: {} was not done", address_, what));
  const uint16_t status = call.command.cqe.status;
  if (spec::status_of(status) != Status::success)
    co_return Error(Errc::io_error, fmt::format("{}: {}: the controller answered {}", address_, what,
                                                spec::name_of(spec::status_of(status))));
  co_return call.command.cqe;
}

Task<Result<void>> PcieController::create_queue(QueueRequest request, ShadowDoorbells* shadow) {
  std::shared_ptr<PcieController> self = shared_from_this();
  co_await queues_.lock();
  if (request.shadow_doorbells && !std::exchange(shadow_tried_, true)) co_await offer_shadow_doorbells();
  *shadow = shadow_of(request.id);
  spec::Sqe cq;
  cq.opcode = spec::AdminOp::create_cq;
  cq.cdw10 = spec::create_queue_cdw10(request.id, request.entries);
  cq.cdw11 = spec::create_cq_cdw11(request.id);
  spec::set_prps(cq, {.first = request.cq_iova, .second = 0});
  Result<spec::Cqe> made = co_await admin("making a completion queue", cq);
  if (made) {
    spec::Sqe sq;
    sq.opcode = spec::AdminOp::create_sq;
    sq.cdw10 = spec::create_queue_cdw10(request.id, request.entries);
    sq.cdw11 = spec::create_sq_cdw11(request.id);
    spec::set_prps(sq, {.first = request.sq_iova, .second = 0});
    made = co_await admin("making a submission queue", sq);
  }
  queues_.unlock();
  CO_TRY(made);
  co_return Result<void>{};
}

// Without them doorbells are written, so a failure costs nothing but speed.
Task<void> PcieController::offer_shadow_doorbells() {
  Result<DmaMemory> memory = DmaMemory::make(device_->domain(), 2 * kShadowPage);
  if (!memory) co_return;
  auto pages = std::make_shared<DmaMemory>(std::move(*memory));
  spec::Sqe sqe;
  sqe.opcode = spec::AdminOp::doorbell_buffer_config;
  const uint64_t iova = pages->iova_of(pages->data());
  spec::set_prps(sqe, {.first = iova, .second = iova + kShadowPage});
  Result<spec::Cqe> answer = co_await admin("offering shadow doorbells", sqe);
  // Whatever it answered, it may look there from now on.
  shadow_ = std::move(pages);
  if (answer) co_return;
  LOG_INFO("fabric", "{}", answer.error().message());
  shadow_refused_ = true;
}

ShadowDoorbells PcieController::shadow_of(uint16_t id) const noexcept {
  const uint32_t sq = spec::sq_doorbell(id, stride()) - Register::doorbells;
  const uint32_t cq = spec::cq_doorbell(id, stride()) - Register::doorbells;
  if (shadow_ == nullptr || shadow_refused_ || cq + sizeof(uint32_t) > kShadowPage) return {};
  uint8_t* const at = shadow_->data();
  const auto word = [](uint8_t* address) { return reinterpret_cast<uint32_t*>(address); };
  ShadowDoorbells shadow{word(at + sq), word(at + cq), word(at + kShadowPage + sq), word(at + kShadowPage + cq)};
  // A queue that is made anew starts at zero.
  *shadow.sq = *shadow.cq = 0;
  *word(at + kShadowPage + sq) = *word(at + kShadowPage + cq) = 0;
  return shadow;
}

// --- Ending ---------------------------------------------------------------------------------------------------------

// True if the queue is surely gone, or never was.
Task<bool> PcieController::delete_queue(uint8_t opcode, uint16_t id) {
  spec::Sqe sqe;
  sqe.opcode = opcode;
  sqe.cdw10 = id;
  Result<spec::Cqe> deleted = co_await admin(fmt::format("deleting queue {}", id), sqe);
  if (deleted) co_return true;
  LOG_WARN("fabric", "{}", deleted.error().message());
  co_return false;
}

Task<void> PcieController::retire_queue(uint16_t id) {
  std::shared_ptr<PcieController> self = shared_from_this();
  co_await queues_.lock();
  uint32_t status = 0;
  // A controller that says it failed answers nothing.
  bool gone = !stopping_ && read(Property::csts, &status) && (status & spec::kCstsFatal) == 0;
  if (gone) gone = co_await delete_queue(spec::AdminOp::delete_sq, id);
  if (gone) gone = co_await delete_queue(spec::AdminOp::delete_cq, id);
  if (!gone) co_await stop();
  queues_.unlock();
}

Task<void> PcieController::stop() {
  if (stopped_) co_return;
  std::shared_ptr<PcieController> self = shared_from_this();
  if (stopping_) {
    OneShot<bool> done(reactor_);
    stop_waiters_.push_back(&done);
    co_await done;
    co_return;
  }
  stopping_ = true;
  if (device_ != nullptr) {
    const bool idle = co_await disable();
    if (!idle) co_await reset_function();
  }
  stopped_ = true;
  for (OneShot<bool>* waiter : std::exchange(stop_waiters_, {})) waiter->set(true);
}

// True once the controller says that it is idle, or it is gone.
Task<bool> PcieController::disable() {
  uint32_t config = 0;
  uint32_t status = 0;
  if (!read(Property::cc, &config)) co_return true;
  if ((config & spec::kCcEnable) != 0) device_->write32(Property::cc, config & ~spec::kCcEnable);
  const uint32_t limit_ms = std::clamp(cap_.ready_timeout_ms(), 500u, kDisableLimitMaxMs);
  const uint64_t deadline_ns = reactor_.now_ns() + uint64_t{limit_ms} * 1'000'000;
  for (;;) {
    if (!read(Property::csts, &status) || (status & spec::kCstsReady) == 0) co_return true;
    if (reactor_.now_ns() >= deadline_ns) break;
    co_await sleep_for(reactor_, kPollNs);
  }
  LOG_WARN("fabric", "{}: the controller did not become idle within {} ms: its function is reset", address_, limit_ms);
  co_return false;
}

Task<void> PcieController::reset_function() {
  OneShot<bool> done(reactor_);
  work_->run([device = device_, &reactor = reactor_, address = address_, &done] {
    Result<void> reset = device->reset();
    if (!reset) LOG_ERROR("fabric", "{}: {}", address, reset.error().message());
    reactor.post([&done] { done.set(true); });
  });
  co_await done;
}

}  // namespace diskengine::fabric::pcie
