// One association of this host with one controller: its admin queue, what Identify said, and the namespaces it shows.
// It is made anew for every (re)connect.
//
//   Input object: ControllerOptions. Output object: admin commands. Completion: the awaited Result.
//
// Threads: the main reactor. Owned by a Controller or a Discovery, which calls close() before it destroys it.
#pragma once

#include <functional>
#include <memory>
#include <vector>

#include "format/nvme_fabrics.h"
#include "format/nvme_identify.h"
#include "nvme/admin_queue.h"
#include "nvme/options.h"
#include "runtime/task.h"

namespace diskengine::nvme {

// A namespace as its controller describes it.
struct NamespaceInfo {
  uint32_t nsid = 0;
  uint32_t block_size = 0;
  uint64_t size_blocks = 0;
  Uuid uuid;  // nil: it has none; made of the NGUID where there is no UUID
  bool read_only = false;
  bool shared = false;
  bool deallocated_reads_zero = false;
  uint32_t optimal_blocks = 0;
  Uuid cache;  // names what holds its unflushed writes (Device::cache_instance); nil: it does not say
};

// What a queue needs to know of its controller.
struct ControllerLimits {
  uint16_t controller_id = 0;
  uint32_t queue_entries_max = 0;
  uint32_t transfer_bytes_max = 0;
  uint32_t capsule_data_bytes = 0;
  uint16_t io_queues = 0;  // granted
  bool write_cache = false;
  bool can_compare = false;
  bool can_deallocate = false;
  bool can_write_zeroes = false;
  uint32_t sgls = 0;              // what Identify says of SGLs
  bool shadow_doorbells = false;  // offered
};

class Association {
 public:
  // Most namespaces of one controller that become devices.
  static constexpr size_t kNamespacesMax = 1024;
  static constexpr uint32_t kTransferBytesMax = 1024 * 1024;
  static constexpr uint32_t kDiscoveryEntriesMax = 1024;
  static constexpr size_t kErrorEntriesMax = 64;

  Association(Reactor& reactor, fabric::HostTransport& transport, const HostOptions& host,
              const ControllerOptions& options, std::function<void(const Error&)> lost);

  // Connects, enables the controller and identifies it; then keeps it alive.
  Task<Result<void>> establish();
  // Asks for I/O queues and for events; `on_event` gets the cdw0 of each.
  Task<Result<void>> prepare_io(std::function<void(uint32_t cdw0)> on_event);
  Task<Result<void>> watch_discovery(std::function<void(uint32_t cdw0)> on_event);
  Task<Result<std::vector<NamespaceInfo>>> read_namespaces();
  Task<Result<std::vector<spec::DiscoveryEntry>>> read_discovery_log();
  Task<Result<spec::SmartLog>> read_health();
  // The entries of the error log that are in use, newest first; at most kErrorEntriesMax.
  Task<Result<std::vector<spec::ErrorLogEntry>>> read_errors();
  // Reads the changed-namespace list, which re-arms that event.
  Task<Result<void>> acknowledge_namespace_change();
  // Asks for one command of an I/O queue to be aborted; true if the controller says it was.
  Task<Result<bool>> abort(uint16_t queue_id, uint16_t cid);
  // Tells the controller to shut down, as far as it still answers, and closes.
  Task<void> shut_down();
  // Closes at once.
  Task<void> close();
  // Ends at once what any of the other calls waits for; close() is still to follow.
  void cut() noexcept { admin_.cut(); }

  const spec::IdentifyController& identity() const noexcept { return *identity_; }
  uint32_t version() const noexcept { return version_; }
  const ControllerLimits& limits() const noexcept { return limits_; }
  fabric::HostQueueStats stats() const noexcept { return admin_.stats(); }

 private:
  Task<Result<void>> connect_admin();
  Task<Result<uint64_t>> get_property(uint32_t offset, bool wide);
  Task<Result<void>> set_property(uint32_t offset, uint32_t value);
  Task<Result<void>> enable();
  Task<Result<void>> wait_ready(bool ready, uint32_t limit_ms);
  Task<Result<void>> identify(uint8_t cns, uint32_t nsid, std::span<uint8_t> data);
  Task<Result<void>> read_identity();
  Task<Result<void>> read_write_cache();
  Task<Result<void>> set_feature(uint8_t feature, uint32_t value, uint32_t* result);
  Task<Result<void>> read_log(uint8_t page, uint64_t offset, std::span<uint8_t> data);
  Task<Result<bool>> read_namespace(uint32_t nsid, NamespaceInfo* info);
  Task<Result<void>> read_descriptors(uint32_t nsid, NamespaceInfo* info);
  uint64_t limit_us() const noexcept;

  Reactor& reactor_;
  fabric::HostTransport& transport_;
  const HostOptions host_;
  const ControllerOptions options_;
  AdminQueue admin_;
  std::unique_ptr<spec::IdentifyController> identity_;
  spec::Cap cap_;
  uint32_t version_ = 0;
  ControllerLimits limits_;
};

// The data of a fabrics Connect command.
void fill_connect_data(spec::FabricsConnectData* data, const ControllerOptions& options, uint16_t controller_id);
// Text of a fixed-size field, without what pads it.
std::string text_of(const char* field, size_t bytes);

}  // namespace diskengine::nvme
