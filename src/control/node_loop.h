// All reconcile loops of one node, one pass at a time. A storage node runs initialise_disk, provision_lvol and
// reconcile_exports; a compute node reconcile_nvme_connections, ensure_raid, ensure_vhost and run_health_iteration.
//
// One thread at a time; owns its connection to the data plane; `store` and `environment` outlive it.
#pragma once

#include <functional>
#include <memory>
#include <optional>
#include <string>

#include "base/result.h"
#include "control/baremetal/attachment_wish.h"
#include "control/loop.h"

namespace diskengine::control {

class NodeLoop {
 public:
  NodeLoop(Store& store, Environment& environment, const Node& node, const LoopLimits& limits);
  ~NodeLoop();

  // Observes and takes steps until none is left to take now. Whatever fails is recorded on the object, or on the node
  // when its data plane does not answer; the Error is only for a database that does not. Returns the steps taken.
  Result<int> run();

  // Asked between two passes; false ends run(). Without it nothing is asked.
  void set_may_go_on(std::function<bool()> may_go_on) { may_go_on_ = std::move(may_go_on); }

  const std::string& name() const noexcept { return name_; }

 private:
  Result<int> pass();
  Result<int> storage_pass();
  Result<int> initialise_disks(const TargetView& view);
  Result<int> compute_pass();
  Result<int> attachment_pass(const Graph& graph, const VolumeVmMapping& attachment, const ComputeView& view);
  Result<int> detachment_pass(const Graph& graph, const VolumeVmMapping& attachment, const ComputeView& view);
  // One step of taking apart what `wish` names.
  Result<int> take_apart(const AttachmentWish& wish, const ComputeView& view, std::string* trouble);
  Result<int> stray_pass(const Graph& graph, const ComputeView& view);
  Result<void> record_abilities(const Graph& graph, const Abilities& abilities);
  Result<void> record_node_answers();
  Result<void> record_node_down(const Error& error);
  Result<void> record_volume_statuses();
  LoopContext context();

  Store& store_;
  Environment& environment_;
  LoopLimits limits_;
  LoopMemory memory_;
  int64_t node_id_;
  std::string name_;
  bool is_storage_;
  std::string rpc_socket_;
  DataPlane data_plane_;
  std::optional<int64_t> seen_recorded_at_ms_;  // monotonic
  std::function<bool()> may_go_on_;
};

}  // namespace diskengine::control
