#include "control/storagenode/nvmeofexport.h"

#include <fmt/format.h>

#include <algorithm>

#include "control/naming.h"

namespace diskengine::control {
namespace {

constexpr std::string_view kTransport = "TCP";

bool listens(const SubsystemView& subsystem, const ExportWish& wish) {
  const std::string port = std::to_string(wish.port);
  return std::any_of(subsystem.listeners.begin(), subsystem.listeners.end(), [&](const ListenerView& listener) {
    return listener.trtype == kTransport && listener.traddr == wish.address && listener.trsvcid == port;
  });
}

// The step that makes the subsystem admit exactly the wished host.
ExportPlan plan_hosts(const ExportWish& wish, const SubsystemView& subsystem) {
  if (subsystem.allow_any_host) return {.step = ExportStep::disallow_any_host, .host = {}, .raid = {}, .status = {}};
  for (const std::string& host : subsystem.hosts)
    if (host != wish.host) return {.step = ExportStep::remove_host, .host = host, .raid = {}, .status = {}};
  if (!wish.host.empty() && subsystem.hosts.empty())
    return {.step = ExportStep::admit_host, .host = wish.host, .raid = {}, .status = {}};
  return {.step = ExportStep::none, .host = {}, .raid = {}, .status = make_status(state::kReady)};
}

Result<void> run_step(LoopContext& context, const ExportWish& wish, const ExportPlan& plan) {
  DataPlane& target = context.data_plane;
  switch (plan.step) {
    case ExportStep::release_leg:
      return target.delete_raid(plan.raid);
    case ExportStep::create_transport:
      return target.create_tcp_transport();
    case ExportStep::create_subsystem:
      return target.create_subsystem(wish.nqn, serial_number_of(wish.bdev_name));
    case ExportStep::delete_subsystem:
      return target.delete_subsystem(wish.nqn);
    case ExportStep::add_namespace:
      return target.add_namespace({.nqn = wish.nqn, .bdev_name = wish.bdev_name, .uuid = wish.bdev_name});
    case ExportStep::remove_namespace:
      return target.remove_namespace(wish.nqn, plan.nsid);
    case ExportStep::add_listener:
      return target.add_listener({.nqn = wish.nqn, .address = wish.address, .port = wish.port});
    case ExportStep::disallow_any_host:
      return target.disallow_any_host(wish.nqn);
    case ExportStep::remove_host:
      return target.remove_host(wish.nqn, plan.host, context.limits.fence_timeout_ms);
    case ExportStep::admit_host: {
      // What was read a moment ago may be an old epoch by now; its host must not get in again.
      TRY_ASSIGN(const bool is_held,
                 context.store.is_held(
                     {.volume_id = wish.volume_id, .epoch = wish.epoch, .writer = wish.writer, .in_sync = {}}));
      return is_held ? target.admit_host(wish.nqn, plan.host) : Result<void>();
    }
    case ExportStep::none:
      break;
  }
  return {};
}

// The export is as wished; is anybody else still at work there? Records the fence when not.
Result<Status> fence(LoopContext& context, const ExportWish& wish, const VolumeLvolMapping& replica) {
  const bool is_fenced = replica.fenced_epoch == wish.epoch && replica.admitted_host == wish.host;
  if (wish.host.empty() || is_fenced) return make_status(state::kReady);
  const Result<std::vector<std::string>> hosts = context.data_plane.connected_hosts(wish.nqn);
  if (!hosts) {
    if (hosts.error().code() == Errc::unreachable) return hosts.error();
    return make_status(state::kWaiting, "it cannot be seen whether former hosts are gone: " + hosts.error().message());
  }
  for (const std::string& host : *hosts)
    if (host != wish.host)
      return make_status(
          state::kWaiting,
          fmt::format("not fenced for epoch {} yet: I/O of the former host {} is still under way", wish.epoch, host));
  TRY(context.store.set_fenced({.replica_id = replica.id, .epoch = wish.epoch, .host_nqn = wish.host}));
  return make_status(state::kReady);
}

}  // namespace

ExportWish export_wish(const Graph& graph, const VolumeLvolMapping& replica) {
  const Volume* volume = graph.volume(replica.volume_id);
  const Lvol* lvol = graph.lvol(replica.lvol_id);
  const Node* node = graph.node_of(replica);
  DE_ASSERT(volume != nullptr && lvol != nullptr && node != nullptr);
  ExportWish wish;
  wish.nqn = replica.nqn;
  wish.bdev_name = lvol->uuid;
  wish.address = node->address;
  wish.port = node->port;
  if (volume->writer != 0) wish.host = host_nqn(volume->writer, volume->epoch);
  wish.volume_id = volume->id;
  wish.epoch = volume->epoch;
  wish.writer = volume->writer;
  wish.wanted = volume->wanted;
  wish.lvol_reason = fmt::format("its lvol {} is {}{}{}", lvol->uuid.empty() ? lvol_name(lvol->id) : lvol->uuid,
                                 lvol->status.state, lvol->status.reason.empty() ? "" : ": ", lvol->status.reason);
  return wish;
}

ExportPlan plan_export(const ExportWish& wish, const TargetView& view) {
  const SubsystemView* subsystem = view.subsystem(wish.nqn);
  const auto step = [](ExportStep what, int64_t nsid = 0) {
    return ExportPlan{.step = what, .host = {}, .raid = {}, .nsid = nsid, .status = {}};
  };
  if (!wish.wanted) {
    if (subsystem != nullptr) return step(ExportStep::delete_subsystem);
    return {.step = ExportStep::none,
            .host = {},
            .raid = {},
            .status = make_status(state::kWithdrawn, "its volume is being deleted")};
  }
  if (view.bdev(wish.bdev_name) == nullptr)
    return {.step = ExportStep::none, .host = {}, .raid = {}, .status = make_status(state::kWaiting, wish.lvol_reason)};
  for (const RaidView& raid : view.raids)
    if (raid.leg(wish.bdev_name) != nullptr)
      return {.step = ExportStep::release_leg, .host = {}, .raid = raid.name, .status = {}};
  if (!view.has_transport(kTransport)) return step(ExportStep::create_transport);
  if (subsystem == nullptr) return step(ExportStep::create_subsystem);
  for (const NamespaceView& ns : subsystem->namespaces)
    if (ns.bdev_name != wish.bdev_name) return step(ExportStep::remove_namespace, ns.nsid);
  if (subsystem->namespaces.empty()) return step(ExportStep::add_namespace);
  ExportPlan hosts = plan_hosts(wish, *subsystem);
  if (hosts.step != ExportStep::none) return hosts;
  // Last, so that a host that reconnects finds its namespace and itself admitted.
  if (!listens(*subsystem, wish)) return step(ExportStep::add_listener);
  return hosts;
}

Result<int> reconcile_exports(LoopContext& context, const Graph& graph, const TargetView& view) {
  int steps = 0;
  for (const VolumeLvolMapping& replica : graph.replicas) {
    const Node* node = graph.node_of(replica);
    if (node == nullptr || node->id != context.node_id) continue;
    const ExportWish wish = export_wish(graph, replica);
    const ExportPlan plan = plan_export(wish, view);
    if (plan.step != ExportStep::none) {
      TRY_ASSIGN(const int taken, take_step(context, Kind::replica, replica.id, "export " + wish.nqn,
                                            [&] { return run_step(context, wish, plan); }));
      steps += taken;
      if (plan.step == ExportStep::create_transport) return steps;  // one for all; the others look again
      continue;
    }
    Status status = plan.status;
    if (status.state == state::kReady) {
      TRY_ASSIGN(status, fence(context, wish, replica));
    }
    const bool is_admitted = status.state == state::kReady && !wish.host.empty();
    if (!is_admitted && !replica.admitted_host.empty()) TRY(context.store.set_not_admitted(replica.id));
    TRY(context.store.set_status(Kind::replica, replica.id, status));
  }
  return steps;
}

}  // namespace diskengine::control
