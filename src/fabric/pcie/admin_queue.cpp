#include <fmt/format.h>

#include "base/endian.h"
#include "fabric/pcie/host_queue.h"

namespace diskengine::fabric::pcie {

using spec::Property;
using spec::Status;

// --- Life -----------------------------------------------------------------------------------------------------------

PcieAdminQueue::PcieAdminQueue(std::shared_ptr<PcieController> controller, const HostQueueOptions& options,
                               HostQueueEvents& events)
    : PcieQueue(controller, controller->reactor(), options, events), removal_(*this) {
  controller_->set_port(this);
}

PcieAdminQueue::~PcieAdminQueue() {
  if (removal_.reactor() != nullptr) removal_.reactor()->remove(removal_);
  controller_->set_port(nullptr);
}

// To open a device resets it, which takes longer than a reactor may wait.
void PcieAdminQueue::begin(PciBus& bus, Registrar& registrar) {
  busy_opening_ = true;
  controller_->work().run([this, &bus, &registrar, &reactor = reactor_, address = controller_->address()] {
    auto opened = std::make_shared<Result<std::shared_ptr<PciDevice>>>(bus.open(address));
    reactor.post([this, opened, &registrar] { on_opened(std::move(*opened), registrar); });
  });
}

void PcieAdminQueue::on_opened(Result<std::shared_ptr<PciDevice>> opened, Registrar& registrar) {
  busy_opening_ = false;
  Result<void> ready;
  if (opened) {
    ready = controller_->attach(std::move(*opened));
  } else {
    ready = opened.error();
  }
  if (ready) {
    Result<std::shared_ptr<Lane>> lane = Lane::make(reactor_, controller_->device().domain(), registrar);
    ready = lane ? make_rings(std::move(*lane), options_.depth + PcieController::kOwnCommandsMax)
                 : Result<void>(lane.error());
  }
  if (state_ == State::ending) return run_again();
  if (!ready) return end(ready.error());
  const int removal = controller_->device().removal_fd();
  if (removal >= 0) {
    removal_.set_fd(removal);
    reactor_.add(removal_);
  }
  open(0);
  events_.on_connected();
}

int PcieAdminQueue::RemovalWatch::poll() noexcept {
  uint64_t events = 0;
  if (read(fd(), &events, sizeof events) != static_cast<ssize_t>(sizeof events)) return 0;
  queue_.end(Error(Errc::not_found, fmt::format("the NVMe controller at {} is taken away from this process",
                                                queue_.controller_->address())));
  return 1;
}

void PcieAdminQueue::retire() {
  if (removal_.reactor() != nullptr) removal_.reactor()->remove(removal_);
  spawn(controller_->stop(), [this] {
    controller_->set_port(nullptr);
    retired();
  });
}

// --- Commands of fabrics --------------------------------------------------------------------------------------------

bool PcieAdminQueue::serve(HostCommand& command) noexcept {
  if (command.sqe.opcode == spec::AdminOp::fabrics) {
    serve_fabrics(command);
    return true;
  }
  if (command.sqe.opcode == spec::AdminOp::keep_alive) {
    keep_alive(command);
    return true;
  }
  return false;
}

void PcieAdminQueue::serve_fabrics(HostCommand& command) noexcept {
  const auto property = load_le<spec::FabricsProperty>(&command.sqe);
  switch (property.type) {
    case spec::FabricsType::connect:  // Identify says which controller it is
      return answer(command, Status::success, spec::kControllerIdAny);
    case spec::FabricsType::property_get:
      return get_property(command, property.offset, (property.size & 1) != 0);
    case spec::FabricsType::property_set:
      if (property.offset != Property::cc) return answer(command, Status::invalid_field);
      controller_->configure(static_cast<uint32_t>(property.value), *rings_, iova_of(rings_->sq_memory()),
                             iova_of(rings_->cq_memory()));
      return answer(command, Status::success);
    default:
      return answer(command, Status::invalid_opcode);
  }
}

void PcieAdminQueue::get_property(HostCommand& command, uint32_t offset, bool wide) noexcept {
  uint32_t low = 0;
  uint32_t high = 0;
  const bool there = controller_->read(offset, &low) && (!wide || controller_->read(offset + 4, &high));
  answer(command, there ? Status::success : Status::internal_error, uint64_t{high} << 32 | low);
  if (!there) end(controller_->gone_error());
}

void PcieAdminQueue::keep_alive(HostCommand& command) noexcept {
  uint32_t status = 0;
  const bool there = controller_->read(Property::csts, &status);
  const bool well = there && (status & spec::kCstsFatal) == 0;
  answer(command, well ? Status::success : Status::internal_error);
  if (!there) {
    end(controller_->gone_error());
  } else if (!well) {
    end(Error(Errc::io_error,
              fmt::format("the controller at {} reports a fatal status (CSTS.CFS)", controller_->address())));
  }
}

// A queue needs a doorbell and a vector.
void PcieAdminQueue::on_answer(HostCommand& command) noexcept {
  const bool queues = command.sqe.opcode == spec::AdminOp::set_features &&
                      (command.sqe.cdw10 & spec::kFeatureIdMask) == spec::Feature::number_of_queues;
  if (!queues || spec::status_of(command.cqe.status) != Status::success) return;
  const uint32_t most = controller_->io_queues_max() - 1u;
  const uint32_t granted = command.cqe.cdw0;
  command.cqe.cdw0 = std::min(granted >> 16, most) << 16 | std::min(granted & 0xffff, most);
}

}  // namespace diskengine::fabric::pcie
