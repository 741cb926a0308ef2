// One path to an NVMe controller, kept up: connects, enables, reads its namespaces, opens an I/O queue for every
// channel, and when any of its connections is lost closes all of them and begins again, as long as its LossPolicy
// allows.
//
//   Input object: ControllerOptions, QueueLinks of channels. Output: QueueParams to the channels, NamespaceInfo to its
//   owner. Completion: ControllerEvents.
//
// Threads: the main reactor, except the functions for channels, which say so. Held by shared_ptr: its owner, the
// devices over it and messages under way. The owner calls stop() and waits for it before it lets go.
#pragma once

#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "nvme/association.h"
#include "nvme/link.h"
#include "runtime/gate.h"
#include "runtime/task.h"

namespace diskengine::nvme {

class Controller;

// Told by a controller, on the main reactor.
class ControllerEvents {
 public:
  // It is connected and shows these namespaces: after every (re)connect and whenever they changed.
  virtual void on_namespaces(Controller& controller, const std::vector<NamespaceInfo>& namespaces) = 0;
  // It is connected again and shows these namespaces. What they had completed and not flushed may be gone where they do
  // not say the same of their cache as before; `unknown_lost`: also where they say nothing of it. Its I/O begins when
  // nobody has `hold` any more.
  virtual void on_reconnected(Controller& controller, const std::vector<NamespaceInfo>& namespaces, bool unknown_lost,
                              const std::shared_ptr<void>& hold) = 0;
  // It says of itself that its disk is not well: the SMART log that came with it.
  virtual void on_health(Controller& controller, const spec::SmartLog& log) = 0;
  // Its LossPolicy says to give it up: stop it and remove its devices.
  virtual void on_given_up(Controller& controller) = 0;

 protected:
  ~ControllerEvents() = default;
};

class Controller final : public std::enable_shared_from_this<Controller> {
 public:
  enum class State : uint8_t { connecting, enabled, resetting, waiting, failed, stopping, stopped };

  Controller(Reactor& main, fabric::HostTransport& transport, const HostOptions& host, ControllerOptions options,
             ControllerEvents& events);
  ~Controller();

  // Connects for the first time; on error the controller is stopped. On success it looks after itself from then on.
  Task<Result<void>> start();
  // Closes all connections and connects once more.
  Task<Result<void>> reset();
  // Shuts the controller down, closes everything, fails what is held. Returns when nothing of it is left on any reactor
  // but open channels without a connection.
  Task<void> stop();
  // The process ends: without a connection there is nothing to wait for, and what a connected controller does not
  // answer within kEndLimitNs fails. Say it again for what is sent later.
  void end_waits();
  // The SMART log, while it is enabled.
  Task<Result<spec::SmartLog>> read_health();
  // How hot its disk was when that was last read, in kelvin; 0: it is not known. Only of disks of this machine: targets
  // keep it to themselves.
  uint16_t temperature_k() const noexcept { return temperature_k_; }
  // Has it read anew, unless that is under way.
  void read_temperature();
  // The entries of the error log that are in use, newest first.
  Task<Result<std::vector<spec::ErrorLogEntry>>> read_errors();

  const ControllerOptions& options() const noexcept { return options_; }
  const HostOptions& host_options() const noexcept { return host_; }
  State state() const noexcept { return state_; }
  // In SPDK's words: "enabled", "resetting", "reconnect_is_delayed", "failed", "deleting".
  std::string_view state_name() const noexcept;
  // Why it is not enabled.
  const std::string& reason() const noexcept { return reason_; }
  // What it said of itself when it was last connected.
  const spec::IdentifyController& identity() const noexcept { return identity_; }
  uint32_t version() const noexcept { return version_; }
  const ControllerLimits& limits() const noexcept { return limits_; }
  // The association, while it is enabled.
  Association* association() noexcept { return state_ == State::enabled ? association_.get() : nullptr; }
  const std::vector<std::shared_ptr<QueueLink>>& links() const noexcept { return links_; }

  // For channels, on any reactor.
  void open_link(std::shared_ptr<QueueLink> link);
  void close_link(std::shared_ptr<QueueLink> link);
  void link_connected(std::shared_ptr<QueueLink> link, uint64_t epoch);
  void link_lost(std::shared_ptr<QueueLink> link, uint64_t epoch, Error reason);
  void abort_command(uint64_t epoch, uint16_t queue_id, uint16_t cid);

 private:
  // What ends a wait of supervise().
  enum class Wake : uint8_t { timer, lost, reset, stop };

  Task<void> supervise();
  Task<bool> recover();
  Task<Result<void>> bring_up();
  Task<void> name_local_cache(std::vector<NamespaceInfo>& namespaces);
  Task<void> compare_instance(const std::vector<NamespaceInfo>& namespaces);
  Task<void> take_down(bool orderly);
  Task<Wake> wait(uint64_t limit_ns);  // 0: without limit
  void wake(Wake why);
  void lose(const Error& reason);
  void on_event(uint32_t cdw0);
  static constexpr uint64_t kEndLimitNs = 1'000'000'000;
  static constexpr uint64_t kEventPauseNs = 200'000'000;
  Task<void> report_health();
  Task<void> report_error();
  Task<void> refresh_temperature();
  Task<void> rescan();
  Task<void> send_abort(uint16_t queue_id, uint16_t cid);
  void connect_link(const std::shared_ptr<QueueLink>& link);
  void fail_links(bool failing);
  uint16_t free_queue_id() const;
  bool given_up() const noexcept;

  Reactor& main_;
  fabric::HostTransport& transport_;
  const HostOptions host_;
  const ControllerOptions options_;
  ControllerEvents& events_;
  State state_ = State::connecting;
  std::string reason_;
  uint64_t epoch_ = 0;
  std::unique_ptr<Association> association_;
  spec::IdentifyController identity_;
  uint32_t version_ = 0;
  ControllerLimits limits_;
  bool identified_ = false;  // at least once
  std::vector<std::shared_ptr<QueueLink>> links_;

  bool supervised_ = false;
  bool stop_wanted_ = false;
  bool ending_ = false;  // the process is: no more reconnecting
  bool lost_ = false;    // since the last bring_up()
  bool gone_ = false;    // for good
  bool failing_ = false;
  bool reset_wanted_ = false;
  bool rescan_again_ = false;
  bool reading_health_ = false;
  bool reading_errors_ = false;
  bool reading_temperature_ = false;
  uint16_t temperature_k_ = 0;
  uint8_t told_warning_ = 0;  // SmartLog::critical_warning
  bool rescanning_ = false;
  uint64_t lost_ns_ = 0;
  OneShot<Wake>* waiter_ = nullptr;
  Timer fast_fail_timer_;
  std::vector<OneShot<bool>*> reset_waiters_;
  std::vector<OneShot<bool>*> stop_waiters_;
  Gate gate_;  // rescans and aborts under way
};

}  // namespace diskengine::nvme
