// One node's data plane as the loops drive it: SPDK's JSON-RPC methods, typed. Works on diskengine-io and on an
// unmodified spdk_tgt. Blocking; one thread at a time; owns its connection.
//
// Observers return what is there now. Changers ask for one thing and return the data plane's own error, with the method
// and the socket in the message.
#pragma once

#include <boost/json/fwd.hpp>
#include <cstdint>
#include <string>
#include <vector>

#include "base/result.h"
#include "client/jsonrpc.h"
#include "control/dataplane/views.h"

namespace diskengine::control {

struct FileBdev {
  std::string filename;
  std::string name;
  int64_t block_size = 512;
};

struct LvolStoreSpec {
  std::string bdev_name;
  std::string name;
  int64_t cluster_bytes = 0;
};

struct LvolSpec {
  std::string store;
  std::string name;
  int64_t size_bytes = 0;  // whole MiB
};

struct NamespaceSpec {
  std::string nqn;
  std::string bdev_name;
  std::string uuid;
};

struct ListenerSpec {
  std::string nqn;
  std::string address;
  int64_t port = 0;
};

struct ControllerSpec {
  std::string name;
  std::string address;
  int64_t port = 0;
  std::string subnqn;
  std::string hostnqn;
  int64_t ctrlr_loss_timeout_s = 0;
  int64_t reconnect_delay_s = 0;
  int64_t fast_io_fail_timeout_s = 0;
};

struct StandInSpec {
  std::string name;
  int64_t num_blocks = 0;
  int64_t block_size = 512;
};

struct AssemblySpec {
  std::string name;
  std::string uuid;  // empty: that of the superblocks
  int64_t epoch = 0;
  std::vector<std::string> legs;
  int64_t places = 0;
};

struct ExclusionWanted {
  std::string raid;
  int64_t epoch = 0;
  std::string leg;
};

// What a wait for a data plane's RAID events brought.
struct RaidEvents {
  std::string instance;  // of the process; another one: ids began anew
  int64_t last_id = 0;   // to wait after
  bool is_lost = false;  // some are gone
  std::vector<ExclusionWanted> exclusions;
};

class DataPlane {
 public:
  explicit DataPlane(client::JsonRpcClient rpc);

  // True if `error` is what the last call that failed returned: the data plane's trouble, not the database's.
  bool failed_with(const Error& error) const { return !last_failure_.empty() && last_failure_ == error.message(); }

  // --- observe
  Result<std::string> version();
  Result<Abilities> abilities();
  // None where the data plane has no mirrors.
  Result<std::vector<RaidView>> raids();
  Result<TargetView> observe_target();
  Result<ComputeView> observe_compute();

  // --- storage node
  // By io_uring, or by bdev_aio_create where the data plane has no bdev_uring_create.
  Result<void> create_file_bdev(const FileBdev& bdev);
  // Takes a disk on the PCI bus; its first namespace becomes the bdev `<name>n1`. `address` as in is_pci_disk().
  Result<void> attach_pci_disk(const std::string& name, const std::string& address);
  // What is found on a bdev: names of partition tables, file systems and the like. A data plane that cannot tell finds
  // nothing.
  Result<std::vector<std::string>> content_of(const std::string& bdev);
  Result<void> create_lvol_store(const LvolStoreSpec& spec);
  // Thin. Returns the UUID, which names its bdev.
  Result<std::string> create_lvol(const LvolSpec& spec);
  // By bdev name or alias. The data is gone.
  Result<void> delete_lvol(const std::string& name);
  Result<void> create_tcp_transport();
  // Admits no host until told to.
  Result<void> create_subsystem(const std::string& nqn, const std::string& serial_number);
  Result<void> delete_subsystem(const std::string& nqn);
  Result<void> add_namespace(const NamespaceSpec& spec);
  Result<void> remove_namespace(const std::string& nqn, int64_t nsid);
  Result<void> add_listener(const ListenerSpec& spec);
  Result<void> disallow_any_host(const std::string& nqn);
  // Hosts of another epoch are refused from then on, and disconnected. `conflict`: it has a later one.
  Result<void> set_subsystem_epoch(const std::string& nqn, int64_t epoch);
  Result<void> admit_host(const std::string& nqn, const std::string& host);
  // Returns when nothing of the host can reach the namespace any more. A time-out is an error: the host is off the list
  // then and may still have I/O under way, which connected_hosts() shows.
  Result<void> remove_host(const std::string& nqn, const std::string& host, int64_t timeout_ms);
  // The host NQNs that have controllers on the subsystem; one that is being disconnected is among them until its last
  // command has come back.
  Result<std::vector<std::string>> connected_hosts(const std::string& nqn);

  // --- compute node
  // For connections to come; refused by SPDK while there are any.
  Result<void> set_keep_alive(int64_t timeout_ms);
  Result<void> attach_controller(const ControllerSpec& spec);
  Result<void> detach_controller(const std::string& name);
  // The legs are blank, or hold this very mirror. They serve at once, the other places stay free.
  Result<void> assemble_raid(const AssemblySpec& spec);
  Result<void> create_raid1(const std::string& name, const std::vector<std::string>& legs);
  // From then on an exclusion counts, and writes that a failed leg lacks are acknowledged, only after
  // confirm_exclusion() for that leg. `conflict`: its epoch is a later one, or it was fenced.
  Result<void> set_raid_epoch(const std::string& raid, int64_t epoch);
  // The exclusion of `leg` is on record. `no_device`: it has left already. `conflict`: the mirror has another epoch.
  Result<void> confirm_exclusion(const std::string& raid, int64_t epoch, const std::string& leg);
  // When it returns the mirror acknowledges nothing any more. `later_epoch` is later than the mirror's.
  Result<void> fence_raid(const std::string& raid, int64_t later_epoch);
  // Returns at the first event with an id above `after`, or after `timeout_ms` without one.
  Result<RaidEvents> wait_raid_events(int64_t after, int64_t timeout_ms);
  Result<void> delete_raid(const std::string& name);
  Result<void> add_leg(const std::string& raid, const std::string& bdev);
  Result<void> remove_leg(const std::string& bdev);
  // A bdev that holds a place in a mirror for a moment: null where the data plane has it, else RAM.
  Result<void> create_stand_in(const StandInSpec& spec);
  Result<void> delete_stand_in(const std::string& name);
  Result<void> create_vhost(const std::string& name, const std::string& bdev);
  Result<void> delete_vhost(const std::string& name);

 private:
  Result<boost::json::value> call(const char* method, const boost::json::value& params);
  Result<void> change(const char* method, const boost::json::object& params);
  Result<std::vector<BdevView>> bdevs();

  client::JsonRpcClient rpc_;
  std::string last_failure_;
};

}  // namespace diskengine::control
