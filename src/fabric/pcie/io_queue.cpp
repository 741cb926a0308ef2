#include <fmt/format.h>

#include "fabric/pcie/host_queue.h"

namespace diskengine::fabric::pcie {

Result<void> PcieIoQueue::begin(std::shared_ptr<Lane> lane) {
  if (options_.queue_id > controller_->io_queues_max())
    return Error(Errc::out_of_range,
                 fmt::format("the controller at {} has no queue {}", controller_->address(), options_.queue_id));
  TRY(make_rings(std::move(lane), options_.depth));
  rings_->restart();
  PcieController::QueueRequest request;
  request.id = options_.queue_id;
  request.entries = rings_->entries();
  request.sq_iova = iova_of(rings_->sq_memory());
  request.cq_iova = iova_of(rings_->cq_memory());
  request.shadow_doorbells = options_.shadow_doorbells;
  busy_opening_ = true;
  controller_->reactor().post([this, controller = controller_, request, &reactor = reactor_] {
    auto shadow = std::make_shared<ShadowDoorbells>();
    spawn<Result<void>>(controller->create_queue(request, shadow.get()), [this, shadow, &reactor](Result<void> made) {
      reactor.post([this, shadow, made = std::move(made)] { on_created(made, *shadow); });
    });
  });
  return {};
}

void PcieIoQueue::on_created(Result<void> created, const ShadowDoorbells& shadow) {
  busy_opening_ = false;
  if (state_ == State::ending) return run_again();
  if (!created) return end(created.error());
  rings_->use_shadow(shadow);
  open(options_.queue_id);
  events_.on_connected();
}

// Connect names the queue, which exists by then.
bool PcieIoQueue::serve(HostCommand& command) noexcept {
  if (command.sqe.opcode != spec::IoOp::fabrics) return false;
  answer(command, spec::Status::success);
  return true;
}

void PcieIoQueue::retire() {
  controller_->reactor().post([this, controller = controller_, id = options_.queue_id, &reactor = reactor_] {
    spawn(controller->retire_queue(id), [this, &reactor] { reactor.post([this] { retired(); }); });
  });
}

}  // namespace diskengine::fabric::pcie
