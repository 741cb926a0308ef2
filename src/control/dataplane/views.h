// What a data plane says it has, reduced to what the loops decide from. Values; fresh from one observation.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace diskengine::control {

struct BdevView {
  std::string name;
  std::vector<std::string> aliases;
  std::string uuid;
  std::string product_name;
  int64_t num_blocks = 0;
  int64_t block_size = 0;
};

struct LvolStoreView {
  std::string name;
  std::string base_bdev;
  int64_t total_bytes = 0;  // of its data clusters
  int64_t block_size = 0;
  std::string frozen_reason;  // why it changes nothing any more; empty: it does
};

struct NamespaceView {
  int64_t nsid = 0;
  std::string bdev_name;
};

struct ListenerView {
  std::string trtype;
  std::string traddr;
  std::string trsvcid;
};

struct SubsystemView {
  std::string nqn;
  std::vector<NamespaceView> namespaces;
  std::vector<ListenerView> listeners;
  std::vector<std::string> hosts;
  bool allow_any_host = false;
  int64_t epoch = 0;  // that it refuses hosts of lower ones by; 0: none
};

struct ControllerView {
  std::string name;
  std::string state;  // "enabled" when it can do I/O
  std::string traddr;
  std::string trsvcid;
  std::string subnqn;
  std::string hostnqn;  // empty where the data plane does not tell
};

struct RaidLegView {
  std::string name;  // empty: a free place
  bool configured = false;
  std::string state;  // "in_sync" when it holds everything; empty where the data plane does not tell

  bool holds_everything() const { return configured && (state.empty() || state == "in_sync"); }
};

struct RaidView {
  std::string name;
  std::string state;  // online, configuring, offline
  std::vector<RaidLegView> legs;
  std::string process_type;    // "rebuild", or empty
  std::string process_target;  // base bdev being filled
  int64_t process_percent = 0;
  int64_t epoch = 0;          // of its writer; 0: it was given none
  bool is_confirmed = false;  // writes that a failed leg lacks are held until its exclusion is confirmed
  bool is_fenced = false;     // it acknowledges nothing any more
  // I/O waits: for legs that cannot be reached, with what there is about it; or for somebody to say that it may go on
  // although every leg may have lost writes.
  bool is_waiting = false;
  int64_t waiting_since_unix_ms = 0;
  int64_t waiting_limit_s = 0;
  bool has_given_up = false;  // it waited too long: I/O fails
  bool is_stopped = false;
  std::string stop_reason;
  std::vector<std::string> exclusions_wanted;  // names of legs whose exclusion is to be put on record and confirmed

  const RaidLegView* leg(std::string_view bdev_name) const;
};

struct VhostView {
  std::string name;
  std::string socket;
  std::optional<std::string> bdev_name;  // nullopt where the data plane does not tell; empty: it lost its bdev
};

// What a data plane can do besides SPDK's methods.
struct Abilities {
  bool holds_writes = false;  // diskengine_raid_set_epoch, _confirm_exclusion, _fence, _wait_events
  bool assembles = false;     // diskengine_raid_assemble
  bool keeps_epochs = false;  // diskengine_nvmf_subsystem_set_epoch
};

// A storage node's data plane.
struct TargetView {
  Abilities abilities;
  std::vector<BdevView> bdevs;
  std::vector<LvolStoreView> lvol_stores;
  std::vector<SubsystemView> subsystems;
  std::vector<std::string> transports;  // upper case
  std::vector<RaidView> raids;          // found by superblocks that were not meant for this machine

  // By name or alias.
  const BdevView* bdev(std::string_view name) const;
  const LvolStoreView* lvol_store_on(std::string_view base_bdev) const;
  const SubsystemView* subsystem(std::string_view nqn) const;
  bool has_transport(std::string_view trtype) const;
};

// A compute node's data plane.
struct ComputeView {
  Abilities abilities;
  std::vector<BdevView> bdevs;
  std::vector<ControllerView> controllers;
  std::vector<RaidView> raids;
  std::vector<VhostView> vhosts;

  const BdevView* bdev(std::string_view name) const;
  const ControllerView* controller(std::string_view name) const;
  const RaidView* raid(std::string_view name) const;
  const VhostView* vhost(std::string_view name) const;
};

}  // namespace diskengine::control
