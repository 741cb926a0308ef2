// One controller: what a host got by connecting an admin queue. Does the admin and fabrics commands.
//
//   Input object: fabric::TargetCommand of an admin queue. Output object: its answer, data filled in. Completion:
//   execute returns true, or later through Target::answer() (asynchronous events).
//
// Threads: the main reactor. Owned by its subsystem, until the last of its queues is gone.
#pragma once

#include <array>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "base/uuid.h"
#include "fabric/target.h"
#include "format/nvme_fabrics.h"
#include "format/nvme_identify.h"

namespace diskengine::nvmf {

class Queue;
class Subsystem;
class Controller;

// A queue as the main reactor knows it.
struct QueueRecord {
  Queue* queue;
  Reactor* reactor;
  fabric::Address listen_address;
  fabric::Address local_address;
  fabric::Address peer_address;
  fabric::TargetOptions options;
  std::string transport;
  bool closed = false;                     // the connection is over
  std::shared_ptr<Controller> controller;  // once connected
  uint16_t qid = 0;
  uint32_t depth = 0;
};

class Controller {
 public:
  static constexpr uint32_t kAsyncEventsMax = 4;   // requests held (AERL + 1)
  static constexpr uint32_t kEventsQueuedMax = 8;  // waiting for a request; more are merged into what is queued
  static constexpr uint32_t kKeepAliveUnitMs = 100;
  static constexpr uint32_t kKeepAliveGranularity = 10;  // KAS: one second
  static constexpr uint64_t kKeepAliveGraceNs = 1'000'000'000;

  struct Identity {
    uint16_t id;
    std::string host_nqn;
    Uuid host_id;
    uint32_t keep_alive_ms;
  };

  Controller(Subsystem& subsystem, Identity identity, QueueRecord& admin);
  ~Controller();

  Subsystem& subsystem() const noexcept { return subsystem_; }
  uint16_t id() const noexcept { return identity_.id; }
  const std::string& host_nqn() const noexcept { return identity_.host_nqn; }
  const Uuid& host_id() const noexcept { return identity_.host_id; }
  bool is_discovery() const noexcept;
  bool enabled() const noexcept { return (csts_ & spec::kCstsReady) != 0; }
  size_t io_queues() const noexcept { return queues_.empty() ? 0 : queues_.size() - (has_admin_ ? 1 : 0); }
  const std::vector<QueueRecord*>& queues() const noexcept { return queues_; }
  const char* type_name() const noexcept { return is_discovery() ? "discovery" : "io"; }

  // Whether an I/O queue of this id can be added; says otherwise why not.
  spec::Status check_io_queue(uint16_t qid, uint32_t entries, uint16_t* bad_field) const noexcept;
  void add_queue(QueueRecord& queue);
  // The connection is over: answers what is held; the admin queue takes all others with it.
  void queue_closed(QueueRecord& queue);
  // Nothing of the queue is left. True if it was the last.
  bool queue_gone(QueueRecord& queue);
  // Ends all connections.
  void disconnect(const char* why);

  // Does an admin or fabrics command that came by `queue`. False: it is answered later.
  bool execute(QueueRecord& queue, fabric::TargetCommand& command);

  void namespace_changed(uint32_t nsid);
  void discovery_changed();

 private:
  struct Event {
    spec::AsyncEventType type;
    uint8_t information;
    uint8_t log_page;
    bool operator==(const Event&) const = default;
  };

  void property_get(fabric::TargetCommand& command);
  void property_set(fabric::TargetCommand& command);
  spec::Status set_configuration(uint32_t value);
  void execute_admin(QueueRecord& queue, fabric::TargetCommand& command);
  bool hold_event_request(fabric::TargetCommand& command);
  void abort(fabric::TargetCommand& command);
  void raise(const Event& event);
  void send_events();
  void event_read(uint8_t log_page);
  void restart_keep_alive();

  // identify.cpp
  void identify(QueueRecord& queue, fabric::TargetCommand& command);
  spec::IdentifyController identify_controller(const QueueRecord& queue) const;
  // features.cpp
  void set_features(QueueRecord& queue, fabric::TargetCommand& command);
  void get_features(QueueRecord& queue, fabric::TargetCommand& command);
  // log_pages.cpp
  void get_log_page(QueueRecord& queue, fabric::TargetCommand& command);
  std::vector<uint8_t> changed_namespaces();

  Subsystem& subsystem_;
  const Identity identity_;
  const spec::Cap cap_;
  uint32_t cc_ = 0;
  uint32_t csts_ = 0;
  bool has_admin_ = true;
  std::vector<QueueRecord*> queues_;
  Timer keep_alive_;
  uint32_t keep_alive_ms_;

  uint32_t event_mask_ = 0;  // what the host wants to hear of
  std::vector<fabric::TargetCommand*> event_requests_;
  std::vector<Event> events_;            // waiting for a request
  std::vector<uint8_t> pages_reported_;  // told, and not read since: no new event until then
  std::vector<uint32_t> changed_namespaces_;
  bool too_many_changed_ = false;

  uint32_t temperature_threshold_k_[2] = {0, 0};  // over, under; kept for the host only
  uint32_t error_recovery_ = 0;
  uint32_t arbitration_ = 0;
  uint32_t write_atomicity_ = 0;
};

// Copies `bytes` from `offset` on to the command's data, and zeroes the rest of it.
void put_data(fabric::TargetCommand& command, const void* bytes, size_t size, size_t offset = 0) noexcept;

}  // namespace diskengine::nvmf
