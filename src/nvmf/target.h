// The NVMe-oF target of this process: transports, listeners, subsystems, and the way of a connection from its first
// command to a controller. The manager of this layer: everything is created, deleted and listed here.
//
//   Input object: a fabric::TargetQueue from a transport. Output object: a connected Queue. Completion: the answer to
//   Connect.
//
// Threads: the main reactor, but for on_connected(), which transports call on the queue's reactor.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <unordered_map>
#include <vector>

#include "block/registry.h"
#include "fabric/target.h"
#include "nvmf/queue.h"
#include "nvmf/subsystem.h"
#include "runtime/dma_regions.h"
#include "runtime/gate.h"

namespace diskengine::nvmf {

inline constexpr char kFirmwareRevision[] = "0.1";

// Errc::invalid_argument unless it looks like an NQN: "nqn.", a date, a reverse domain name, at most 223 bytes.
Result<void> check_nqn(const std::string& nqn);

struct Referral {
  fabric::Address address;
  std::string subsystem_nqn;
  bool secure_channel = false;
  bool operator==(const Referral&) const = default;
};

class Target final : public fabric::TargetAcceptor {
 public:
  static constexpr size_t kSubsystemsMaxDefault = 1024;
  static constexpr size_t kReferralsMax = 256;

  // What went wrong, counted since the start.
  struct Counters {
    uint64_t connects_refused = 0;
    uint64_t keep_alive_timeouts = 0;
  };

  // Figures of one reactor, for nvmf_get_stats.
  struct GroupStats {
    std::string name;
    uint32_t admin_queues, io_queues, current_admin_queues, current_io_queues;
    uint64_t pending_io, completed_io, failed_io;
    std::vector<std::pair<std::string, fabric::TargetTransportStats>> transports;
  };

  // `reactors` in order, the main one first. `instance` names this run of the process. `dma_regions` outlive the
  // target.
  Target(std::vector<Reactor*> reactors, DeviceRegistry& devices, const Uuid& instance,
         DmaRegions* dma_regions = nullptr);
  ~Target();  // after stop()

  Reactor& main_reactor() const noexcept { return *reactors_.front(); }
  const std::vector<Reactor*>& reactors() const noexcept { return reactors_; }
  DeviceRegistry& devices() const noexcept { return devices_; }
  // Where its transports list their buffers; null: nowhere.
  DmaRegions* dma_regions() const noexcept { return dma_regions_; }
  Counters& counters() noexcept { return counters_; }
  Gate& tasks() noexcept { return tasks_; }
  // Tells a host that it talks to the same run of the process as before: what was cached there may be lost otherwise.
  const Uuid& instance() const noexcept { return instance_; }

  // Errc::already_exists.
  Result<void> add_transport(std::unique_ptr<fabric::TargetTransport> transport);
  const std::vector<std::unique_ptr<fabric::TargetTransport>>& transports() const noexcept { return transports_; }
  fabric::TargetTransport* find_transport(const std::string& type) const noexcept;

  Result<Subsystem*> create_subsystem(SubsystemOptions options);
  Task<Result<void>> delete_subsystem(std::string nqn);
  Subsystem* find_subsystem(const std::string& nqn) const noexcept;
  // In order of creation, the discovery subsystem first.
  std::vector<Subsystem*> subsystems() const;
  Result<void> set_max_subsystems(uint32_t most);

  // Errc::already_exists if the subsystem listens there already.
  Result<void> add_listener(Subsystem& subsystem, const fabric::Address& address);
  Result<void> remove_listener(Subsystem& subsystem, const fabric::Address& address);

  Result<void> add_referral(const Referral& referral);
  Result<void> remove_referral(const Referral& referral);
  const std::vector<Referral>& referrals() const noexcept { return referrals_; }
  void discovery_changed();
  // The discovery log as this host sees it by this queue.
  std::vector<uint8_t> discovery_log(const std::string& host_nqn, const QueueRecord& queue) const;

  Task<std::vector<GroupStats>> collect_stats();
  // The RPC calls that make all this again, each {"method":…,"params":…}.
  std::vector<std::string> config_calls() const;

  // Ends everything: no listener, connection or subsystem is left at its end.
  Task<void> stop();

  // fabric::TargetAcceptor
  fabric::TargetQueueHandler* on_connected(fabric::TargetQueue& queue) override;

  // From queues, posted.
  void on_queue_opened(Queue& queue, QueueRecord record);
  void on_command(Queue& queue, fabric::TargetCommand& command);
  void on_queue_closed(Queue& queue);
  void on_queue_gone(Queue* queue);
  // To queues.
  void answer(QueueRecord& record, fabric::TargetCommand& command);
  void disconnect(QueueRecord& record, const char* why);
  // Records of connected queues, for the RPC.
  const std::unordered_map<Queue*, std::unique_ptr<QueueRecord>>& queues() const noexcept { return queues_; }

 private:
  struct ListenerUse;
  struct Connect;
  // connect.cpp
  void connect(QueueRecord& record, fabric::TargetCommand& command);
  void refuse(QueueRecord& record, fabric::TargetCommand& command, spec::Status status, uint32_t result,
              const std::string& why);
  bool read_connect(QueueRecord& record, fabric::TargetCommand& command, Connect* connect);
  void connect_admin(QueueRecord& record, fabric::TargetCommand& command, const Connect& connect);
  void connect_io(QueueRecord& record, fabric::TargetCommand& command, const Connect& connect);
  void grant(QueueRecord& record, fabric::TargetCommand& command, const Connect& connect,
             std::shared_ptr<Controller> controller);

  std::vector<Reactor*> reactors_;
  DeviceRegistry& devices_;
  DmaRegions* const dma_regions_;
  const Uuid instance_;
  Counters counters_;
  Gate tasks_;
  bool stopping_ = false;
  std::vector<std::unique_ptr<PollGroup>> groups_;  // each belongs to its reactor
  std::vector<std::unique_ptr<fabric::TargetTransport>> transports_;
  std::vector<std::unique_ptr<Subsystem>> subsystems_;
  size_t subsystems_max_ = kSubsystemsMaxDefault;
  std::vector<std::unique_ptr<ListenerUse>> listeners_;
  std::vector<Referral> referrals_;
  uint64_t discovery_generation_ = 0;
  std::unordered_map<Queue*, std::unique_ptr<QueueRecord>> queues_;
  std::function<void()> on_no_queues_;
};

}  // namespace diskengine::nvmf
