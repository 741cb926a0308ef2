#include "control/baremetal/nvme_attach.h"

#include <fmt/format.h>

namespace diskengine::control {
namespace {

bool leads_elsewhere(const AttachmentWish& wish, const LegWish& leg, const ControllerView& controller) {
  if (!controller.subnqn.empty() && controller.subnqn != leg.nqn) return true;
  if (!controller.hostnqn.empty() && controller.hostnqn != wish.host_nqn) return true;
  return controller.traddr != leg.address || controller.trsvcid != std::to_string(leg.port);
}

Result<void> run_step(LoopContext& context, const AttachmentWish& wish, const LegWish& leg, ConnectionStep step) {
  if (step == ConnectionStep::detach) return context.data_plane.detach_controller(leg.controller_name);
  return context.data_plane.attach_controller({.name = leg.controller_name,
                                               .address = leg.address,
                                               .port = leg.port,
                                               .subnqn = leg.nqn,
                                               .hostnqn = wish.host_nqn,
                                               .ctrlr_loss_timeout_s = context.limits.ctrlr_loss_timeout_s,
                                               .reconnect_delay_s = context.limits.reconnect_delay_s,
                                               .fast_io_fail_timeout_s = context.limits.fast_io_fail_timeout_s});
}

// Like take_step, for something that is only a part of the attachment: a failure is told, not recorded as its state.
Result<int> take_leg_step(LoopContext& context, const AttachmentWish& wish, const LegWish& leg, ConnectionStep step,
                          std::string* trouble) {
  const std::string object = "connection " + leg.nqn;
  const int64_t now_ms = context.environment.monotonic_ms();
  Backoff& backoff = context.memory.backoff;
  if (!backoff.may_try(object, now_ms)) {
    *trouble = backoff.last_error(object);
    return 0;
  }
  Result<void> done = run_step(context, wish, leg, step);
  if (done) {
    backoff.succeeded(object);
    return 1;
  }
  *trouble = fmt::format("{} at {}:{}: {}", leg.describe(), leg.address, leg.port, done.error().message());
  backoff.failed(object, now_ms, *trouble);
  return 0;
}

}  // namespace

ConnectionPlan plan_connection(const AttachmentWish& wish, const LegWish& leg, const ComputeView& view) {
  const ControllerView* controller = view.controller(leg.controller_name);
  if (!wish.wanted) {
    if (controller == nullptr) return {};
    if (view.raid(wish.raid_name) != nullptr) return {ConnectionStep::none, "waiting for " + wish.raid_name + " to go"};
    return {ConnectionStep::detach, {}};
  }
  if (controller == nullptr) {
    if (!leg.admitted) return {ConnectionStep::none, fmt::format("{}: {}", leg.describe(), leg.replica_reason)};
    return {ConnectionStep::attach, {}};
  }
  if (leads_elsewhere(wish, leg, *controller)) return {ConnectionStep::detach, {}};
  if (controller->state != "enabled") return {ConnectionStep::none, leg_trouble(leg, view)};
  return {};
}

Result<int> reconcile_nvme_connections(LoopContext& context, const AttachmentWish& wish, const ComputeView& view,
                                       std::string* last_trouble) {
  int steps = 0;
  // Before the first connection, since that is when every data plane takes it. One that does not keeps its own.
  if (wish.wanted && view.controllers.empty()) {
    const Result<void> set = context.data_plane.set_keep_alive(context.limits.keep_alive_ms);
    if (!set && set.error().code() == Errc::unreachable) return set.error();
  }
  for (const LegWish& leg : wish.legs) {
    const ConnectionPlan plan = plan_connection(wish, leg, view);
    if (plan.step != ConnectionStep::none) {
      TRY_ASSIGN(const int taken, take_leg_step(context, wish, leg, plan.step, last_trouble));
      steps += taken;
    } else if (!plan.reason.empty()) {
      *last_trouble = plan.reason;
    }
  }
  return steps;
}

}  // namespace diskengine::control
